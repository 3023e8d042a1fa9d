"""The lease group of the attack suite, each attack by itself, and the controls that show it bites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sealvm.lab.attacks import leases
from sealvm.lab.attacks.leased_twin import assert_state, honest_lease, twin_session, zgen
from sealvm.lab.attacks.leases import ATTACKS, SHORT_SECONDS
from sealvm.lab.attacks.view import Attack, AttackerView, attempt
from sealvm.lab.attacks.weaker_leases import weaker_designs_are_broken
from sealvm.lab.swtpm import make_ca
from sealvm.tpm.connection import Tpm, open_tpm
from tests.tpm.rig import Owner, make_host, started_tpm, view_of

pytestmark = pytest.mark.tpm


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackerView]:
    base = tmp_path_factory.mktemp("leases")
    with started_tpm(base / "host", make_ca(base / "ca")) as swtpm:
        host = make_host(swtpm, Owner())
        yield view_of(host, {**host.values, 9: b"g" * 32})


@pytest.fixture
def tpm(view: AttackerView) -> Iterator[Tpm]:
    with open_tpm(view.tcti, view.lock) as opened:
        yield opened
        assert opened.handles(0x80000000) == opened.handles(0x02000000) == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_refused_by_the_tpm(tpm: Tpm, view: AttackerView, attack: Attack) -> None:
    result = attempt(attack, tpm, view)
    assert result.refused
    assert result.by.startswith(f"{attack.command}: TPM_RC_")


def test_honest_use_works(tpm: Tpm, view: AttackerView) -> None:
    honest_lease(tpm, view)


def test_the_same_attacks_break_weaker_designs(tpm: Tpm, view: AttackerView) -> None:
    weaker_designs_are_broken(tpm, view)


@pytest.mark.parametrize("name", ["lease-over", "lease-hoarded-session"])
def test_what_is_refused_after_the_end_works_before(
    tpm: Tpm, view: AttackerView, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The control: without the wait nothing refuses it."""
    monkeypatch.setattr(leases, "_LAPSE_SECONDS", SHORT_SECONDS / 100)
    attack = next(attack for attack in ATTACKS if attack.name == name)
    assert not attempt(attack, tpm, view).refused


def test_a_stolen_lease_key_does_remove_the_term(tpm: Tpm, view: AttackerView) -> None:
    """What the specification admits: in an approved state, whoever has the lease key needs no lease."""
    with twin_session(tpm, view) as (twin, handle, session):
        leases.endless(tpm, twin, session)
        assert_state(tpm, twin, session)
        zgen(tpm, view, handle, session)
