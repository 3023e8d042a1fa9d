"""`sealvm vm console`, typed at by a test."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from types import TracebackType

from tests.e2e.network import PROMPT, Network

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """The program's console command in a process of its own, on pipes."""

    def __init__(self, network: Network, host: str, name: str) -> None:
        arguments = ("vm", "console", name, "--host", host)
        self._process = network.start(*arguments, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._came = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def type(self, text: str) -> None:
        """Type a text."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def expect(self, text: str, seconds: float = 20) -> str:
        """Read until the text comes, and give back all up to it."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while text not in (shown := _CONTROL.sub("", self._came)):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(descriptor, 65536) if ready else b""
            assert data, f"no {text!r}, but {shown!r}"
            self._came += data.decode(errors="replace")
        before, _, self._came = shown.partition(text)
        return before

    def drain(self) -> None:
        """Take in what has come, so that the guest can go on printing."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while select.select([descriptor], [], [], 0)[0] and os.read(descriptor, 65536):
            pass

    def command(self, text: str) -> str:
        """A command at the boot loader's prompt, and its answer."""
        self.type(f"{text}\r")
        self.expect(text[-8:])
        return self.expect(PROMPT)

    def leave(self) -> int:
        """Ctrl-]; the program's exit code."""
        self.type("\x1d")
        return self._process.wait(10)
