"""The highest version of every lineage that this host was about to start: HOST/lineages.json (package-v1.md, 10).

Protects against an older package in place of a newer one; not against whoever rewrites this host's own files, which a
launch order that names the exact package does.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sealvm.crypto import canonical
from sealvm.errors import MalformedError, NotFoundError, StorageFault
from sealvm.host.files import read_limited
from sealvm.package.header import Header, check_version
from sealvm.store.atomic import write_atomic

FILE = "lineages.json"
LIMIT_BYTES = 8 * 1024 * 1024
_LINEAGE = re.compile(r"[0-9a-f]{32}")


def check(host_dir: Path, header: Header) -> None:
    """Raise RollbackRefused when a newer version of the header's lineage was started here; MalformedError."""
    check_version(header, _read(host_dir).get(header.lineage.hex()))


def remember(host_dir: Path, header: Header) -> None:
    """Keep the header's version, if it is the highest. To be called before anything of the package starts.

    Raises RollbackRefused when a newer one was remembered since `check`, MalformedError, StorageFault.
    """
    with _exclusive(host_dir):
        versions = _read(host_dir)
        lineage = header.lineage.hex()
        check_version(header, versions.get(lineage))
        if header.version > versions.get(lineage, 0):
            write_atomic(host_dir / FILE, canonical.dumps({**versions, lineage: header.version}), 0o600)


def _read(host_dir: Path) -> dict[str, int]:
    path = host_dir / FILE
    try:
        data = read_limited(path, LIMIT_BYTES)
    except NotFoundError:
        return {}
    obj = canonical.loads(data, str(path), LIMIT_BYTES)
    if not isinstance(obj, dict) or not all(_LINEAGE.fullmatch(k) and type(v) is int for k, v in obj.items()):
        raise MalformedError(f"{path}: expected lineages and their versions", hint="restore it from a backup")
    return obj


@contextmanager
def _exclusive(host_dir: Path) -> Iterator[None]:
    try:
        descriptor = os.open(host_dir / "lineages.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFault(f"{host_dir}: lineages.lock cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
