"""`profile lint` and `profile predict`, which need files and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sealvm.attest.artefacts import StubKernel, UnifiedKernel
from sealvm.attest.predict import predict
from sealvm.attest.saved import load_saved_state
from sealvm.cli.exit_codes import exit_code_of
from sealvm.cli.profile import profile
from sealvm.errors import SealvmError
from tests.attest.pe import kernel, uki
from tests.attest.test_lint import QUIET
from tests.attest.test_saved import saved

NOISY = QUIET.replace("pcrs:", "trust: [lab]\npcrs:")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(profile, [str(argument) for argument in arguments])


def exit_code(result: Result) -> int:
    return exit_code_of(result.exception) if isinstance(result.exception, SealvmError) else result.exit_code


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, data in {
        "saved.json": saved("uki"),
        "uki.efi": uki(),
        "vmlinuz": kernel(),
        "initrd": b"initrd",
        "quiet.yaml": QUIET.encode(),
        "noisy.yaml": NOISY.encode(),
        "broken.yaml": b"name: x",
    }.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_lint_warns_and_succeeds(files: Path) -> None:
    result = run("lint", files / "noisy.yaml")
    assert result.exit_code == 0
    assert result.output.startswith(f"{files / 'noisy.yaml'}, line 2: TPMs of class lab are software")
    assert run("lint", files / "quiet.yaml").output == f"{files / 'quiet.yaml'}: no warnings\n"


def test_lint_as_json(files: Path) -> None:
    (warning,) = json.loads(run("lint", files / "noisy.yaml", "--json").output)["warnings"]
    assert (warning["line"], warning["rule"], sorted(warning)) == (2, "weak-trust", ["hint", "line", "message", "rule"])


def test_lint_fails_when_strict_or_when_it_is_no_profile(files: Path) -> None:
    assert exit_code(run("lint", files / "noisy.yaml", "--strict")) == 10
    assert exit_code(run("lint", files / "quiet.yaml", "--strict")) == 0
    assert exit_code(run("lint", files / "broken.yaml")) == 11
    assert exit_code(run("lint", files / "none.yaml")) == 13


def test_predict_says_what_the_next_boot_measures(files: Path) -> None:
    observed = load_saved_state(saved("uki"), "saved")
    given = json.loads(run("predict", "--evidence", files / "saved.json", "--uki", files / "uki.efi", "--json").output)
    expected = predict(observed, UnifiedKernel(uki()))
    assert given["pcrs"] == {str(pcr): value.hex() for pcr, value in expected.pcr_values.items()}
    assert given["changed"] == [4, 9]
    booted = ("--kernel", files / "vmlinuz", "--initrd", files / "initrd", "--cmdline", "ro")
    lines = run("predict", "--evidence", files / "saved.json", *booted).output.splitlines()
    value = predict(observed, StubKernel(kernel(), "ro", b"initrd")).pcr_values[9].hex()
    assert f"PCR 9   {value}  changed" in lines


def test_predict_judges_by_a_profile(files: Path) -> None:
    arguments = ("predict", files / "quiet.yaml", "--evidence", files / "saved.json", "--uki", files / "uki.efi")
    result = run(*arguments)
    assert result.exit_code == 0
    assert "not met  programs" in result.output
    given = json.loads(run(*arguments, "--json").output)
    assert given["satisfied"] is False
    assert [one["met"] for one in given["requirements"]] == [False, False]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--uki", "uki.efi", "--cmdline", "ro"), 2),
        (("--kernel", "vmlinuz"), 2),
        (("--uki", "none"), 13),
        (("--uki", "initrd"), 11),
        (("--kernel", "vmlinuz", "--cmdline", "ro", "--qemu-memory", "512"), 11),
    ],
)
def test_predict_refuses_by_exit_code(files: Path, arguments: tuple[str, ...], code: int) -> None:
    there = [str(files / one) if (files / one).exists() or one == "none" else one for one in arguments]
    assert exit_code(run("predict", "--evidence", files / "saved.json", *there)) == code
