"""What somebody without token and without an enrolled key can make the authority do: nothing that others wait for."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from sealvm.authority.http.heads import PromptHttp
from sealvm.authority.operators import host_of
from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import AccessRefused
from sealvm.protocol.proof import make_proof
from tests.authority.harness import Authority


def test_a_strangers_proof_does_not_take_the_write_lock(authority: Authority) -> None:
    ctx, stranger = authority.context, SoftwareSigner.generate()
    url = f"{ctx.settings.url}/v1/sync"
    proof = make_proof(stranger, "POST", url, b"", now=authority.clock(), jti=os.urandom(16))
    with ctx.store.write(), pytest.raises(AccessRefused, match="not an enrolled host's"):
        host_of(ctx, proof, "POST", "/v1/sync", b"")


class Impatient(PromptHttp):
    head_seconds = 0.3


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(hello, http=Impatient, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield listener.getsockname()
    server.should_exit = server.force_exit = True
    thread.join(timeout=10)
    listener.close()


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def answer_of(client: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"ok"):
        answer += client.recv(4096)
    return answer


@pytest.mark.parametrize(("requests", "begun"), [(0, b""), (0, HEAD[:20]), (1, HEAD[:20])])
def test_a_head_that_does_not_end_ends_the_connection(address: tuple[str, int], requests: int, begun: bytes) -> None:
    with socket.create_connection(address, timeout=5) as client:
        for _request in range(requests):
            client.sendall(HEAD)
            assert answer_of(client)
        client.sendall(begun)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(4096) == b""


def test_a_connection_that_rests_between_requests_stays(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=5) as client:
        for _request in range(2):
            client.sendall(HEAD)
            assert answer_of(client).startswith(b"HTTP/1.1 200 OK")
            time.sleep(0.5)
