"""Instances, from launch to removal, with a boot loader as guest: it greets, and writes to its disk when told."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sealvm.errors import (
    ConflictError,
    HypervisorFault,
    ImageError,
    InputError,
    IntegrityRefused,
    MalformedError,
    NotFoundError,
)
from sealvm.host import instance_record as records
from sealvm.host.hypervisor.base import Machine, RunState
from sealvm.host.hypervisor.qemu import Qemu
from sealvm.host.instance_record import InstanceFolder, Phase, locked
from sealvm.host.instances import (
    list_instances,
    open_console,
    remove_instance,
    show_instance,
    stop_instance,
    wait_console,
)
from sealvm.host.launch_vm import InstanceSpec, Keys, Launched, launch_instance, start_instance
from sealvm.host.process import find_marked
from sealvm.secret import Secret
from tests.host import guests

QEMU = Qemu("tcg")
WRAP = b"the overlay key, wrapped to a profile"
PROMPT = "grub>"


@dataclass
class Bench:
    """A host directory, a package's stand-in, and the keys of one instance."""

    host_dir: Path
    spec: InstanceSpec
    keys: Keys
    servers: guests.PlainServers

    def launch(self, spec: InstanceSpec | None = None) -> Launched:
        return launch_instance(
            self.host_dir, spec or self.spec, self.keys, WRAP, start_block_server=self.servers, hypervisor=QEMU
        )

    def start(self, keys: Keys | None = None) -> Launched:
        return start_instance(
            self.host_dir, self.spec.id, keys or self.keys, start_block_server=self.servers, hypervisor=QEMU
        )

    @property
    def name(self) -> str:
        return self.spec.id

    @property
    def folder(self) -> InstanceFolder:
        return InstanceFolder(self.host_dir / "instances" / self.spec.id)

    def assert_nothing_left(self) -> None:
        assert not (self.host_dir / "instances" / self.spec.id).exists()
        self.assert_nothing_runs()

    def assert_nothing_runs(self) -> None:
        assert not any(server.alive() for server in self.servers.started)
        assert not guests.processes_mentioning(f"guest={self.spec.id}")
        sockets = {str(server.socket.parent) for server in self.servers.started}
        assert not any(Path(path).exists() for path in sockets)


@pytest.fixture
def bench(tmp_path: Path, grub_image: Path) -> Iterator[Bench]:
    host_dir = tmp_path / "host"
    host_dir.mkdir()
    name = f"bench-{secrets.token_hex(4)}"  # this run's own: other runs may be at work on this machine
    spec = InstanceSpec(name, tmp_path, "ab" * 32, 64 << 20, 64, labels={"profile": "measured-kernel"})
    made = Bench(host_dir, spec, Keys(guests.overlay_key(), guests.overlay_key()), guests.PlainServers(grub_image))
    yield made
    for folder in records.all_folders(host_dir):
        remove_instance(host_dir, folder.path.name, QEMU, force=True)
    made.assert_nothing_runs()


def command(launched: Launched, text: str) -> tuple[str, ...]:
    """Type a command at the boot loader's prompt and give back what it answered."""
    launched.console.send(text.encode() + b"\r")
    wait_console(launched, text[-12:], 10, QEMU)
    return wait_console(launched, PROMPT, 10, QEMU).lines


def test_a_launched_guest_greets(bench: Bench) -> None:
    launched = bench.launch()
    with launched.console:
        seen = wait_console(launched, guests.GREETING, 20, QEMU)
    assert seen.lines[-1] == guests.GREETING
    (found,) = list_instances(bench.host_dir, QEMU)
    assert found.state is RunState.RUNNING
    assert found.record == launched.record == bench.folder.read()
    assert found.record.phase is Phase.STARTED
    assert found.record.started is not None
    assert found.record.labels == {"profile": "measured-kernel"}
    assert len(found.record.processes.present()) == 3


