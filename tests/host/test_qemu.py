"""QEMU: what is on its command line, what it does when told, and the probe that chose its accelerator."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.errors import EnvironmentFault, HypervisorFault, InputError
from sealvm.host.console import Console
from sealvm.host.hypervisor import probe
from sealvm.host.hypervisor.base import Machine, MachineSpec, RunState
from sealvm.host.hypervisor.qemu import Qemu
from sealvm.host.process import ProcessRef, current_boot_id, start_process
from tests.host import guests

QEMU = Qemu("tcg")


@pytest.fixture
def spec(grub_image: Path, runtime: Path, tmp_path: Path) -> Iterator[MachineSpec]:
    disk = tmp_path / "disk.raw"
    shutil.copy(grub_image, disk)
    server = guests.PlainServers(disk, options=())(tmp_path, "", guests.overlay_key(), runtime)
    yield MachineSpec("guest-1", 64, 1, server.socket, "", runtime, tmp_path / "qemu.log")
    server.stop()


@pytest.fixture
def machine(spec: MachineSpec) -> Iterator[Machine]:
    made = QEMU.create(spec)
    yield made
    QEMU.stop(made, 0)


def test_a_machine_waits_until_it_is_resumed(machine: Machine) -> None:
    assert QEMU.state(machine) is RunState.STARTING
    with Console(machine.console_socket) as console:
        QEMU.resume(machine)
        seen = console.wait_text(guests.GREETING, 20)
    assert seen.lines[-1] == guests.GREETING
    assert QEMU.state(machine) is RunState.RUNNING


def test_the_command_line_has_one_disk_and_no_network(machine: Machine) -> None:
    pid = machine.process.pid
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    disks = [argv[at + 1] for at, word in enumerate(argv) if word in ("-blockdev", "-drive", "-hda", "-cdrom")]
    assert len(disks) == 1
    assert disks[0].startswith("driver=nbd,")
    assert argv[argv.index("-nic") + 1] == "none"
    assert "-sandbox" in argv
    assert "-kernel" not in argv
    assert "-initrd" not in argv
    assert "Max core file size        1                    1" in Path(f"/proc/{pid}/limits").read_text()
    assert "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
    assert os.getsid(pid) == pid


def test_stopping_ends_the_process(machine: Machine) -> None:
    QEMU.stop(machine, 0)
    assert not machine.process.alive()
    assert QEMU.state(machine) is RunState.STOPPED
    QEMU.stop(machine, 0)


def test_a_machine_that_was_killed_is_seen_to_be_gone(machine: Machine) -> None:
    os.kill(machine.process.pid, 9)
    assert machine.process.wait(5)
    assert QEMU.state(machine) is RunState.STOPPED
    with pytest.raises(HypervisorFault):
        QEMU.resume(machine)
    with pytest.raises(HypervisorFault, match="nobody serves it"):
        Console(machine.console_socket)


def test_a_machine_that_hangs_is_unknown_and_can_still_be_stopped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealvm.host.hypervisor.qemu._STATE_SECONDS", 0.2)
    monkeypatch.setattr("sealvm.host.hypervisor.qmp.COMMAND_SECONDS", 0.5)
    os.kill(machine.process.pid, 19)  # SIGSTOP
    assert QEMU.state(machine) is RunState.UNKNOWN
    os.kill(machine.process.pid, 9)
    assert machine.process.wait(5)


def test_a_disk_that_cannot_be_had_is_said_with_qemus_words(spec: MachineSpec) -> None:
    wrong = MachineSpec("guest-1", 64, 1, spec.runtime_dir / "nobody", "", spec.runtime_dir, spec.log)
    with pytest.raises(HypervisorFault, match=r"qemu-system-x86_64 does not start: .*No such file or directory"):
        QEMU.create(wrong)
    assert not guests.processes_mentioning(str(spec.runtime_dir / "nobody"))


@pytest.mark.parametrize("cpus", [0, 65])
def test_processor_counts_are_bounded(spec: MachineSpec, cpus: int) -> None:
    wrong = MachineSpec("guest-1", 64, cpus, spec.disk_socket, "", spec.runtime_dir, spec.log)
    with pytest.raises(InputError, match=f"{cpus} processors"):
        QEMU.create(wrong)


def test_the_probe_guest_runs_under_tcg() -> None:
    assert probe.runs_guest("tcg", 20)


def test_a_guest_that_does_not_end_in_time_is_no_working_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = b"\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"  # halts, and never writes to the port
    monkeypatch.setattr(probe, "BOOT_SECTOR", hanging)
    started = time.monotonic()
    assert not probe.runs_guest("tcg", 0.5)
    assert time.monotonic() - started < 5


def test_the_probe_is_asked_once_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(probe, "runs_guest", lambda accelerator, seconds: asked.append(accelerator) or False)
    assert probe.working_accelerator(tmp_path) == "tcg"
    assert probe.working_accelerator(tmp_path) == "tcg"
    assert len(asked) == (1 if Path("/dev/kvm").exists() else 0)
    assert json.loads((tmp_path / probe.CACHE_NAME).read_text())["boot_id"] == current_boot_id()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"accelerator": "tcg"}', '{"accelerator": "fast", "boot_id": "BOOT"}']
)
def test_an_answer_that_cannot_be_used_is_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / probe.CACHE_NAME).write_text(text.replace("BOOT", current_boot_id()))
    monkeypatch.setattr(probe, "runs_guest", lambda accelerator, seconds: False)
    assert probe.working_accelerator(tmp_path) == "tcg"


def test_a_missing_program_is_an_environment_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFault, match="no-such-program is not installed"):
        start_process(["no-such-program"], tmp_path / "log")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="qemu-system-x86_64 is not installed"):
        probe.runs_guest("tcg", 1)


def test_a_process_reference_does_not_match_another_process_of_that_number(tmp_path: Path) -> None:
    process = start_process(["sleep", "60"], tmp_path / "log")
    assert process.alive()
    assert not ProcessRef(process.pid, process.start_ticks + 1, process.boot_id).alive()
    assert not ProcessRef(process.pid, process.start_ticks, "another boot").alive()
    ProcessRef(process.pid, process.start_ticks + 1, process.boot_id).end()
    assert process.alive(), "only the recorded process is ever killed"
    process.end()
    assert not process.alive()
    process.end()


def test_a_process_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    process = start_process(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], tmp_path / "log")
    time.sleep(0.1)
    process.end(grace_seconds=0.2)
    assert not process.alive()


def test_a_started_process_inherits_only_what_it_is_given(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    process = start_process(["sleep", "60"], tmp_path / "log", inherit=(read_end,))
    time.sleep(0.1)
    open_numbers = {int(entry.name) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
    process.end()
    os.close(read_end)
    os.close(write_end)
    assert open_numbers == {0, 1, 2, read_end}
