"""Reading a host's own files, with a limit: they may have been put there by anybody with the disk in his hands."""

from __future__ import annotations

from pathlib import Path

from sealvm.errors import MalformedError, NotFoundError, StorageFault


def read_limited(path: Path, limit_bytes: int, hint: str = "") -> bytes:
    """The contents of `path`, at most `limit_bytes`.

    NotFoundError with `hint` when there is no such file, MalformedError when it is longer, StorageFault when it cannot
    be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except FileNotFoundError as missing:
        raise NotFoundError(f"{path}: no such file", hint=hint) from missing
    except OSError as failure:
        raise StorageFault(f"{path}: cannot be read: {failure.strerror}") from failure
    if len(data) > limit_bytes:
        raise MalformedError(f"{path}: longer than {limit_bytes} bytes")
    return data