def test_what_the_guest_wrote_survives_a_stop_and_a_crash(bench: Bench, grub_image: Path) -> None:
    original = grub_image.read_bytes()
    launched = bench.launch()
    with launched.console:
        wait_console(launched, PROMPT, 20, QEMU)
        command(launched, "set note=kept")
        command(launched, "save_env note")
    stopped = stop_instance(bench.host_dir, bench.name, QEMU, grace_seconds=0)
    assert (stopped.phase, stopped.processes.present(), stopped.runtime_dir) == (Phase.STOPPED, (), "")
    bench.assert_nothing_runs()

    launched = bench.start()
    with launched.console:
        wait_console(launched, PROMPT, 20, QEMU)
        assert any("note=kept" in line for line in command(launched, "list_env"))
        command(launched, "set note=again")
        command(launched, "save_env note")
    for process in launched.record.processes.present():
        os.kill(process.pid, 9)
        assert process.wait(5)

    assert show_instance(bench.host_dir, bench.name, QEMU).state is RunState.STOPPED
    launched = bench.start()
    with launched.console:
        wait_console(launched, PROMPT, 20, QEMU)
        assert any("note=again" in line for line in command(launched, "list_env"))
    assert grub_image.read_bytes() == original


def test_a_guest_that_powers_off_is_cleaned_up_when_somebody_looks(bench: Bench) -> None:
    launched = bench.launch()
    with launched.console:
        wait_console(launched, PROMPT, 20, QEMU)
        launched.console.send(b"halt\r")
        with pytest.raises(HypervisorFault, match="the machine is gone"):
            wait_console(launched, "never", 10, QEMU)
    machine = launched.record.processes.machine
    assert machine is not None
    assert machine.wait(10)
    (found,) = list_instances(bench.host_dir, QEMU)
    assert found.state is RunState.STOPPED
    bench.assert_nothing_runs()


def test_the_console_can_be_left_and_joined_again(bench: Bench) -> None:
    bench.launch().console.close()
    with open_console(bench.host_dir, bench.name, QEMU) as console:
        console.send(b"\r")
        console.wait_text(PROMPT, 20)
    stop_instance(bench.host_dir, bench.name, QEMU, 0)
    with pytest.raises(ConflictError, match=r"is stopped"):
        open_console(bench.host_dir, bench.name, QEMU)


def test_removing_leaves_nothing(bench: Bench) -> None:
    bench.launch().console.close()
    with pytest.raises(ConflictError, match=r"runs"):
        remove_instance(bench.host_dir, bench.name, QEMU)
    assert show_instance(bench.host_dir, bench.name, QEMU).state is RunState.RUNNING
    remove_instance(bench.host_dir, bench.name, QEMU, force=True)
    bench.assert_nothing_left()
    with pytest.raises(NotFoundError, match=r"not on this host"):
        show_instance(bench.host_dir, bench.name, QEMU)


def test_removing_erases_the_key_slots_before_the_name_goes(bench: Bench, tmp_path: Path) -> None:
    bench.launch().console.close()
    stop_instance(bench.host_dir, bench.name, QEMU, 0)
    kept = [tmp_path / "kept-overlay", tmp_path / "kept-wrap"]
    kept[0].hardlink_to(bench.folder.overlay)
    kept[1].hardlink_to(bench.folder.wrap)
    remove_instance(bench.host_dir, bench.name, QEMU)
    assert kept[0].read_bytes()[: 4040 * 512].count(0) == 4040 * 512
    assert kept[1].read_bytes() == bytes(len(WRAP))


def test_files_are_private_and_hold_no_key(bench: Bench) -> None:
    launched = bench.launch()
    with launched.console:
        wait_console(launched, guests.GREETING, 20, QEMU)
    assert stat.S_IMODE(bench.folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(launched.record.runtime_dir).stat().st_mode) == 0o700
    assert bench.folder.read_wrap() == WRAP
    commands = "".join(guests.processes_mentioning(launched.record.runtime_dir))
    for path in bench.folder.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
        commands += path.read_bytes().decode("latin-1")
    for key in (bench.keys.package, bench.keys.overlay):
        assert key.reveal().hex() not in commands
        assert key.reveal().decode("latin-1") not in commands
    assert guests.GREETING not in commands, "nothing of the guest is in a file or a log"


def test_a_name_is_taken_once(bench: Bench) -> None:
    bench.launch().console.close()
    with pytest.raises(ConflictError, match=r"exists already"):
        bench.launch()
    assert show_instance(bench.host_dir, bench.name, QEMU).state is RunState.RUNNING
    with pytest.raises(ConflictError, match=r"is not stopped"):
        bench.start()


