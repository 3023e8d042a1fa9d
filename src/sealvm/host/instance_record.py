"""What the host remembers of an instance: HOST/instances/ID, mode 0700.

    instance.json   this record, replaced atomically at every step, so that a crash leaves a state that can be cleaned
    up overlay.luks    the writable disk overlay.wrap    the overlay key, wrapped to the instance's profile: opaque
    bytes here *.log           messages of QEMU and its helpers; nothing of the guest

No key is in the record. A process is recorded before the next one starts; one that a crash left unrecorded is found by
its runtime directory (process.find_marked).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

from sealvm.crypto import canonical
from sealvm.errors import ConflictError, InputError, NotFoundError, StorageFault
from sealvm.host.files import read_limited
from sealvm.host.process import ProcessRef
from sealvm.statements.encoding import Moment, parse_message
from sealvm.store.atomic import write_atomic

RECORD_LIMIT_BYTES = 64 * 1024
WRAP_LIMIT_BYTES = 64 * 1024
INSTANCE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

_Text = Annotated[str, Field(max_length=4096)]
# As sockets.choose_runtime_dir() names it: it is removed with all that is in it, so a record must not name another.
_RuntimeDir = Annotated[str, Field(max_length=4096, pattern=r"^(?:/(?:[^/]+/)*sealvm[^/]*/[0-9a-f]{16})?$")]


class Phase(Enum):
    """How far the last order got; what the machine does meanwhile is asked of the hypervisor."""

    STARTING = "starting"
    STARTED = "started"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Processes:
    """The three processes of an instance, in the order in which they start; None before that."""

    blockserver: ProcessRef | None = None
    storage: ProcessRef | None = None
    machine: ProcessRef | None = None

    def present(self) -> tuple[ProcessRef, ...]:
        """Those that were started, the last one first: the order in which they are ended."""
        return tuple(ref for ref in (self.machine, self.storage, self.blockserver) if ref is not None)


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One instance. `labels` are the caller's own notes (profile, provisioner, reference), shown and never
    interpreted."""

    __pydantic_config__ = ConfigDict(extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, Field(pattern=rf"^{INSTANCE_ID.pattern}$")]
    header_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    layout_dir: _Text
    disk_bytes: Annotated[int, Field(gt=0)]
    memory_mib: Annotated[int, Field(gt=0)]
    cpus: Annotated[int, Field(gt=0)]
    created: Moment
    phase: Phase = Phase.STARTING
    started: Moment | None = None
    runtime_dir: _RuntimeDir = ""
    processes: Processes = Processes()
    labels: dict[_Text, _Text] = field(default_factory=dict)


_ADAPTER: TypeAdapter[InstanceRecord] = TypeAdapter(InstanceRecord)


@dataclass(frozen=True, slots=True)
class InstanceFolder:
    """The place of one instance's files."""

    path: Path

    @property
    def overlay(self) -> Path:
        return self.path / "overlay.luks"

    @property
    def wrap(self) -> Path:
        return self.path / "overlay.wrap"

    @property
    def record(self) -> Path:
        return self.path / "instance.json"

    def log(self, program: str) -> Path:
        return self.path / f"{program}.log"

    def read(self) -> InstanceRecord:
        """The record. Raises NotFoundError when there is no such instance, MalformedError when it is no record."""
        data = read_limited(self.record, RECORD_LIMIT_BYTES, hint="sealvm vm list shows the instances")
        return parse_message(_ADAPTER, canonical.loads(data, str(self.record), RECORD_LIMIT_BYTES), str(self.record))

    def write(self, record: InstanceRecord) -> InstanceRecord:
        """Keep the record, and give it back. Raises StorageFault."""
        data = json.dumps(_ADAPTER.dump_python(record, mode="json"), indent=1, sort_keys=True).encode()
        write_atomic(self.record, data, 0o600)
        return record

    def read_wrap(self) -> bytes:
        """The wrapped overlay key. Raises NotFoundError when it is gone: then nobody can open the disk."""
        return read_limited(self.wrap, WRAP_LIMIT_BYTES, hint="without it the instance's disk cannot be opened")

    def erase(self) -> None:
        """Make the disk unreadable for good, then remove every file: the record goes last. Raises StorageFault."""
        try:
            for secret, size in ((self.wrap, WRAP_LIMIT_BYTES), (self.overlay, _LUKS_HEADER_BYTES)):
                _overwrite(secret, size)
            for entry in self.path.iterdir():
                if entry != self.record:
                    entry.unlink()
            shutil.rmtree(self.path)
        except OSError as error:
            raise StorageFault(f"{self.path}: cannot be removed: {error.strerror}") from error


_LUKS_HEADER_BYTES = 4040 * 512  # up to the payload: header and all key slots


def instances_dir(host_dir: Path) -> Path:
    return host_dir / "instances"


def check_id(instance_id: str) -> str:
    """Give back an instance name that can be a file name. Raises InputError."""
    if not INSTANCE_ID.fullmatch(instance_id):
        raise InputError(f"instance name {instance_id[:80]!r}: expected lower-case letters, digits and '-', at most 63")
    return instance_id


def new_folder(host_dir: Path, instance_id: str) -> InstanceFolder:
    """Make the folder of a new instance. Raises ConflictError when the name is taken, StorageFault."""
    path = instances_dir(host_dir) / check_id(instance_id)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConflictError(
            f"instance {instance_id} exists already", hint=f"start it, or remove it: sealvm vm rm {instance_id}"
        ) from error
    except OSError as error:
        raise StorageFault(f"{path}: cannot be made: {error.strerror}") from error
    return InstanceFolder(path)


def folder_of(host_dir: Path, instance_id: str) -> InstanceFolder:
    """The folder of an existing instance. Raises NotFoundError."""
    path = instances_dir(host_dir) / check_id(instance_id)
    if not path.is_dir():
        raise NotFoundError(f"instance {instance_id}: not on this host", hint="sealvm vm list shows the instances")
    return InstanceFolder(path)


def all_folders(host_dir: Path) -> list[InstanceFolder]:
    """The folders of all instances, by name."""
    top = instances_dir(host_dir)
    if not top.is_dir():
        return []
    return [
        InstanceFolder(path) for path in sorted(top.iterdir()) if path.is_dir() and INSTANCE_ID.fullmatch(path.name)
    ]


@contextmanager
def locked(folder: InstanceFolder) -> Iterator[None]:
    """Keep every other command from changing this instance meanwhile. Raises ConflictError when one is at it."""
    try:
        descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"instance {folder.path.name}: not on this host") from error
    try:
        _flock(descriptor, folder.path.name)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, name: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        hint = "try again when it is done"
        raise ConflictError(f"instance {name}: another command is working on it", hint=hint) from error


def with_process(record: InstanceRecord, **started: ProcessRef) -> InstanceRecord:
    """The record with one more process."""
    return replace(record, processes=replace(record.processes, **started))


def as_stopped(record: InstanceRecord) -> InstanceRecord:
    """The record of an instance that has no process and no sockets any more."""
    return replace(record, phase=Phase.STOPPED, processes=Processes(), runtime_dir="", started=None)


def stamped_started(record: InstanceRecord, now: datetime) -> InstanceRecord:
    """The record of an instance whose guest runs since `now`."""
    return replace(record, phase=Phase.STARTED, started=now)


def _overwrite(path: Path, size: int) -> None:
    if not path.is_file() or path.is_symlink():
        return
    with path.open("r+b") as file:
        file.write(bytes(min(size, path.stat().st_size)))
        file.flush()
        os.fsync(file.fileno())
