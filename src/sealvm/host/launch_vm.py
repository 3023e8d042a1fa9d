"""Starts an instance: block server, writable disk, machine, in this order; undone in the reverse order when one fails.

The caller has opened the package: it brings the package key, after its commitment was checked, and the overlay key with
the bytes that wrap it. Neither key is written anywhere by this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from sealvm.errors import ConflictError, InputError
from sealvm.host import instance_record as records
from sealvm.host.console import Console
from sealvm.host.halt_vm import halt, state_of
from sealvm.host.hypervisor.base import Hypervisor, Machine, MachineSpec, RunState
from sealvm.host.instance_record import InstanceFolder, InstanceRecord, Phase, locked
from sealvm.host.process import ProcessRef
from sealvm.host.sockets import choose_runtime_dir, make_runtime_dir, remove_runtime_dir
from sealvm.host.storage import DISK_EXPORT, DiskSpec, StorageDaemon, create_disk, open_disk
from sealvm.secret import Secret
from sealvm.store.atomic import write_atomic

KEY_BYTES = 32
MIN_MEMORY_MIB = 16


class BlockServerHandle(Protocol):
    """A running block server."""

    @property
    def pid(self) -> int: ...

    @property
    def socket(self) -> Path: ...

    def stop(self) -> None: ...


class StartBlockServer(Protocol):
    """Serves the image of the package `header_digest`, read-only, on a Unix socket below `runtime_dir`."""

    def __call__(self, layout_dir: Path, header_digest: str, key: Secret, runtime_dir: Path) -> BlockServerHandle: ...


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """What an instance is to be: `disk_bytes` is at least the image's size, `header_digest` bare lower-case hex."""

    id: str
    layout_dir: Path
    header_digest: str
    disk_bytes: int
    memory_mib: int
    cpus: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Keys:
    """The two keys of an instance, 32 bytes each: the package's, and that of the writable disk."""

    package: Secret
    overlay: Secret


@dataclass(frozen=True, slots=True)
class Launched:
    """An instance whose guest runs, with its console, connected since before the first instruction.

    The caller closes the console; the guest goes on.
    """

    record: InstanceRecord
    console: Console


def launch_instance(
    host_dir: Path,
    spec: InstanceSpec,
    keys: Keys,
    overlay_wrap: bytes,
    *,
    start_block_server: StartBlockServer,
    hypervisor: Hypervisor,
) -> Launched:
    """Make a new instance and start it. When this raises, no process, no file and no name of it is left.

    Raises ConflictError when the name is taken, InputError for sizes that cannot be, and what the parts raise:
    EnvironmentFault, HypervisorFault, ImageError, StorageFault.
    """
    _check(spec, keys, overlay_wrap)
    folder = records.new_folder(host_dir, spec.id)
    with locked(folder), ExitStack() as undo:
        undo.callback(folder.erase)
        record = InstanceRecord(
            id=spec.id,
            header_digest=spec.header_digest,
            layout_dir=str(spec.layout_dir.resolve()),
            disk_bytes=spec.disk_bytes,
            memory_mib=spec.memory_mib,
            cpus=spec.cpus,
            created=_now(),
            labels=dict(spec.labels),
        )
        folder.write(record)
        write_atomic(folder.wrap, overlay_wrap, 0o600)
        launched = _start(folder, record, keys, start_block_server, hypervisor, new=True)
        undo.pop_all()
    return launched


def start_instance(
    host_dir: Path,
    instance_id: str,
    keys: Keys,
    *,
    start_block_server: StartBlockServer,
    hypervisor: Hypervisor,
) -> Launched:
    """Start a stopped instance again from its own disk. When this raises, it is stopped as it was.

    Raises NotFoundError, ConflictError when it is not stopped, IntegrityRefused when its disk is not the one that was
    made, and what the parts raise.
    """
    folder = records.folder_of(host_dir, instance_id)
    with locked(folder):
        record = folder.read()
        if state_of(record, hypervisor) is not RunState.STOPPED:
            raise ConflictError(f"instance {instance_id} is not stopped", hint=f"sealvm vm stop {instance_id}")
        if not folder.overlay.exists():
            raise ConflictError(
                f"instance {instance_id} has no disk: its launch was interrupted", hint=f"sealvm vm rm {instance_id}"
            )
        stopped = halt(folder, record, hypervisor, 0.0)
        try:
            starting = folder.write(replace(stopped, phase=Phase.STARTING))
            return _start(folder, starting, keys, start_block_server, hypervisor, new=False)
        except BaseException:
            folder.write(stopped)
            raise


def _start(
    folder: InstanceFolder,
    record: InstanceRecord,
    keys: Keys,
    start_block_server: StartBlockServer,
    hypervisor: Hypervisor,
    *,
    new: bool,
) -> Launched:
    with ExitStack() as undo:
        runtime_dir = choose_runtime_dir()
        record = folder.write(replace(record, runtime_dir=str(runtime_dir)))  # first: what is killed can be cleaned up
        undo.callback(remove_runtime_dir, runtime_dir)
        make_runtime_dir(runtime_dir)

        server = start_block_server(Path(record.layout_dir), record.header_digest, keys.package, runtime_dir)
        undo.callback(server.stop)
        record = folder.write(records.with_process(record, blockserver=ProcessRef.of(server.pid)))

        disk_spec = DiskSpec(folder.overlay, record.disk_bytes, server.socket, runtime_dir, folder.log("storage"))
        disk = (create_disk if new else open_disk)(disk_spec, keys.overlay)
        undo.callback(disk.stop)
        record = folder.write(records.with_process(record, storage=disk.process))

        machine = hypervisor.create(_machine_spec(folder, record, disk, runtime_dir))
        undo.callback(hypervisor.stop, machine, 0.0)
        record = folder.write(records.with_process(record, machine=machine.process))

        console = _resume(hypervisor, machine, undo)
        record = folder.write(records.stamped_started(record, _now()))
        undo.pop_all()
    return Launched(record, console)


def _resume(hypervisor: Hypervisor, machine: Machine, undo: ExitStack) -> Console:
    console = Console(machine.console_socket)
    undo.callback(console.close)
    hypervisor.resume(machine)
    return console


def _machine_spec(
    folder: InstanceFolder, record: InstanceRecord, disk: StorageDaemon, runtime_dir: Path
) -> MachineSpec:
    return MachineSpec(
        name=record.id,
        memory_mib=record.memory_mib,
        cpus=record.cpus,
        disk_socket=disk.disk_socket,
        disk_export=DISK_EXPORT,
        runtime_dir=runtime_dir,
        log=folder.log("qemu"),
    )


def _check(spec: InstanceSpec, keys: Keys, overlay_wrap: bytes) -> None:
    for name, key in (("package", keys.package), ("overlay", keys.overlay)):
        if len(key) != KEY_BYTES:
            raise InputError(f"{name} key: {len(key)} bytes, expected {KEY_BYTES}")
    if not 0 < len(overlay_wrap) <= records.WRAP_LIMIT_BYTES:
        raise InputError(f"overlay wrap: {len(overlay_wrap)} bytes, expected 1 to {records.WRAP_LIMIT_BYTES}")
    if spec.memory_mib < MIN_MEMORY_MIB:
        raise InputError(f"memory {spec.memory_mib} MiB: expected at least {MIN_MEMORY_MIB}")
    if spec.cpus < 1:
        raise InputError(f"{spec.cpus} processors: expected at least 1")


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
