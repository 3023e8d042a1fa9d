"""One blob while it is being written.

May import errors and the store's own modules. Holds ciphertext, never a key.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from sealvm.errors import StorageFault
from sealvm.package.ports import Descriptor
from sealvm.store.atomic import PARTIAL_PREFIX, sync_directory

_WRITEBACK_BYTES = 16 * 1024 * 1024


class BlobFile:
    """A blob that appears under its SHA-256 at `commit()`; leaving the context without it leaves nothing behind.

    While it is written the file is locked, so that the sweep of another writer can tell it from a dead one's. Every
    method raises StorageFault when the file system fails.
    """

    def __init__(self, directory: Path, committed: Callable[[str], None] | None = None) -> None:
        self._directory = directory
        self._committed = committed
        self._hash = hashlib.sha256()
        self._flushed = 0
        self.size = 0
        with storage_errors(directory):
            descriptor, name = _locked_file(directory)
            self._partial: Path | None = Path(name)
            self._file = os.fdopen(descriptor, "wb", buffering=0)
            os.fchmod(descriptor, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._partial is not None:
            with contextlib.suppress(OSError):
                self._partial.unlink()
            self._partial = None
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with storage_errors(self._directory):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self._hash.update(data)
        self.size += len(data)
        if self.size - self._flushed >= _WRITEBACK_BYTES:
            # Starts writing to the disk without waiting for it (Linux), so that commit() has little left to flush.
            os.posix_fadvise(self._file.fileno(), self._flushed, self.size - self._flushed, os.POSIX_FADV_DONTNEED)
            self._flushed = self.size

    def commit(self) -> Descriptor:
        """Flush the blob to the disk, give it its name, and return its digest and size in bytes."""
        if self._partial is None:
            raise StorageFault("this blob is already closed")
        digest = self._hash.hexdigest()
        with storage_errors(self._directory):
            os.fsync(self._file.fileno())
            if self._committed is not None and not (self._directory / digest).exists():
                self._committed("sha256:" + digest)
            self._partial.replace(self._directory / digest)
            self._partial = None
            sync_directory(self._directory)
        return Descriptor("sha256:" + digest, self.size)


def _locked_file(directory: Path) -> tuple[int, str]:
    """A new locked file; tried again when another writer's sweep takes it in the moment before it is locked."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=PARTIAL_PREFIX, dir=directory)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageFault that names `path`."""
    try:
        yield
    except OSError as problem:
        raise StorageFault(f"storage failed at {path}: {problem.strerror}", path=str(path)) from problem
