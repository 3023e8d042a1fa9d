"""What these tests share: a small guest, and nbdkit with a plain file in place of the sealed block server."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sealvm.host.process import ProcessRef
from sealvm.host.sockets import make_runtime_dir, remove_runtime_dir
from sealvm.secret import Secret

GREETING = "hello from the boot loader"


@dataclass
class PlainServer:
    """A block server without sealing."""

    process: ProcessRef
    socket: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        self.process.end()

    def alive(self) -> bool:
        return self.process.alive()


@dataclass
class PlainServers:
    """Serves a raw image with `nbdkit file`; what it starts it can be asked for."""

    image: Path
    filters: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    options: tuple[str, ...] = ("-r",)
    started: list[PlainServer] = field(default_factory=list)

    def __call__(self, layout_dir: Path, header_digest: str, key: Secret, runtime_dir: Path) -> PlainServer:
        socket, pidfile = runtime_dir / "disk.sock", runtime_dir / "plain.pid"
        filters = [f"--filter={name}" for name in self.filters]
        argv = ["nbdkit", *self.options, "-U", str(socket), "-P", str(pidfile), *filters, "file", str(self.image)]
        subprocess.run([*argv, *self.parameters], check=True)
        deadline = time.monotonic() + 5
        while not pidfile.exists() or not pidfile.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.started.append(PlainServer(ProcessRef.of(int(pidfile.read_text())), socket))
        return self.started[-1]


@contextmanager
def runtime_dir() -> Iterator[Path]:
    path = make_runtime_dir()
    try:
        yield path
    finally:
        remove_runtime_dir(path)


def overlay_key() -> Secret:
    return Secret(os.urandom(32))


def image_cache() -> Path:
    """Where the tests keep installed systems: the checkout's own cache, so that one build serves every run."""
    return Path(__file__).parents[2] / ".cache" / "images"


def processes_mentioning(text: str) -> list[str]:
    """The command lines of this machine's processes that hold `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found
