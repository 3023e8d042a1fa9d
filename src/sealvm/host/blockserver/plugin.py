"""nbdkit's Python plugin: NBD requests to PackageReader, and nothing else.

Parameters: oci=DIR package=HEADER_DIGEST key_fd=N log_fd=N cache_bytes=N. K (32 bytes) is read from key_fd, which is
then closed. A chunk that does not verify is an EIO for that request and one line in the log; others are served.

Blobs are opened before nbdkit gives up its privileges. Not dumpable, no core files. May import package, store, crypto
and errors; nothing slow, since every launch waits for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import nbdkit

from sealvm.errors import MalformedError, SealvmError
from sealvm.package.keys import KEY_BYTES, check_commitment
from sealvm.package.locate import header_of
from sealvm.package.reader import PackageReader
from sealvm.secret import Secret
from sealvm.store.layout import OciLayout

API_VERSION = 2
_PR_SET_DUMPABLE = 4
_MAX_REMEMBERED = 4096
_parameters: dict[str, str] = {}
_readers: list[PackageReader] = []
_served: list[bool] = []
_logged: set[str] = set()


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(name: str, value: str) -> None:
    if name not in ("oci", "package", "key_fd", "log_fd", "cache_bytes"):
        raise ValueError(f"unknown parameter {name}")
    _parameters[name] = value


def get_ready() -> None:
    """Read K, open the package and every blob of it; nbdkit drops its privileges after this."""
    # 1 byte, not 0: the kernel then writes no file, and starts no core_pattern program either, which ignores a 0
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    _forbid_dumps()
    try:
        _readers.append(_open_reader())
    except SealvmError as problem:
        _log(problem)
        raise


def after_fork() -> None:
    """Once more: a change of user sets what fs.suid_dumpable says."""
    _forbid_dumps()


def _forbid_dumps() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _open_reader() -> PackageReader:
    layout = OciLayout.open(Path(_parameters["oci"]))
    header = header_of(layout, _parameters["package"])
    key = _read_key(int(_parameters["key_fd"]))
    check_commitment(key, header.commitment, header.lineage, header.version)
    for pack in header.packs:
        layout.size(pack.digest)
    return PackageReader(header, key, layout, int(_parameters["cache_bytes"]))


def _read_key(descriptor: int) -> Secret:
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        value = pipe.read(KEY_BYTES)
    if len(value) != KEY_BYTES:
        raise MalformedError(f"package key: {len(value)} bytes, expected {KEY_BYTES}")
    return Secret(value)


def open(readonly: bool) -> int:
    """The first client: the server runs, and what nbdkit still has to say is dropped.

    It reports every failed request with a traceback; a guest that repeats its reads must not fill the host's disk.
    """
    if not _served:
        _served.append(True)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
    return 1


def get_size(handle: int) -> int:
    return _readers[0].disk_bytes


def can_multi_conn(handle: int) -> bool:
    return True


def can_extents(handle: int) -> bool:
    return True


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    try:
        _readers[0].read_into(offset, buffer)
    except SealvmError as problem:
        _refuse(problem)


def extents(handle: int, count: int, offset: int, flags: int) -> Iterator[tuple[int, int, int]]:
    try:
        runs = list(_readers[0].extents(offset, count))
    except SealvmError as problem:
        _refuse(problem)
    hole = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    return iter([(start, length, hole if zero else 0) for start, length, zero in runs])


def _refuse(problem: SealvmError) -> NoReturn:
    """Answer EIO. nbdkit's own report of the exception goes to its standard error; the event is our line."""
    _log(problem)
    nbdkit.set_error(errno.EIO)
    raise problem


def _log(problem: SealvmError) -> None:
    """One line for each different event: a guest that reads a bad chunk again and again does not fill the disk."""
    line = f"{problem.code}: {problem.message}"
    if line in _logged or len(_logged) >= _MAX_REMEMBERED:
        return
    _logged.add(line)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.write(int(_parameters["log_fd"]), f"{stamp} {line}\n".encode())
