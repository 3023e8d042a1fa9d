"""Running an authority as a process: one TLS socket, one directory."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog
import uvicorn

from sealvm.authority.http.app import create_app
from sealvm.authority.http.heads import PromptHttp
from sealvm.authority.local import open_context
from sealvm.authority.ports import TLS_CA_KEY
from sealvm.authority.tls import general_name, server_context
from sealvm.errors import EnvironmentFault, InputError
from sealvm.store.atomic import write_atomic

CONCURRENT_REQUESTS = 256
KEEP_ALIVE_SECONDS = 15
GRACE_SECONDS = 5
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104  compared with, not bound to

log = structlog.get_logger(__name__)


def serve(
    directory: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    names: Sequence[str] = (),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the authority in `directory` at `host`:`port` until SIGTERM or SIGINT; port 0 takes a free one.

    The TLS certificate names `names`, `host`, 127.0.0.1 and localhost; the first of them is what join tickets say. When
    the socket answers, `directory`/endpoint.json holds {"url", "pid"}, a line is logged, and `on_ready` is called with
    the URL. NotFoundError without an authority, EnvironmentFault when the address is taken, InputError for a bad name.
    """
    _log_to_stderr()
    known = _known_names(host, names)
    listener = listen(host, port)
    port = int(listener.getsockname()[1])
    urls = [f"https://{f'[{name}]' if ':' in name else name}:{port}" for name in known]
    try:
        ctx = open_context(directory, urls[0], urls)
        tls = server_context(ctx.custody.scalar(TLS_CA_KEY), ctx.settings.ca_pem, known, datetime.now(UTC))
        config = uvicorn.Config(
            create_app(ctx),
            http=PromptHttp,
            ssl_context_factory=lambda _config, _default: tls,
            limit_concurrency=CONCURRENT_REQUESTS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
            access_log=False,
            log_config=None,
            lifespan="off",
        )
        _Server(config, directory / "endpoint.json", urls[0], on_ready).run(sockets=[listener])
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """Says when it is ready, and where."""

    def __init__(
        self, config: uvicorn.Config, endpoint: Path, url: str, on_ready: Callable[[str], None] | None
    ) -> None:
        super().__init__(config)
        self._endpoint = endpoint
        self._url = url
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept, then announce it."""
        await super().startup(sockets)
        if self.should_exit:
            return
        body = json.dumps({"url": self._url, "pid": os.getpid()})
        write_atomic(self._endpoint, body.encode(), 0o644)
        log.info("authority ready", url=self._url, pid=os.getpid())
        if self._on_ready is not None:
            self._on_ready(self._url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the announcement back, then finish what is being answered."""
        _forget(self._endpoint)
        await super().shutdown(sockets)


def _known_names(host: str, names: Sequence[str]) -> list[str]:
    if host in WILDCARDS and not names:
        raise InputError(
            f"serving at {host!r} needs a name that hosts can reach", hint="name it: --name authority.example.org"
        )
    candidates = [*names, *(() if host in WILDCARDS else (host,)), "127.0.0.1", "localhost"]
    for name in candidates:
        general_name(name)
    return list(dict.fromkeys(candidates))


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=1024)
        # Inherited by every connection: asyncio sets it only on sockets that name their protocol, and without it each
        # answer waits 40 ms for the client's delayed acknowledgement of its first half.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot listen at {host}:{port}: {error.strerror}", hint="choose another port, or stop what is there"
        ) from error
    return listener


def _forget(endpoint: Path) -> None:
    """Remove endpoint.json, if it is still ours."""
    try:
        if json.loads(endpoint.read_text()).get("pid") == os.getpid():
            endpoint.unlink()
    except (OSError, ValueError):
        log.info("endpoint.json was gone already")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
