"""The short-lived directory in which an instance's processes meet, and listening sockets handed to them.

Socket paths are limited to 107 bytes by the kernel, so they do not lie below the host's directory but in /run (or the
user's runtime directory, or /tmp), in a directory of mode 0700 with a random name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sealvm.errors import StorageFault

PATH_LIMIT_BYTES = 100


def make_runtime_dir() -> Path:
    """A new directory that only this user can enter, with a path short enough for sockets. Raises StorageFault."""
    private = os.environ.get("XDG_RUNTIME_DIR")
    try:
        if os.geteuid() == 0:
            return _make_below(Path("/run/sealvm"))
        if private and Path(private).is_dir() and len(private) < 50:
            return _make_below(Path(private) / "sealvm")
        return Path(tempfile.mkdtemp(prefix="sealvm-", dir="/tmp"))  # 0700, and not there before
    except OSError as error:
        raise StorageFault(f"no directory for sockets: {error.filename}: {error.strerror}") from error


def remove_runtime_dir(path: Path) -> None:
    """Remove such a directory with its sockets; one that is gone already is no error."""
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def listening_socket(path: Path) -> Iterator[int]:
    """The descriptor of a new Unix socket at `path` that already accepts connections.

    A program that inherits it can be connected to from now on, without waiting for it to start. The descriptor is
    closed at the end of the block; the path stays. Raises StorageFault.
    """
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        raise StorageFault(f"{path}: socket path longer than {PATH_LIMIT_BYTES} bytes")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(os.fspath(path))
            path.chmod(0o600)
            listener.listen(4)
        except OSError as error:
            raise StorageFault(f"{path}: no socket can be made here: {error.strerror}") from error
        yield listener.fileno()


def _make_below(top: Path) -> Path:
    top.mkdir(mode=0o700, exist_ok=True)
    if top.lstat().st_uid != os.geteuid() or not top.is_dir() or top.is_symlink():
        raise StorageFault(f"{top}: not a directory of this user's")
    path = top / secrets.token_hex(4)
    path.mkdir(mode=0o700)
    return path
