"""What a record may say: it lies on a disk that others may hold, and commands act on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sealvm.errors import MalformedError
from sealvm.host.instance_record import InstanceFolder
from sealvm.host.sockets import choose_runtime_dir

RECORD = {
    "id": "guest",
    "header_digest": "00" * 32,
    "layout_dir": "/srv/packages",
    "disk_bytes": 512,
    "memory_mib": 64,
    "cpus": 1,
    "created": "2026-11-23T12:00:00Z",
}


def read(folder: Path, **changes: object) -> InstanceFolder:
    (folder / "instance.json").write_text(json.dumps(RECORD | changes))
    return InstanceFolder(folder)


def test_the_directories_that_are_made_are_taken(tmp_path: Path) -> None:
    for path in (str(choose_runtime_dir()), "/run/sealvm/0123456789abcdef", "/tmp/sealvm-1000/0123456789abcdef", ""):
        assert read(tmp_path, runtime_dir=path).read().runtime_dir == path


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/home",
        ".",
        "..",
        "run/sealvm/0123456789abcdef",
        "/run/sealvm",
        "/run/sealvm/..",
        "/run/sealvm/0123456789abcdef/..",
    ],
)
def test_another_directory_is_never_acted_upon(tmp_path: Path, path: str) -> None:
    """`vm stop` removes the runtime directory with all that is in it."""
    with pytest.raises(MalformedError, match="runtime_dir"):
        read(tmp_path, runtime_dir=path).read()
