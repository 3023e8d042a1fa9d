"""QMP, the control protocol of QEMU and its storage daemon, for code that is not asynchronous.

One connection at a time is served by the other side, so a connection is made for a task and closed after it. Commands
carry no key: keys reach a process by inherited descriptor only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qemu.qmp import EventListener, QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import ExecuteError

from sealvm.errors import HypervisorFault

_T = TypeVar("_T")
COMMAND_SECONDS = 20.0


class QmpConnection:
    """An open QMP session with `what`, named so in every error. Use as a context manager.

    Events are kept from the moment of connection until they are waited for. Not for use by two threads.
    """

    def __init__(self, socket: Path, what: str, timeout_seconds: float = COMMAND_SECONDS) -> None:
        """Connect and negotiate. Raises HypervisorFault when nobody answers in time."""
        self._what = what
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient(what)
        self._events = EventListener()
        self._client.register_listener(self._events)
        try:
            self._run(lambda: self._client.connect(str(socket)), "connecting", timeout_seconds)
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
