"""An instance's writable disk: qcow2 inside LUKS, backed by the block server, served by one qemu-storage-daemon.

    nbd export "disk"  <-  qcow2  <-  luks  <-  overlay file
                             |
                             +-- backing: the block server's socket, read-only

The daemon alone has the overlay key. It gets it by an inherited memory file, never on a command line, in the
environment or in a file with a name. Every node is named by the host: what a header says about other files is not
followed, and a header that says anything is refused.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealvm.errors import ConflictError, HypervisorFault, ImageError, IntegrityRefused, StorageFault
from sealvm.host import luks, qcow2
from sealvm.host.hypervisor.qmp import QmpConnection, start_controlled
from sealvm.host.nbd import read_export
from sealvm.host.process import ProcessRef
from sealvm.secret import Secret

DISK_EXPORT = "disk"
SECTOR_BYTES = 512

_JOB_SECONDS = 60.0
_QUIT_SECONDS = 30.0
_HEADER_EXPORT = "header"
_NOT_ITS_DISK = ("cannot unlock any keyslot", "not in LUKS format")


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A writable disk: its overlay file, its size as the guest sees it (at least the image's), and its backing.

    `backing_socket` is the block server's Unix socket; `runtime_dir` takes the daemon's sockets, `log` its messages.
    """

    overlay: Path
    disk_bytes: int
    backing_socket: Path
    runtime_dir: Path
    log: Path


@dataclass(frozen=True, slots=True)
class StorageDaemon:
    """A running storage daemon; `disk_socket` serves the writable disk as NBD export DISK_EXPORT."""

    process: ProcessRef
    control_socket: Path
    disk_socket: Path

    @classmethod
    def at(cls, process: ProcessRef, runtime_dir: Path) -> StorageDaemon:
        """The daemon of this process whose sockets lie in `runtime_dir`."""
        return cls(process, *cls.sockets(runtime_dir))

    @staticmethod
    def sockets(runtime_dir: Path) -> tuple[Path, Path]:
        """Where its control and its disk are served."""
        return runtime_dir / "storage.qmp", runtime_dir / "disk.nbd"

    def stop(self) -> None:
        """Write everything out and end the daemon; one that is gone already is no error. Raises HypervisorFault."""
        if not self.process.alive():
            return
        try:
            with QmpConnection(self.control_socket, "storage daemon") as qmp:
                qmp.execute("quit")
            self.process.wait(_QUIT_SECONDS)
        except HypervisorFault:
            pass  # it does not listen: ended below, as a crash would
        self.process.end()


def create_disk(spec: DiskSpec, key: Secret) -> StorageDaemon:
    """Make the new overlay file and serve it: at first exactly the backing's bytes, zeroes beyond its end.

    `key` is 32 random bytes. Raises ConflictError when the overlay exists, ImageError for a size that cannot be,
    HypervisorFault or StorageFault; then the file and the daemon are gone again.
    """
    if spec.disk_bytes <= 0 or spec.disk_bytes % SECTOR_BYTES:
        raise ImageError(f"disk size {spec.disk_bytes}: not a positive multiple of {SECTOR_BYTES} bytes")
    _write_new(spec.overlay, luks.new_header(key))
    try:
        return _serve(spec, key, new=True)
    except BaseException:
        spec.overlay.unlink(missing_ok=True)
        raise


def open_disk(spec: DiskSpec, key: Secret) -> StorageDaemon:
    """Serve an existing overlay again.

    Raises IntegrityRefused when the key does not open it, or its header is not that of a disk of this size made by
    create_disk, HypervisorFault, and StorageFault when it is missing.
    """
    if not spec.overlay.is_file() or spec.overlay.is_symlink():
        raise StorageFault(f"{spec.overlay}: the instance's disk is missing")
    return _serve(spec, key, new=False)


def _serve(spec: DiskSpec, key: Secret, *, new: bool) -> StorageDaemon:
    control, disk_socket = StorageDaemon.sockets(spec.runtime_dir)
    with _key_file(key) as key_fd:
        argv = ["qemu-storage-daemon", "--object", f"secret,id=overlay,format=raw,file=/proc/self/fd/{key_fd}"]
        with start_controlled(argv, "--monitor", control, spec.log, (key_fd,)) as started:
            qmp = started.qmp
            _open_container(qmp, spec.overlay)
            if new:
                _run_job(qmp, {"driver": "qcow2", "file": "luks", "size": spec.disk_bytes, "version": "v3"})
            server = {"type": "unix", "data": {"path": os.fspath(disk_socket)}}
            qmp.execute("nbd-server-start", {"addr": server})
            _check_overlay(qmp, disk_socket, spec.disk_bytes)
            _open_graph(qmp, spec.backing_socket, spec.disk_bytes)
    return StorageDaemon.at(started.process, spec.runtime_dir)


