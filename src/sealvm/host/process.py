"""Programs that outlive the command that started them, and how they are found again and ended.

A process is known by its number, its start time and the boot it belongs to, so that a number which was given to another
program meanwhile is never mistaken for it, let alone killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sealvm.errors import EnvironmentFault, HypervisorFault, StorageFault

_POLL_SECONDS = 0.02
_MARK = "SEALVM_RUNTIME_DIR"


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process of this machine: `start_ticks` is field 22 of /proc/PID/stat, `boot_id` the kernel's."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessRef:
        """The reference to a process that runs now. Raises HypervisorFault when there is none."""
        stat = _stat(pid)
        if stat is None:
            raise HypervisorFault(f"process {pid} ended before it could be recorded")
        return cls(pid, stat.start_ticks, current_boot_id())

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does until its last thread has let go of files and locks."""
        if self.boot_id != current_boot_id():
            return False
        stat = _stat(self.pid)
        if stat is None or stat.start_ticks != self.start_ticks:
            return False
        return stat.state not in "ZX" or stat.threads > 1

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until it has ended; False when it still runs after that time."""
        deadline = time.monotonic() + timeout_seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        self._reap()
        return True

    def end(self, grace_seconds: float = 5.0) -> None:
        """Ask it to end, then make it; returns when it is gone. Raises HypervisorFault when it cannot be killed."""
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
            if self.alive():
                self._signal(number)
            if self.wait(seconds):
                return
        raise HypervisorFault(f"process {self.pid} does not end, even when killed")

    def _signal(self, number: signal.Signals) -> None:
        # a pidfd names this process for good: checked once more, it cannot be reused before the signal arrives
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)

    def _reap(self) -> None:
        try:
            os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return  # another command's child: init reaps it


def current_boot_id() -> str:
    """The kernel's identifier of the present boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_process(argv: Sequence[str], log: Path, inherit: Sequence[int] = (), mark: Path | None = None) -> ProcessRef:
    """Start a program in a session of its own, without core dumps, and with only the `inherit`ed descriptors.

    Its environment is empty but for PATH, and for `mark`, by which find_marked() finds it from its first moment on.
    Its output is appended to `log` (mode 0600). Descriptors keep their numbers. Raises EnvironmentFault when the
    program is not installed, StorageFault when `log` cannot be written, HypervisorFault when it ends at once.
    """
    program = shutil.which(argv[0])
    limiter = shutil.which("prlimit")
    if program is None or limiter is None:
        name = argv[0] if program is None else "prlimit"
        raise EnvironmentFault(f"{name} is not installed", hint="run: sealvm doctor")
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFault(f"{log}: cannot be written: {error.strerror}") from error
    actions: list[tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    # onto itself: the child's copy then stays open
    actions += [(os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in inherit]
    actions += [(os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inherited() if descriptor not in inherit]
    # 1 byte, not 0: the kernel then writes no file, and starts no core_pattern program either, which ignores a 0
    limited = [limiter, "--core=1:1", "--", program, *argv[1:]]
    try:
        pid = os.posix_spawn(limiter, limited, _environment(mark), file_actions=actions, setsid=True)
    finally:
        os.close(output)
    return ProcessRef.of(pid)


def find_marked(mark: Path) -> list[ProcessRef]:
    """The processes that belong to this runtime directory, whose name is random, and still run, recorded or not.

    They are those that start_process() marked with it, and an nbdkit that serves a socket in it.
    """
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and _belongs(entry, os.fsencode(mark)):
                found.append(ProcessRef.of(int(entry.name)))
        except (OSError, HypervisorFault):
            continue  # it ended meanwhile, or is another user's
    return found


def _belongs(entry: Path, mark: bytes) -> bool:
    argv = (entry / "cmdline").read_bytes().split(b"\0")
    if os.path.basename(argv[0]) == b"nbdkit" and any(word.startswith(mark + b"/") for word in argv):  # noqa: PTH119
        return True
    return _MARK.encode() + b"=" + mark in (entry / "environ").read_bytes().split(b"\0")


def _environment(mark: Path | None) -> dict[str, str]:
    minimal = {"PATH": os.environ.get("PATH", os.defpath)}
    return minimal if mark is None else {**minimal, _MARK: os.fspath(mark)}


def _inherited() -> list[int]:
    """Descriptors that whoever started this program left open for its children: a pipe of a shell, for instance."""
    found = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        try:
            if number > 2 and os.get_inheritable(number):
                found.append(number)
        except OSError:
            continue  # the listing's own descriptor
    return found


class _Stat(NamedTuple):
    state: str
    threads: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    """What proc(5) calls fields 3, 20 and 22 of a process, None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before may hold anything
    return _Stat(fields[0], int(fields[17]), int(fields[19]))
