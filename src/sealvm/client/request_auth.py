"""How callers prove who they are: operators by bearer token, hosts by a proof signed anew for each request."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from datetime import UTC, datetime

import httpx

from sealvm.crypto.ec import Signer
from sealvm.protocol.proof import JTI_BYTES, PROOF_HEADER, make_proof
from sealvm.secret import Secret


class OperatorAuth(httpx.Auth):
    """An operator's bearer token."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the token."""
        request.headers["Authorization"] = f"Bearer {self._token.reveal().decode().strip()}"
        yield request


class HostAuth(httpx.Auth):
    """A proof of the host's request key over method, URL, time and body of each request."""

    requires_request_body = True

    def __init__(self, signer: Signer, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._signer = signer
        self._clock = clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign the request."""
        url = str(request.url.copy_with(query=None, fragment=None))
        request.headers[PROOF_HEADER] = make_proof(
            self._signer,
            request.method,
            url,
            request.content,
            now=self._clock(),
            jti=secrets.token_bytes(JTI_BYTES),
        )
        yield request
