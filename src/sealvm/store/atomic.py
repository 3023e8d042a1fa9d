"""Files that appear whole or not at all.

May import only errors. Never holds a key.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from sealvm.errors import StorageFault

PARTIAL_PREFIX = ".partial-"
"""Names that begin so are unfinished files; nobody reads them."""


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that every reader, also after a crash, sees the old content or the new one.

    The file is written beside its place, flushed to the disk, given `mode`, and renamed; the directory is flushed too.
    Raises StorageFault; the old file is then untouched and nothing unfinished is left behind.
    """
    partial = ""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=PARTIAL_PREFIX, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
        partial = ""
        sync_directory(path.parent)
    except OSError as problem:
        raise StorageFault(f"cannot write {path}: {problem.strerror}", path=str(path)) from problem
    finally:
        if partial:
            with contextlib.suppress(OSError):
                Path(partial).unlink()


def sync_directory(directory: Path) -> None:
    """Flush a directory's entries to the disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
