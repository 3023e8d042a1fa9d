"""Dependencies that say who is calling: an operator by bearer token, a host by a proof of its request key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from sealvm.authority.operators import host_of, operator_of
from sealvm.authority.ports import Context
from sealvm.authority.records import HostRecord
from sealvm.errors import AccessRefused
from sealvm.protocol.proof import PROOF_HEADER

_bearer = HTTPBearer(auto_error=False, description="an operator's token")
_proof = APIKeyHeader(name=PROOF_HEADER, auto_error=False, description="a host's proof JWT for this request")


def context_of(request: Request) -> Context:
    """The context of the application that serves this request."""
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(context_of)]


def require_operator(ctx: Ctx, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """The operator's name for the audit log; AccessRefused."""
    if credentials is None:
        raise AccessRefused("an operator's bearer token is required")
    return operator_of(ctx, credentials.credentials)


async def require_host(request: Request, ctx: Ctx, proof: Annotated[str | None, Depends(_proof)]) -> HostRecord:
    """The enrolled host that signed this very request; AccessRefused."""
    if proof is None:
        raise AccessRefused(f"a host's proof in the header {PROOF_HEADER} is required")
    body = await request.body()
    return await run_in_threadpool(host_of, ctx, proof, request.method, request.url.path, body)


Operator = Annotated[str, Depends(require_operator)]
Host = Annotated[HostRecord, Depends(require_host)]
