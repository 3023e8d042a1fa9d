"""An operator's calls for letting hosts in and out, and for EK roots and barred TPMs (docs/spec/http-api-v1.md).

Each takes the client of an operator and raises as `AuthorityClient`'s methods do.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter

from sealvm.client.authority import AuthorityClient
from sealvm.errors import InputError
from sealvm.protocol.hosts import (
    BarRequest,
    BarView,
    BulkRequest,
    BulkResult,
    EkRequest,
    ExpectRequest,
    PendingView,
    Registration,
    RemovalView,
    RemoveRequest,
    RootRemovalView,
)
from sealvm.protocol.messages import JoinTicket
from sealvm.statements.encoding import ObjectName, parse_message

DAY_SECONDS = 86400
T = TypeVar("T")
_NAME: TypeAdapter[str] = TypeAdapter(ObjectName)


def remove_root(client: AuthorityClient, prefix: str) -> RootRemovalView:
    """Stop accepting the root whose SHA-256 begins with `prefix` (hex)."""
    if not prefix or not set(prefix) <= set("0123456789abcdef"):
        raise InputError(f"{prefix[:64]!r} is not the beginning of a SHA-256 in lower-case hex")
    return client.post(f"/v1/roots/{prefix}/remove", None, RootRemovalView)


def register_hosts(
    client: AuthorityClient, hosts: tuple[Registration, ...], valid_seconds: int = DAY_SECONDS
) -> list[BulkResult]:
    """Register up to 1000 hosts, all of them or none."""
    return client.post(
        "/v1/registrations", _made(BulkRequest, hosts=hosts, valid_seconds=valid_seconds), list[BulkResult]
    )


def expect_host(client: AuthorityClient, name: str, valid_seconds: int = DAY_SECONDS) -> JoinTicket:
    """Expect a host whose EK is not known yet; its join ticket."""
    return client.post("/v1/pending", _made(ExpectRequest, name=name, valid_seconds=valid_seconds), JoinTicket)


def pending_hosts(client: AuthorityClient) -> list[PendingView]:
    """The hosts that wait for approval."""
    return client.get("/v1/pending", list[PendingView])


def approve_host(client: AuthorityClient, name: str, ek_digest: str) -> PendingView:
    """Let a pending host enroll with exactly this EK (hex digest)."""
    return client.post(f"/v1/pending/{_name(name)}/approve", _made(EkRequest, ek_digest=ek_digest), PendingView)


def replace_host(client: AuthorityClient, name: str, ek_digest: str, valid_seconds: int = DAY_SECONDS) -> RemovalView:
    """Give a host another TPM (hex digest of its EK); the view has its new join ticket."""
    request = _made(EkRequest, ek_digest=ek_digest, valid_seconds=valid_seconds)
    return client.post(f"/v1/hosts/{_name(name)}/replace", request, RemovalView)


def remove_host(client: AuthorityClient, name: str, *, rotate: bool = False, dry_run: bool = False) -> RemovalView:
    """Remove a host, or say what that would take."""
    request = _made(RemoveRequest, rotate=rotate, dry_run=dry_run)
    return client.post(f"/v1/hosts/{_name(name)}/remove", request, RemovalView)


def add_bar(client: AuthorityClient, request: BarRequest) -> BarView:
    """Bar TPMs."""
    return client.post("/v1/bars", request, BarView)


def bars(client: AuthorityClient) -> list[BarView]:
    """The barred TPMs."""
    return client.get("/v1/bars", list[BarView])


def remove_bar(client: AuthorityClient, bar_id: str) -> BarView:
    """Lift a bar."""
    if not bar_id.isascii() or not bar_id.isalnum():
        raise InputError(f"{bar_id[:64]!r} is no bar", hint="list them with: sealvm authority bar list")
    return client.post(f"/v1/bars/{bar_id}/remove", None, BarView)


def _made(kind: type[T], **fields: object) -> T:
    return parse_message(TypeAdapter(kind), fields, "request")


def _name(name: str) -> str:
    return parse_message(_NAME, name, "name")