@contextmanager
def _key_file(key: Secret) -> Iterator[int]:
    """An anonymous memory file with the passphrase, for the length of a block.

    It has no name. The daemon keeps its descriptor for as long as it lives; so the file is emptied when it was read.
    """
    descriptor = os.memfd_create("overlay-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, luks.passphrase_of(key))
        yield descriptor
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _open_container(qmp: QmpConnection, overlay: Path) -> None:
    file = {"driver": "file", "filename": os.fspath(overlay), "node-name": "file", "discard": "unmap"}
    qmp.execute("blockdev-add", file)
    container = {"driver": "luks", "file": "file", "key-secret": "overlay", "node-name": "luks", "discard": "unmap"}
    try:
        qmp.execute("blockdev-add", container)
    except HypervisorFault as fault:
        if any(word in fault.message for word in _NOT_ITS_DISK):  # text is all that it says
            raise IntegrityRefused(
                f"{overlay}: the instance's key does not open it ({fault.message})",
                hint="another disk lies in its place, or its header is damaged: restore it from a backup",
            ) from fault
        raise


def _check_overlay(qmp: QmpConnection, disk_socket: Path, disk_bytes: int) -> None:
    """Read the qcow2 header through LUKS before anything interprets it."""
    export = {"type": "nbd", "id": _HEADER_EXPORT, "node-name": "luks", "name": _HEADER_EXPORT, "writable": False}
    qmp.execute("block-export-add", export)
    header = read_export(disk_socket, _HEADER_EXPORT, 0, qcow2.HEADER_READ_BYTES)
    qmp.execute("block-export-del", {"id": _HEADER_EXPORT, "mode": "hard"})
    qmp.wait_event(["BLOCK_EXPORT_DELETED"], _JOB_SECONDS)
    size = qcow2.check_header(header, "overlay")
    if size != disk_bytes:
        raise IntegrityRefused(f"overlay: its disk has {size} bytes, expected {disk_bytes}")


def _open_graph(qmp: QmpConnection, backing_socket: Path, disk_bytes: int) -> None:
    server = {"type": "unix", "path": os.fspath(backing_socket)}
    image = {"driver": "nbd", "server": server, "export": "", "node-name": "image", "read-only": True}
    qmp.execute("blockdev-add", image)
    nodes = qmp.execute("query-named-block-nodes", {"flat": True})
    image_bytes = next(node["image"]["virtual-size"] for node in nodes if node["node-name"] == "image")
    if image_bytes > disk_bytes:
        raise ImageError(f"disk size {disk_bytes}: smaller than the image's {image_bytes} bytes")
    disk = {"driver": "qcow2", "file": "luks", "backing": "image", "node-name": DISK_EXPORT, "discard": "unmap"}
    qmp.execute("blockdev-add", disk)
    export = {"type": "nbd", "id": DISK_EXPORT, "node-name": DISK_EXPORT, "name": DISK_EXPORT, "writable": True}
    qmp.execute("block-export-add", export)


def _run_job(qmp: QmpConnection, options: dict[str, Any]) -> None:
    qmp.execute("blockdev-create", {"job-id": "create", "options": options})
    while qmp.wait_event(["JOB_STATUS_CHANGE"], _JOB_SECONDS)["data"]["status"] != "concluded":
        pass
    (job,) = qmp.execute("query-jobs")
    qmp.execute("job-dismiss", {"id": "create"})
    if "error" in job:
        message = f"storage daemon: creating {options['driver']}: {job['error']}"
        full = os.strerror(errno.ENOSPC) in job["error"]  # text is all that it says
        raise StorageFault(message, hint="free space, and run it again") if full else HypervisorFault(message)


def _write_new(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConflictError(f"{path}: exists already") from error
    except OSError as error:
        raise StorageFault(f"{path}: cannot be made: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise StorageFault(f"{path}: cannot be written: {error.strerror}") from error
