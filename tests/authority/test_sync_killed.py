"""A synchronisation that brings a key, ends an epoch and wraps a disk anew is killed at each of its steps.

In a process of its own it is killed (SIGKILL) before and after the Nth change of a file, for every N. After each the
host must still open its disk, and the next synchronisation must complete what was begun.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sealvm.host.config import load_host
from sealvm.host.keyring import Keyring
from sealvm.host.sync import sync
from tests.authority.test_disks import Scene, scene  # noqa: F401  a fixture

pytestmark = [pytest.mark.tpm, pytest.mark.slow]

KILLED_AT = """
import os, pathlib, signal, sys
count = int(sys.argv[2])
seen = 0

def counted(function):
    def wrapped(*args, **kwargs):
        global seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

os.replace = counted(os.replace)
os.rename = counted(os.rename)
pathlib.Path.replace = counted(pathlib.Path.replace)
pathlib.Path.unlink = counted(pathlib.Path.unlink)
from sealvm.host.sync import sync
sync(pathlib.Path(sys.argv[1]))
"""
MEMORY = ("anchor.json", "bundle.dsse", "bundle.kept.dsse", "keys", "instances", "identity.json", "leases")


def kept(directory: Path, into: Path) -> None:
    """Copy what a synchronisation changes, in place of what is there."""
    for name in MEMORY:
        source, target = directory / name, into / name
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy2(source, target)


def run_killed(directory: Path, count: int) -> int:
    command = [sys.executable, "-c", KILLED_AT, str(directory), str(count)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def test_killed_at_each_step(scene: Scene, tmp_path: Path) -> None:  # noqa: F811
    scene.rotate()
    scene.rewrap()
    sync(scene.host.directory)
    scene.rotate()
    scene.rewrap()
    scene.retire(1)  # epoch 2 opens everything; the next sync brings epoch 3, wraps the disk anew and drops epoch 1
    before = tmp_path / "before"
    before.mkdir()
    kept(scene.host.directory, before)
    directory, steps = scene.host.directory, 0
    while True:
        steps += 1
        kept(before, directory)
        code = run_killed(directory, steps)
        assert scene.opens(), f"killed at step {steps}: the disk does not open"
        assert scene.package().unwrap(_opener(scene)).reveal() == scene.package_key.reveal()
        if code == 0:
            break
        assert code == -9, f"step {steps} ended with {code}"
        sync(directory)
        assert scene.epochs() == [2, 3], f"killed at step {steps}"
        assert {path.name for path in (directory / "keys").iterdir()} == {"measured.2.json", "measured.3.json"}
        assert Keyring(directory).kept_bundle() is None
        assert scene.opens()
    assert steps > 10


def _opener(scene: Scene):  # noqa: F811
    from sealvm.host.unlock import open_keys

    return open_keys(load_host(scene.host.directory))
