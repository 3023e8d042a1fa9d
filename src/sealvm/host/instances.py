"""The instances of a host: what they do, and how they are watched, stopped and removed.

A guest that powered itself off leaves its disk and block server running with their keys in memory, because nobody
watches instances yet; every command here notices and ends them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sealvm.errors import ConflictError, HypervisorFault, IntegrityRefused, MalformedError, NotFoundError
from sealvm.host import instance_record as records
from sealvm.host.console import Console, ConsoleLines
from sealvm.host.halt_vm import halt, machine_of, state_of
from sealvm.host.hypervisor.base import Hypervisor, RunState
from sealvm.host.instance_record import InstanceFolder, InstanceRecord, Phase, locked
from sealvm.host.launch_vm import Launched

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
    machine = machine_of(found.record)
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
        return halt(folder, folder.read(), hypervisor, grace_seconds)


def remove_instance(host_dir: Path, instance_id: str, hypervisor: Hypervisor, *, force: bool = False) -> None:
    """Erase an instance: its wrapped key and its disk's key slots are overwritten, then all its files removed.

    Raises NotFoundError, ConflictError when it runs, MalformedError when its record is damaged (`force` goes on in both
    cases), StorageFault.
    """
    folder = records.folder_of(host_dir, instance_id)
    with locked(folder):
        record = _recorded(folder, force=force)
        if record is not None:
            if not force and state_of(record, hypervisor) is not RunState.STOPPED:
                raise ConflictError(f"instance {instance_id} runs", hint=f"sealvm vm stop {instance_id}")
            halt(folder, record, hypervisor, 0.0)
        folder.erase()


def _stop_check(record: InstanceRecord, hypervisor: Hypervisor) -> Callable[[], None]:
    """A check for Console.wait_text that raises as soon as the guest does not run any more, saying why."""

    def check() -> None:
        machine = machine_of(record)
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


def _recorded(folder: InstanceFolder, *, force: bool) -> InstanceRecord | None:
    """The record; None when a crash came before it was written, or it is damaged and `force` is given."""
    try:
        return folder.read()
    except NotFoundError:
        return None
    except MalformedError:
        if force:
            return None
        raise


def _look(folder: InstanceFolder, hypervisor: Hypervisor) -> Instance:
    record = folder.read()
    state = state_of(record, hypervisor)
    if state is RunState.STOPPED and record.phase is not Phase.STOPPED:
        try:
            with locked(folder):
                return Instance(halt(folder, folder.read(), hypervisor, 0.0), RunState.STOPPED)
        except ConflictError:  # a command is at it: it is being started, or will be left clean
            return Instance(record, RunState.STARTING if record.phase is Phase.STARTING else RunState.STOPPED)
    events = _events(Path(record.runtime_dir)) if record.runtime_dir else ()
    return Instance(record, state, events)


def _events(runtime_dir: Path) -> tuple[str, ...]:
    """The last lines of the block server's log, which says which chunk was refused and why."""
    try:
        data = (runtime_dir / "blockserver.log").read_bytes()[-_EVENT_BYTES:]
    except OSError:
        return ()
    return tuple(data.decode(errors="replace").splitlines()[-_EVENT_LINES:])