@pytest.mark.parametrize("name", ["", "Big", "a/b", "../x", "-x", "a" * 64])
def test_names_that_could_be_paths_are_refused(bench: Bench, name: str) -> None:
    with pytest.raises(InputError, match="instance name"):
        bench.launch(replace(bench.spec, id=name))
    with pytest.raises(InputError, match="instance name"):
        show_instance(bench.host_dir, name, QEMU)


def test_sizes_that_cannot_be_are_refused_before_anything_is_made(bench: Bench) -> None:
    for wrong in (replace(bench.spec, memory_mib=1), replace(bench.spec, cpus=0)):
        with pytest.raises(InputError):
            bench.launch(wrong)
    for keys in (replace(bench.keys, overlay=Secret(b"short")), replace(bench.keys, package=Secret(b""))):
        with pytest.raises(InputError, match=r"key: \d bytes, expected 32"):
            launch_instance(bench.host_dir, bench.spec, keys, WRAP, start_block_server=bench.servers, hypervisor=QEMU)
    bench.assert_nothing_left()


def test_a_block_server_that_does_not_start_leaves_nothing(bench: Bench) -> None:
    def broken(layout_dir: Path, header_digest: str, key: Secret, runtime_dir: Path) -> guests.PlainServer:
        raise HypervisorFault("block server ended with status 1")

    with pytest.raises(HypervisorFault, match="block server ended"):
        launch_instance(bench.host_dir, bench.spec, bench.keys, WRAP, start_block_server=broken, hypervisor=QEMU)
    bench.assert_nothing_left()


def test_a_disk_that_cannot_be_made_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(ImageError, match="smaller than the image"):
        bench.launch(replace(bench.spec, disk_bytes=1 << 20))
    bench.assert_nothing_left()


def test_a_machine_that_does_not_start_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(InputError, match="1000 processors"):
        bench.launch(replace(bench.spec, cpus=1000))
    bench.assert_nothing_left()


class InterruptedAtResume(Qemu):
    """A QEMU whose start the operator interrupts at the last step."""

    def resume(self, machine: Machine) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_launch_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(KeyboardInterrupt):
        launch_instance(
            *(bench.host_dir, bench.spec, bench.keys, WRAP),
            start_block_server=bench.servers,
            hypervisor=InterruptedAtResume("tcg"),
        )
    bench.assert_nothing_left()


def test_a_start_with_the_wrong_key_leaves_it_stopped(bench: Bench) -> None:
    bench.launch().console.close()
    stop_instance(bench.host_dir, bench.name, QEMU, 0)
    with pytest.raises(IntegrityRefused, match="cannot unlock any keyslot"):
        bench.start(replace(bench.keys, overlay=guests.overlay_key()))
    assert bench.folder.read().phase is Phase.STOPPED
    bench.assert_nothing_runs()
    bench.start().console.close()


def test_a_launch_that_was_killed_is_found_and_removed(bench: Bench) -> None:
    launched = bench.launch()
    launched.console.close()
    before_the_machine = replace(
        launched.record, phase=Phase.STARTING, processes=replace(launched.record.processes, machine=None)
    )
    machine = launched.record.processes.machine
    assert machine is not None
    machine.end()
    bench.folder.write(before_the_machine)
    assert show_instance(bench.host_dir, bench.name, QEMU).state is RunState.STOPPED
    bench.assert_nothing_runs()
    remove_instance(bench.host_dir, bench.name, QEMU)
    bench.assert_nothing_left()


def test_one_command_at_a_time_works_on_an_instance(bench: Bench) -> None:
    bench.launch().console.close()
    with locked(bench.folder):
        with pytest.raises(ConflictError, match="another command is working on it"):
            stop_instance(bench.host_dir, bench.name, QEMU)
        assert show_instance(bench.host_dir, bench.name, QEMU).state is RunState.RUNNING


