"""Files that a user names on the command line, read within limits."""

from __future__ import annotations

from pathlib import Path

from sealvm.errors import MalformedError
from sealvm.host.files import read_limited
from sealvm.host.keyring import BUNDLE_LIMIT_BYTES

LIMIT_BYTES = 1024 * 1024


def read_bytes(path: Path, what: str) -> bytes:
    """The file's bytes. Raises NotFoundError, MalformedError above 1 MiB, StorageFault."""
    return read_limited_file(path, LIMIT_BYTES, what)


def read_limited_file(path: Path, limit: int, what: str) -> bytes:
    """The file's bytes. Raises NotFoundError, MalformedError above `limit` bytes, StorageFault."""
    return read_limited(path, limit, hint=f"name the file with the {what}")


def read_text(path: Path, what: str) -> str:
    """The file's text. Raises as `read_bytes`, and MalformedError when it is no UTF-8."""
    try:
        return read_bytes(path, what).decode()
    except UnicodeDecodeError as problem:
        raise MalformedError(f"{what} {path}: is not UTF-8 text") from problem


def read_bundle(path: Path | None) -> bytes | None:
    """The trust bundle's envelope in a file, or None when no file was named. Raises as `read_bytes`."""
    return None if path is None else read_limited(path, BUNDLE_LIMIT_BYTES, hint="a host's is its bundle.dsse")
