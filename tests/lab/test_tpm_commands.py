"""docs/tpm-commands.md against a TPM: no command that it offers is forgotten, and every attack named there exists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealvm.lab.attacks import stranger, suite
from sealvm.lab.attacks.destructive import DESTRUCTIVE_ATTACKS
from sealvm.lab.attacks.power import POWER_ATTACKS
from sealvm.tpm.connection import open_tpm
from sealvm.tpm.structures import TPM2_CAP, TPM2_CC
from tests.tpm.rig import started_tpm

pytestmark = pytest.mark.tpm

PAGE = Path(__file__).parents[2] / "docs" / "tpm-commands.md"
BORROWED = {"session-of-another-host", "ticket-of-another-host"}
"""Their names are made when they run: tests/lab/test_attacks.py checks them."""
COMMAND_INDEX = 0xFFFF  # of TPMA_CC: part 2, section 8.9


@dataclass(frozen=True)
class Row:
    code: int
    command: str
    attacks: frozenset[str]
    reason: str


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text().splitlines():
        match = re.fullmatch(r"\| ([0-9A-F]{4}) \| (\w+) \|(.*)\|(.*)\|", line)
        if match:
            attacks = frozenset(re.findall(r"`([^`]+)`", match[3]))
            found.append(Row(int(match[1], 16), match[2], attacks, match[4].strip()))
    return found


def known_attacks() -> set[str]:
    made = (*suite.ATTACKS, *stranger.ATTACKS, *POWER_ATTACKS, *DESTRUCTIVE_ATTACKS)
    return {attack.name for attack in made} | BORROWED


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> set[int]:
    with started_tpm(tmp_path_factory.mktemp("commands") / "tpm") as swtpm, open_tpm(swtpm.tcti, swtpm.lock) as tpm:
        first = int(TPM2_CC.FIRST)
        _more, listed = tpm.run("get_capability", capability=TPM2_CAP.COMMANDS, prop=first, property_count=256)
        return {int(attributes) & COMMAND_INDEX for attributes in listed.data.command}


def test_every_command_of_the_tpm_is_in_the_table(offered: set[int]) -> None:
    assert {hex(code) for code in offered} == {hex(row.code) for row in rows()}
    assert len(offered) == len(rows()) >= 100


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.command)
def test_command_is_attacked_or_explained(row: Row) -> None:
    assert int(getattr(TPM2_CC, row.command)) == row.code
    assert row.attacks <= known_attacks(), row.attacks - known_attacks()
    assert row.attacks or len(row.reason) > 20


def test_every_attack_is_in_the_table() -> None:
    """But some of those on leases, which are about what is signed rather than about a command."""
    named = frozenset().union(*(row.attacks for row in rows()))
    assert {name for name in known_attacks() - named if not name.startswith("lease-")} == set()


def test_the_page_says_how_many_commands_there_are(offered: set[int]) -> None:
    assert f"all {len(offered)} commands" in " ".join(PAGE.read_text().split())
