"""A guest's serial console: watched for a text, or joined to a terminal.

The console is a Unix socket of the hypervisor that serves one reader at a time. What the guest prints while nobody
reads is lost; none of it is ever written to a file here.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from sealvm.errors import HypervisorFault

LEAVE = b"\x1d"  # Ctrl-]
LINE_LIMIT_CHARS = 4096
KEPT_LINES = 2000

_READ_BYTES = 65536
_CHECK_SECONDS = 0.5
_PROMPT_SECONDS = 0.1
# ECMA-48 control sequences, other escapes, and what is left of the control characters but newline and tab
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]"
)


@dataclass(frozen=True, slots=True)
class ConsoleLines:
    """What was seen until the text came, in whole lines without control sequences; the last one holds the text."""

    lines: tuple[str, ...]
    seconds: float


class Console:
    """A connection to a console; nothing that the guest prints from then on is missed. Use as a context manager."""

    def __init__(self, path: Path, timeout_seconds: float = 5.0) -> None:
        """Connect. Raises HypervisorFault when the machine is gone."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HypervisorFault("console: nobody serves it", hint="is the instance running?") from error
        self._unread = b""

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the guest goes on."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Type `data`. Raises HypervisorFault when the machine is gone."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise HypervisorFault("console: the machine is gone") from error

    def wait_text(self, text: str, timeout_seconds: float, check: Callable[[], None] | None = None) -> ConsoleLines:
        """Read until a line holds `text`, which may be an unfinished line such as a prompt.

        `check` is called every half second and may raise to end the wait, when the guest has stopped for instance.
        Raises HypervisorFault when the console ends first or the time is over; `lines` in its fields says what came.
        """
        started = time.monotonic()
        lines: list[str] = []
        while True:
            *complete, rest = _plain(self._unread).split("\n")
            found = next((number for number, line in enumerate(complete) if text in line), None)
            if found is not None:
                self._keep(_after_lines(self._unread, found + 1))
                return ConsoleLines((*lines, *complete[: found + 1]), time.monotonic() - started)
            if text in rest:
                # a line is shown whole, but a prompt stays unfinished
                if len(rest) < LINE_LIMIT_CHARS and self._read(lines, _PROMPT_SECONDS):
                    continue
                self._keep(b"")
                return ConsoleLines((*lines, *complete, rest), time.monotonic() - started)
            lines = [*lines, *complete][-KEPT_LINES:]
            self._keep(_after_lines(self._unread, len(complete))[-LINE_LIMIT_CHARS:])
            if time.monotonic() - started > timeout_seconds:
                raise HypervisorFault(f"console: no {text!r} within {timeout_seconds:g} s", lines=[*lines, rest])
            if not self._read(lines) and check is not None:
                check()

    def attach(self, stdin: int, stdout: int) -> None:
        """Join the console to a terminal until Ctrl-] is typed, the input ends, or the machine does.

        The terminal is in raw mode meanwhile and is given back as it was.
        """
        with _raw(stdin):
            console = self._socket.fileno()
            while True:
                ready, _, _ = select.select([console, stdin], [], [])
                if console in ready:
                    data = self._receive()
                    if not data:
                        return
                    os.write(stdout, data)
                if stdin in ready:
                    typed = os.read(stdin, _READ_BYTES)
                    before, leave, _ = typed.partition(LEAVE)
                    if before:
                        self.send(before)
                    if leave or not typed:
                        return

    def _keep(self, data: bytes) -> None:
        self._unread = data

    def _read(self, lines: list[str], seconds: float = _CHECK_SECONDS) -> bool:
        """Take in what has come; False when nothing came for a while."""
        ready, _, _ = select.select([self._socket], [], [], seconds)
        if not ready:
            return False
        data = self._receive()
        if not data:
            raise HypervisorFault("console: the machine is gone", lines=lines)
        self._unread += data
        return True

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_READ_BYTES)
        except OSError:
            return b""


def _plain(data: bytes) -> str:
    return _CONTROL.sub("", data.decode("utf-8", errors="replace"))


def _after_lines(data: bytes, count: int) -> bytes:
    return data.split(b"\n", count)[-1] if count else data


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """The terminal in raw mode; what is no terminal stays as it is."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
