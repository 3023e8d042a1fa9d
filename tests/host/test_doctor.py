"""The doctor looks at a machine and says what to do; it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sealvm.host import doctor
from sealvm.host.config import HostConfig, load_host, save_host
from sealvm.host.doctor import Check, examine
from sealvm.lab.network import write_recording
from sealvm.lab.recording import load_recording
from sealvm.lab.swtpm import Swtpm, make_ca, replay_pcrs
from sealvm.tcg.eventlog import extends, parse_event_log
from tests.tpm.rig import started_tpm

pytestmark = pytest.mark.tpm


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    base = tmp_path_factory.mktemp("d")
    with started_tpm(base / "tpm", make_ca(base / "ca")) as started:
        replay_pcrs(started.tcti, extends(parse_event_log(load_recording("good").eventlog)))
        yield started


@pytest.fixture
def host(tmp_path: Path, swtpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's folder; the accelerator is not probed again for each test."""
    monkeypatch.setattr(doctor, "working_accelerator", lambda _directory: "tcg")
    write_recording(tmp_path, load_recording("good"))
    save_host(HostConfig(tmp_path, "host-1", swtpm.tcti, tmp_path / "eventlog.bin", tmp_path / "preimages.json"))
    return tmp_path


def by_name(host: Path) -> dict[str, Check]:
    return {check.name: check for check in examine(host)}


def test_a_host_with_everything_lacks_nothing(host: Path) -> None:
    checks = by_name(host)
    assert [check for check in checks.values() if check.status == "missing"] == []
    assert {"python", "machine", "nbdkit", "swap", "accelerator", "host", "event log"} <= set(checks)
    assert any(name.startswith("tpm ") for name in checks)
    assert checks["host"].found == f"host-1 in {host}"


def test_looking_changes_nothing(host: Path) -> None:
    before = {path: path.read_bytes() for path in host.iterdir()}
    examine(host)
    after = {path: path.read_bytes() for path in host.iterdir() if path.name != "tpm.lock"}
    assert after == before


def test_a_machine_that_is_no_host_yet_is_told_how_to_become_one(host: Path, tmp_path: Path) -> None:
    (host / "host.json").unlink()
    check = by_name(host)["host"]
    assert check.status == "warn"
    assert "host init" in check.hint


def test_a_tpm_that_is_away_is_missing(host: Path) -> None:
    save_host(replace(load_host(host), tcti=f"swtpm:path={host / 'nobody'}"))
    check = by_name(host)["tpm"]
    assert check.status == "missing"
    assert check.hint


@pytest.mark.parametrize("content", [None, b""])
def test_an_event_log_that_is_not_there_or_empty_is_missing(host: Path, content: bytes | None) -> None:
    (host / "eventlog.bin").unlink()
    if content is not None:
        (host / "eventlog.bin").write_bytes(content)
    check = by_name(host)["event log"]
    assert (check.status, "UEFI" in check.hint) == ("missing", True)


def test_programs_that_are_not_installed_are_named_with_their_package(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(host))
    checks = by_name(host)
    assert {name for name in doctor.PROGRAMS if checks[name].status == "missing"} == set(doctor.PROGRAMS)
    assert "apt-get install nbdkit" in checks["nbdkit"].hint


def test_a_damaged_configuration_is_shown_not_raised(host: Path) -> None:
    (host / "host.json").write_text(json.dumps({"name": 7}))
    assert by_name(host)["host"].status == "warn"
