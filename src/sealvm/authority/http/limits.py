"""What a caller may send: bodies that end in time and are no longer than their route needs, and unambiguous JSON.

Only the routes that take event logs accept 8 MiB; all others 512 KiB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sealvm.crypto import canonical
from sealvm.protocol.messages import MESSAGE_BYTES_LIMIT

BODY_SECONDS = 30.0
BODY_BYTES_LIMIT = 512 * 1024
WITH_EVENT_LOG = frozenset({"/v1/enroll/finish", "/v1/sync", "/v1/evidence", "/v1/leases"})
WITH_PREDICTION = "/predicted"


class BodyLimit:
    """ASGI middleware: a body that is too long is answered with 413, one that does not end in time with 408."""

    def __init__(self, app: ASGIApp, seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        long = path in WITH_EVENT_LOG or path.endswith(WITH_PREDICTION)
        limit = MESSAGE_BYTES_LIMIT if long else BODY_BYTES_LIMIT
        await self._app(scope, self._limited(receive, limit), send)

    def _limited(self, receive: Receive, limit: int) -> Receive:
        received = 0
        deadline: float | None = None
        complete = False

        async def limited() -> Message:
            nonlocal received, deadline, complete
            if complete:  # from here on the server only waits for the client to go away
                return await receive()
            now = asyncio.get_running_loop().time()
            deadline = deadline or now + self._seconds
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, "the body did not arrive in time") from error
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                complete = not message.get("more_body", False)
            if received > limit:
                raise HTTPException(413, f"the body is longer than {limit} bytes")
            return message

        return limited


class StrictRequest(Request):
    """A request whose JSON is read by crypto.canonical: no duplicate keys, no NaN, bounded nesting."""

    async def json(self) -> Any:
        return canonical.loads(await self.body(), "request body", MESSAGE_BYTES_LIMIT)


class StrictRoute(APIRoute):
    """A route that reads its body through StrictRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict
