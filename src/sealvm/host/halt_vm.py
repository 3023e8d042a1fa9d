"""Ends an instance's processes, in the reverse order of their start, so that the guest's last writes reach its disk."""

from __future__ import annotations

from pathlib import Path

from sealvm.host import instance_record as records
from sealvm.host.hypervisor.base import Hypervisor, Machine, RunState
from sealvm.host.instance_record import InstanceFolder, InstanceRecord
from sealvm.host.process import find_marked
from sealvm.host.sockets import remove_runtime_dir
from sealvm.host.storage import StorageDaemon


def machine_of(record: InstanceRecord) -> Machine | None:
    """The instance's machine, None when it has none."""
    if record.processes.machine is None:
        return None
    return Machine.at(record.processes.machine, Path(record.runtime_dir))


def state_of(record: InstanceRecord, hypervisor: Hypervisor) -> RunState:
    """What the instance's machine does now."""
    machine = machine_of(record)
    return RunState.STOPPED if machine is None else hypervisor.state(machine)


def halt(
    folder: InstanceFolder, record: InstanceRecord, hypervisor: Hypervisor, grace_seconds: float
) -> InstanceRecord:
    """End whatever of the instance runs, and record it as stopped. The caller holds the instance's lock.

    The guest gets `grace_seconds` to shut down by itself. Processes that ended already are no error, so this also
    cleans up after a crash. Raises HypervisorFault when one does not end.
    """
    machine, processes, runtime_dir = machine_of(record), record.processes, Path(record.runtime_dir)
    if machine is not None:
        hypervisor.stop(machine, grace_seconds)
    if processes.storage is not None:
        StorageDaemon.at(processes.storage, runtime_dir).stop()
    if processes.blockserver is not None:
        processes.blockserver.end()
    if record.runtime_dir:
        for unrecorded in find_marked(runtime_dir):  # a launch was killed before it could record them
            unrecorded.end()
        remove_runtime_dir(runtime_dir)
    return folder.write(records.as_stopped(record))
