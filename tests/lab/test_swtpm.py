from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.errors import ConflictError, EnvironmentFault, NotFoundError
from sealvm.lab.recording import load_recording
from sealvm.lab.swtpm import LabCa, Swtpm, make_ca, manufacture, replay_pcrs
from sealvm.tcg.eventlog import extends, parse_event_log
from sealvm.tpm import pcr
from sealvm.tpm.connection import open_tpm

pytestmark = pytest.mark.tpm


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCa:
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ca: LabCa) -> Iterator[Swtpm]:
    directory = tmp_path_factory.mktemp("t") / "tpm"
    manufacture(directory, ca)
    swtpm = Swtpm(directory)
    yield swtpm
    swtpm.stop()


def test_ca_is_made_once(ca: LabCa) -> None:
    before = ca.root.read_bytes()
    assert make_ca(ca.directory) == ca
    assert ca.root.read_bytes() == before
    assert ca.directory.stat().st_mode & 0o077 == 0


def test_manufacture_keeps_what_is_there(made: Swtpm, ca: LabCa) -> None:
    with pytest.raises(ConflictError, match="already"):
        manufacture(made.directory, ca)


def test_failed_manufacture_leaves_nothing(tmp_path: Path) -> None:
    broken = LabCa(tmp_path)
    broken.setup_config.write_text("create_certs_tool = /nonexistent\n")
    with pytest.raises(EnvironmentFault, match="swtpm_setup"):
        manufacture(tmp_path / "tpm", broken)
    assert list((tmp_path / "tpm").iterdir()) == []


def test_missing_programs_are_named(tmp_path: Path, ca: LabCa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="swtpm_localca"):
        make_ca(tmp_path / "ca")
    with pytest.raises(EnvironmentFault, match="swtpm_setup") as caught:
        manufacture(tmp_path / "tpm", ca)
    assert "swtpm-tools" in caught.value.hint


def test_start_needs_a_manufactured_tpm(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no software TPM"):
        Swtpm(tmp_path).start()


def test_long_paths_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="100 bytes"):
        Swtpm(tmp_path / ("x" * 90))


def test_start_and_stop_can_be_repeated(made: Swtpm) -> None:
    made.start()
    pid = made.running_pid
    made.start()
    assert made.running_pid == pid is not None
    made.stop()
    made.stop()
    assert made.running_pid is None


def test_power_cut_resets_pcrs(made: Swtpm) -> None:
    made.start()
    replay_pcrs(made.tcti, [(0, b"a" * 32), (0, b"b" * 32)], made.lock)
    first = hashlib.sha256(bytes(32) + b"a" * 32).digest()
    with open_tpm(made.tcti) as tpm:
        assert pcr.read(tpm, [0])[0] == hashlib.sha256(first + b"b" * 32).digest()
    made.power_cycle()
    with open_tpm(made.tcti) as tpm:
        assert pcr.read(tpm, [0])[0] == bytes(32)


def test_killed_daemon_starts_again(made: Swtpm) -> None:
    made.start()
    os.kill(made.running_pid or 0, 9)
    while made.running_pid is not None:
        pass
    made.start()
    with open_tpm(made.tcti, made.lock) as tpm:
        assert len(pcr.read(tpm, [0])) == 1


def test_pid_of_another_program_is_left_alone(made: Swtpm) -> None:
    made.stop()
    (made.directory / "pid").write_text(str(os.getpid()))
    assert made.running_pid is None
    made.stop()
    (made.directory / "pid").write_text("no number")
    assert made.running_pid is None


@pytest.mark.parametrize("name", ["good", "tampered"])
def test_recorded_boot_is_replayed(made: Swtpm, name: str) -> None:
    recording = load_recording(name)
    made.power_cycle()
    replay_pcrs(made.tcti, extends(parse_event_log(recording.eventlog)), made.lock)
    with open_tpm(made.tcti, made.lock) as tpm:
        values = pcr.read(tpm, range(10))
    assert values == {index: recording.pcr_values[index] for index in range(10)}
