"""The instances of a host: what they do, and how they are watched, stopped and removed.

A guest that powered itself off leaves its disk and block server running with their keys in memory, because nobody
watches instances yet; every command here notices and ends them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sealvm.errors import ConflictError, HypervisorFault, IntegrityRefused, NotFoundError
from sealvm.host import instance_record as records
from sealvm.host.console import Console, ConsoleLines
from sealvm.host.hypervisor.base import Hypervisor, Machine, RunState
from sealvm.host.instance_record import InstanceFolder, InstanceRecord, Phase, locked
from sealvm.host.launch_vm import Launched
from sealvm.host.sockets import remove_runtime_dir
from sealvm.host.storage import StorageDaemon

STOP_SECONDS = 30.0

_EVENT_LINES = 20
_EVENT_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance and what it does now. `events` are the block server's last messages: bytes that were refused."""

    record: InstanceRecord
    state: RunState
    events: tuple[str, ...] = ()


def list_instances(host_dir: Path, hypervisor: Hypervisor) -> list[Instance]:
    """All instances of the host, by name. One whose record cannot be read raises MalformedError."""
    found = []
    for folder in records.all_folders(host_dir):
        try:
            found.append(_look(folder, hypervisor))
        except NotFoundError:
            continue  # removed meanwhile, or not yet recorded
    return found


def show_instance(host_dir: Path, instance_id: str, hypervisor: Hypervisor) -> Instance:
    """One instance. Raises NotFoundError."""
    return _look(records.folder_of(host_dir, instance_id), hypervisor)


def open_console(host_dir: Path, instance_id: str, hypervisor: Hypervisor) -> Console:
    """Connect to the serial console of an instance. Raises NotFoundError, ConflictError when it is stopped."""
    found = show_instance(host_dir, instance_id, hypervisor)
    machine = _machine(found.record)
    if machine is None or found.state is RunState.STOPPED:
        raise ConflictError(f"instance {instance_id} is stopped", hint=f"sealvm vm start {instance_id}")
    return Console(machine.console_socket)


def wait_console(launched: Launched, text: str, timeout_seconds: float, hypervisor: Hypervisor) -> ConsoleLines:
    """What the guest printed since its start, up to and with the line that holds `text`.

    Raises IntegrityRefused when the guest is paused because the block server refused to serve unsigned bytes,
    HypervisorFault when it stops before for another reason, or the time is over.
    """
    check = _stop_check(launched.record, hypervisor)
    return launched.console.wait_text(text, timeout_seconds, check)


def stop_instance(
    host_dir: Path, instance_id: str, hypervisor: Hypervisor, grace_seconds: float = STOP_SECONDS
) -> InstanceRecord:
    """Stop an instance: the power button, after `grace_seconds` the plug. Its disk is complete and closed then.

    Stopping a stopped instance cleans up after a crash. Raises NotFoundError, ConflictError when another command
    works on it, HypervisorFault when a process does not end.
    """
    folder = records.folder_of(host_dir, instance_id)
    with locked(folder):
        return _stop(folder, folder.read(), hypervisor, grace_seconds)


def remove_instance(host_dir: Path, instance_id: str, hypervisor: Hypervisor, *, force: bool = False) -> None:
    """Erase an instance: its wrapped key and its disk's key slots are overwritten, then all its files removed.

    Raises NotFoundError, ConflictError when it runs and `force` was not given, StorageFault.
    """
    folder = records.folder_of(host_dir, instance_id)
    with locked(folder):
        if folder.record.exists():
            record = folder.read()
            if not force and _state(record, hypervisor) is not RunState.STOPPED:
                raise ConflictError(f"instance {instance_id} runs", hint=f"sealvm vm stop {instance_id}")
            _stop(folder, record, hypervisor, 0.0)
        folder.erase()


def _stop_check(record: InstanceRecord, hypervisor: Hypervisor) -> Callable[[], None]:
    """A check for Console.wait_text that raises as soon as the guest does not run any more, saying why."""

    def check() -> None:
        machine = _machine(record)
        state = RunState.STOPPED if machine is None else hypervisor.state(machine)
        if state in (RunState.RUNNING, RunState.UNKNOWN):
            return
        events = _events(Path(record.runtime_dir))
        if state is RunState.IO_ERROR and events:
            raise IntegrityRefused(
                f"instance {record.id} is paused: its guest read what is not the signed image ({events[-1]})",
                hint="check the package: sealvm package verify",
                events=list(events),
            )
        because = f": {events[-1]}" if events else ""
        raise HypervisorFault(f"instance {record.id} is {state.value}{because}", state=state.value, events=list(events))

    return check


def _look(folder: InstanceFolder, hypervisor: Hypervisor) -> Instance:
    record = folder.read()
    state = _state(record, hypervisor)
    if state is RunState.STOPPED and record.phase is not Phase.STOPPED:
        try:
            with locked(folder):
                return Instance(_stop(folder, folder.read(), hypervisor, 0.0), RunState.STOPPED)
        except ConflictError:  # a command is at it: it is being started, or will be left clean
            return Instance(record, RunState.STARTING if record.phase is Phase.STARTING else RunState.STOPPED)
    events = _events(Path(record.runtime_dir)) if record.runtime_dir else ()
    return Instance(record, state, events)


def _state(record: InstanceRecord, hypervisor: Hypervisor) -> RunState:
    machine = _machine(record)
    return RunState.STOPPED if machine is None else hypervisor.state(machine)


def _stop(
    folder: InstanceFolder, record: InstanceRecord, hypervisor: Hypervisor, grace_seconds: float
) -> InstanceRecord:
    """End what runs, machine first, so that its last writes reach the disk."""
    machine, processes, runtime_dir = _machine(record), record.processes, Path(record.runtime_dir)
    if machine is not None:
        hypervisor.stop(machine, grace_seconds)
    if processes.storage is not None:
        StorageDaemon.at(processes.storage, runtime_dir).stop()
    if processes.blockserver is not None:
        processes.blockserver.end()
    if record.runtime_dir:
        remove_runtime_dir(runtime_dir)
    return folder.write(records.as_stopped(record))


def _machine(record: InstanceRecord) -> Machine | None:
    if record.processes.machine is None:
        return None
    return Machine.at(record.processes.machine, Path(record.runtime_dir))


def _events(runtime_dir: Path) -> tuple[str, ...]:
    """The last lines of the block server's log, which says which chunk was refused and why."""
    try:
        data = (runtime_dir / "blockserver.log").read_bytes()[-_EVENT_BYTES:]
    except OSError:
        return ()
    return tuple(data.decode(errors="replace").splitlines()[-_EVENT_LINES:])
