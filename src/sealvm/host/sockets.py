"""The short-lived directory in which an instance's processes meet, and listening sockets handed to them.

Socket paths are limited to 107 bytes by the kernel, so they do not lie below the host's directory but in /run (or the
user's runtime directory, or /tmp), in a directory of mode 0700 with a random name.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sealvm.errors import StorageFault

PATH_LIMIT_BYTES = 100


def choose_runtime_dir() -> Path:
    """A path for a new runtime directory, short enough for sockets. Nothing is made: the caller can note it first."""
    private = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0:
        top = Path("/run/sealvm")
    elif private and Path(private).is_dir() and len(private) < 50:
        top = Path(private) / "sealvm"
    else:
        top = Path(f"/tmp/sealvm-{os.geteuid()}")  # noqa: S108 - its owner and mode are checked when it is made
    return top / secrets.token_hex(8)


def make_runtime_dir(path: Path | None = None) -> Path:
    """The directory at `path`, as chosen before, which only this user can enter. Raises StorageFault."""
    path = path or choose_runtime_dir()
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        status = path.parent.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
            raise StorageFault(f"{path.parent}: not a directory of this user's alone")
        path.mkdir(mode=0o700)
    except OSError as error:
        raise StorageFault(f"no directory for sockets: {error.filename}: {error.strerror}") from error
    return path


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
