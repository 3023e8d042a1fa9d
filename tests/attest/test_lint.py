"""Each warning once where it belongs, with its line, and not where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealvm.attest.lint import lint
from sealvm.errors import MalformedError

ROOT = Path(__file__).parents[2]
DIGEST = "ab" * 32
QUIET = f"""name: quiet
pcrs: [0, 2, 4, 7, 9]
requirements:
  - name: programs
    says: known programs
    fact: bootapps
    in: [{DIGEST}]
  - name: options
    says: known options
    fact: kernel.cmdline
    equals: ro roothash={DIGEST}
"""


def rules(text: str) -> set[tuple[int, str]]:
    return {(warning.line, warning.rule) for warning in lint(text, "p.yaml")}


def with_options(value: str) -> str:
    return QUIET.replace(f"equals: ro roothash={DIGEST}", value)


def test_a_profile_that_binds_everything_is_quiet() -> None:
    assert rules(QUIET) == set()


WARNED = {
    "nothing binds the root": (with_options("equals: ro"), {(11, "root-not-bound")}),
    "a hash that is a pattern": (
        with_options('matches: "ro roothash=*"'),
        {(11, "root-not-bound"), (11, "open-options")},
    ),
    "one of two lines binds it": (with_options(f"in: ['ro roothash={DIGEST}', ro]"), {(11, "root-not-bound")}),
    "root by UUID": (with_options(f"equals: root=UUID=1234-5678 roothash={DIGEST}"), {(11, "one-host")}),
    "root by partition": (with_options(f"equals: root=PARTUUID=12345678-01 roothash={DIGEST}"), {(11, "one-host")}),
    "root by id": (with_options(f"equals: root=/dev/disk/by-id/ata-X roothash={DIGEST}"), {(11, "one-host")}),
    "LUKS by UUID": (
        with_options(f"equals: rd.luks.uuid=0f0e0d0c-0b0a-4000-8000-000000000001 roothash={DIGEST}"),
        {(11, "one-host")},
    ),
    "a host's name": (with_options(f"equals: systemd.hostname=h1 roothash={DIGEST}"), {(11, "one-host")}),
    "a host's address": (with_options(f"equals: 'ip=10.0.0.7::: roothash={DIGEST}'"), {(11, "one-host")}),
    "PCR 1": (QUIET.replace("[0, 2", "[0, 1, 2"), {(2, "one-host")}),
    "PCR 5": (QUIET.replace("4, 7", "4, 5, 7"), {(2, "one-host")}),
    "PCR 10": (QUIET.replace("9]", "9, 10]"), {(2, "moves")}),
    "open options": (with_options(f"contains: roothash={DIGEST}"), {(11, "open-options")}),
    "kernel without bootapps": (QUIET.replace("bootapps", "kernel.digest"), {(6, "kernel-without-bootapps")}),
    "which kernel": (QUIET.replace("bootapps", "firmware.digests"), {(10, "kernel-not-asked")}),
    "never met": (QUIET.replace(f"in: [{DIGEST}]", f"contains: {DIGEST}"), {(7, "never-met")}),
    "lab": (QUIET.replace("pcrs:", "trust: [hardware, lab]\npcrs:"), {(2, "weak-trust")}),
    "virtual": (QUIET.replace("pcrs:", "trust: [virtual]\npcrs:"), {(2, "weak-trust")}),
}


@pytest.mark.parametrize(("text", "expected"), WARNED.values(), ids=WARNED.keys())
def test_a_warning_names_its_line_and_rule(text: str, expected: set[tuple[int, str]]) -> None:
    assert rules(text) == expected


def test_a_selection_that_binds_neither_initrd_nor_options() -> None:
    text = f"name: p\npcrs: [0, 2, 4, 7]\nrequirements:\n  - {{name: k, says: k, fact: bootapps, in: [{DIGEST}]}}\n"
    assert rules(text) == {(2, "boot-not-bound"), (3, "root-not-bound")}
    assert rules(text.replace("7]", "7, 9]")) == {(3, "options-not-asked"), (3, "root-not-bound")}


def test_known_files_or_grubs_options_bind_the_root_too() -> None:
    ima = QUIET.replace("9]", "9]\nlease: 1h") + f"  - {{name: f, says: files, fact: ima.files, in: [{DIGEST}]}}\n"
    assert rules(ima.replace(f" roothash={DIGEST}", "")) == set()
    grub = QUIET.replace("9]", "8, 9]").replace("kernel.cmdline", "grub.commands")
    assert rules(grub.replace("equals: ro", "equals: [boot, ro").replace(f"={DIGEST}", f"={DIGEST}]")) == set()


def test_signed_programs_are_known_ones() -> None:
    signed = QUIET.replace("fact: bootapps", "fact: secureboot.authorities")
    assert rules(signed) == {(10, "kernel-not-asked")}
    on = signed + "  - {name: on, says: on, fact: secureboot.enabled, equals: true}\n"
    assert rules(on) == set()


def test_every_rule_is_described() -> None:
    text = (ROOT / "docs/profiles.md").read_text()
    for _, found in WARNED.values():
        for _, rule in found:
            assert f"| `{rule}`" in text


def test_a_profile_that_does_not_load_is_malformed() -> None:
    with pytest.raises(MalformedError, match=r"p\.yaml, line 2"):
        lint(QUIET.replace("[0, 2, 4, 7, 9]", "[0]"), "p.yaml")


def test_a_warning_is_one_line_with_a_hint() -> None:
    (warning,) = lint(WARNED["PCR 5"][0], "p.yaml")
    assert warning.text("p.yaml").startswith("p.yaml, line 2: PCR 5 holds the disk's partition table")
    assert warning.hint