def test_an_io_error_pauses_the_guest_and_says_so(bench: Bench, grub_image: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "fail-reads"
    bench.servers.filters = ("error",)
    bench.servers.parameters = ("error-pread-rate=1", f"error-pread-file={trigger}")
    launched = bench.launch()
    with launched.console:
        wait_console(launched, PROMPT, 20, QEMU)
        trigger.touch()
        launched.console.send(b"cat /notes\r")
        with pytest.raises(HypervisorFault, match=r"is paused \(I/O error\)") as caught:
            wait_console(launched, "never", 10, QEMU)
    assert caught.value.fields["state"] == "paused (I/O error)"
    assert show_instance(bench.host_dir, bench.name, QEMU).state is RunState.IO_ERROR
    stop_instance(bench.host_dir, bench.name, QEMU)
    bench.assert_nothing_runs()


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"id": "x", "id": "y"}', b"\xff"])
def test_a_record_that_is_none_is_named(bench: Bench, text: bytes) -> None:
    bench.folder.path.mkdir(parents=True)
    bench.folder.record.write_bytes(text)
    with pytest.raises(MalformedError, match=r"instance\.json"):
        show_instance(bench.host_dir, bench.name, QEMU)
    with pytest.raises(MalformedError, match=r"instance\.json"):
        remove_instance(bench.host_dir, bench.name, QEMU)
    remove_instance(bench.host_dir, bench.name, QEMU, force=True)
    bench.assert_nothing_left()


def test_an_instance_whose_guest_is_gone_starts_again_without_a_stop(bench: Bench) -> None:
    launched = bench.launch()
    launched.console.close()
    machine = launched.record.processes.machine
    assert machine is not None
    os.kill(machine.pid, 9)
    assert machine.wait(5)
    with bench.start().console:
        pass
    storage, server = launched.record.processes.storage, launched.record.processes.blockserver
    assert storage is not None
    assert server is not None
    assert not storage.alive()
    assert not server.alive()


_LAUNCH = """
import sys
from pathlib import Path
from sealvm.host.hypervisor.qemu import Qemu
from sealvm.host.instances import wait_console
from sealvm.host.launch_vm import InstanceSpec, Keys, launch_instance
from sealvm.secret import Secret
from tests.host import guests
host, image = Path(sys.argv[1]), Path(sys.argv[2])
spec = InstanceSpec(sys.argv[3], host, "ab" * 32, 64 << 20, 64)
keys = Keys(Secret(bytes(range(32))), Secret(bytes(range(32))))
run = launch_instance(host, spec, keys, b"wrap", start_block_server=guests.PlainServers(image), hypervisor=Qemu("tcg"))
print(*wait_console(run, guests.GREETING, 20, Qemu("tcg")).lines[-1:])
"""


_KILLED_WHILE_FORMATTING = """
import os
from sealvm.host import storage
storage._run_job = lambda qmp, options: os.kill(os.getpid(), 9)
"""
_KILLED_BEFORE_RECORDING = """
import os
from sealvm.host import instance_record
instance_record.with_process = lambda record, **started: os.kill(os.getpid(), 9)
"""


def test_a_launch_killed_before_it_recorded_its_daemon_leaves_none_behind(bench: Bench, grub_image: Path) -> None:
    argv = [sys.executable, "-c", _KILLED_WHILE_FORMATTING + _LAUNCH, str(bench.host_dir), str(grub_image), bench.name]
    assert subprocess.run(argv, check=False, cwd=Path(__file__).parents[2]).returncode == -9
    record = bench.folder.read()
    assert record.processes.storage is None
    assert record.processes.blockserver is not None
    daemons = find_marked(Path(record.runtime_dir))
    assert len(daemons) == 2
    assert show_instance(bench.host_dir, bench.name, QEMU).state is RunState.STOPPED
    assert not any(daemon.alive() for daemon in daemons)
    assert not Path(record.runtime_dir).exists()


def test_a_block_server_that_was_not_recorded_is_ended_too(bench: Bench, grub_image: Path) -> None:
    argv = [sys.executable, "-c", _KILLED_BEFORE_RECORDING + _LAUNCH, str(bench.host_dir), str(grub_image), bench.name]
    assert subprocess.run(argv, check=False, cwd=Path(__file__).parents[2]).returncode == -9
    record = bench.folder.read()
    assert record.processes.present() == ()
    (server,) = find_marked(Path(record.runtime_dir))
    assert show_instance(bench.host_dir, bench.name, QEMU).state is RunState.STOPPED
    assert not server.alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="making a network namespace needs root")
def test_a_launch_needs_no_network_and_outlives_its_command(bench: Bench, grub_image: Path) -> None:
    argv = ["unshare", "-n", sys.executable, "-c", _LAUNCH, str(bench.host_dir), str(grub_image), bench.name]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == guests.GREETING
    found = show_instance(bench.host_dir, bench.name, QEMU)
    assert found.state is RunState.RUNNING
    remove_instance(bench.host_dir, bench.name, QEMU, force=True)
    assert not any(process.alive() for process in found.record.processes.present())
