"""QMP, the control protocol of QEMU and its storage daemon, for code that is not asynchronous.

A program is started with two monitors. The first serves a Unix socket for as long as the program runs, one connection
at a time, so a connection is made for a task and closed after it. The second is a socket pair, open from the start, for
what is to be done first. Connecting to the first while the program still sets it up is a race in QEMU 7.2 (it greets
twice, or never answers); both share a thread that sets them up in order, so an answer on the second says that the first
is ready. Commands carry no key: keys reach a process by inherited descriptor only.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qemu.qmp import EventListener, QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import ExecuteError

from sealvm.errors import HypervisorFault
from sealvm.host.process import ProcessRef, start_process
from sealvm.host.sockets import listening_socket

_T = TypeVar("_T")
COMMAND_SECONDS = 20.0


class QmpConnection:
    """An open QMP session with `what`, named so in every error. Use as a context manager.

    Events are kept from the moment of connection until they are waited for. Not for use by two threads.
    """

    def __init__(self, address: Path | socket.socket, what: str, timeout_seconds: float = COMMAND_SECONDS) -> None:
        """Connect, unless `address` is a connected socket, and negotiate.

        Raises HypervisorFault when nobody answers in time.
        """
        self._what = what
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient(what)
        self._events = EventListener()
        self._client.register_listener(self._events)
        try:
            target = address if isinstance(address, socket.socket) else str(address)
            self._run(lambda: self._client.connect(target), "connecting", timeout_seconds)
        except HypervisorFault:
            self._loop.close()
            raise

    def __enter__(self) -> QmpConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """The answer to one command. Raises HypervisorFault with the other side's words when it refuses."""
        sent = dict(arguments) if arguments is not None else None
        return self._run(lambda: self._client.execute(command, sent), command, self._timeout_seconds)

    def wait_event(self, names: Collection[str], timeout_seconds: float) -> dict[str, Any]:
        """The next event of one of these names, dropping others. Raises HypervisorFault after `timeout_seconds`."""

        async def next_event() -> dict[str, Any]:
            while True:
                event = await self._events.get()
                if event["event"] in names:
                    return dict(event)

        return self._run(next_event, f"waiting for {' or '.join(sorted(names))}", timeout_seconds)

    def close(self) -> None:
        """End the session; the other side goes on. Does nothing a second time."""
        if self._loop.is_closed():
            return
        try:
            self._run(self._client.disconnect, "disconnecting", self._timeout_seconds)
        except HypervisorFault:
            pass  # the other side is gone: what was asked for is the case
        finally:
            self._loop.close()

    def _run(self, action: Callable[[], Coroutine[Any, Any, _T]], doing: str, timeout_seconds: float) -> _T:
        async def limited() -> _T:
            return await asyncio.wait_for(action(), timeout_seconds)

        try:
            return self._loop.run_until_complete(limited())
        except TimeoutError as error:
            raise HypervisorFault(f"{self._what}: {doing}: no answer within {timeout_seconds:g} s") from error
        except ExecuteError as error:
            raise HypervisorFault(f"{self._what}: {doing}: {error}", qmp_class=error.error_class) from error
        except (QMPError, EOFError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise HypervisorFault(f"{self._what}: {doing}: {reason}") from error


@dataclass(frozen=True, slots=True)
class Controlled:
    """A program that was just started: its process, and the session for what is to be done first."""

    process: ProcessRef
    qmp: QmpConnection


@contextmanager
def start_controlled(
    argv: Sequence[str], monitor_option: str, control: Path, log: Path, inherit: Sequence[int] = ()
) -> Iterator[Controlled]:
    """Start a QEMU program that serves QMP at `control`; the session given ends with the block, the program goes on.

    When the block raises, the program is ended. `monitor_option` is the program's own word for a monitor. Raises
    HypervisorFault with the program's last words when it does not start, EnvironmentFault, StorageFault.
    """
    what = argv[0]
    ours, theirs = socket.socketpair()
    with ours, listening_socket(control) as control_fd:
        monitors = ["--chardev", f"socket,id=control,fd={control_fd},server=on,wait=off"]
        monitors += [monitor_option, "chardev=control,mode=control"]
        monitors += ["--chardev", f"socket,id=first,fd={theirs.fileno()}", monitor_option, "chardev=first,mode=control"]
        with theirs:
            process = start_process([*argv, *monitors], log, (*inherit, control_fd, theirs.fileno()), control.parent)
        try:
            with _first_session(ours, what, log) as qmp:
                yield Controlled(process, qmp)
        except BaseException:
            process.end(grace_seconds=1.0)
            raise


def _first_session(connected: socket.socket, what: str, log: Path) -> QmpConnection:
    try:
        return QmpConnection(connected, what)
    except HypervisorFault as fault:
        raise HypervisorFault(f"{what} does not start: {_last_line(log) or fault.message}") from fault


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
