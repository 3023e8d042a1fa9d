"""Routes for operators who let hosts in and out: EK roots, registration, pending hosts, removal, barred TPMs."""

from __future__ import annotations

from fastapi import APIRouter

from sealvm.authority import bars, pending, register, remove, roots
from sealvm.authority.http.auth import Ctx, Operator
from sealvm.authority.http.limits import StrictRoute
from sealvm.protocol.hosts import (
    BarRequest,
    BarView,
    BulkRequest,
    BulkResult,
    EkRequest,
    ExpectRequest,
    PendingView,
    RemovalView,
    RemoveRequest,
    RootRemovalView,
)
from sealvm.protocol.messages import JoinTicket
from sealvm.protocol.operator import RootRequest, RootView

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["admission"])


@router.post("/roots")
def add_roots(ctx: Ctx, operator: Operator, request: RootRequest) -> list[RootView]:
    """Accept EK roots as a trust class."""
    return roots.add_roots(ctx, operator, request)


@router.get("/roots")
def list_roots(ctx: Ctx, operator: Operator) -> list[RootView]:
    """The accepted EK roots."""
    return roots.list_roots(ctx)


@router.post("/roots/{prefix}/remove")
def remove_root(ctx: Ctx, operator: Operator, prefix: str) -> RootRemovalView:
    """Stop accepting the root whose SHA-256 begins so; its hosts are locked out."""
    return roots.remove_root(ctx, operator, prefix)


@router.post("/registrations")
def register_hosts(ctx: Ctx, operator: Operator, request: BulkRequest) -> list[BulkResult]:
    """Register up to 1000 hosts, all of them or none, and receive their join tickets."""
    return register.register_hosts(ctx, operator, request)


@router.post("/pending")
def expect_host(ctx: Ctx, operator: Operator, request: ExpectRequest) -> JoinTicket:
    """Expect a host whose EK is not known yet, and receive its join ticket."""
    return pending.expect_host(ctx, operator, request)


@router.get("/pending")
def pending_hosts(ctx: Ctx, operator: Operator) -> list[PendingView]:
    """The hosts that presented a certified EK and wait for approval."""
    return pending.list_pending(ctx)


@router.post("/pending/{name}/approve")
def approve_host(ctx: Ctx, operator: Operator, name: str, request: EkRequest) -> PendingView:
    """Let a pending host enroll with exactly this EK."""
    return pending.approve_host(ctx, operator, name, request)


@router.post("/hosts/{name}/replace")
def replace_host(ctx: Ctx, operator: Operator, name: str, request: EkRequest) -> RemovalView:
    """Give a host another TPM; the old one's records are void."""
    return remove.replace_host(ctx, operator, name, request)


@router.post("/hosts/{name}/remove")
def remove_host(ctx: Ctx, operator: Operator, name: str, request: RemoveRequest) -> RemovalView:
    """Remove a host; or say what that takes and what it cannot take."""
    return remove.remove_host(ctx, operator, name, request)


@router.post("/bars")
def add_bar(ctx: Ctx, operator: Operator, request: BarRequest) -> BarView:
    """Bar TPMs by manufacturer, model and firmware version."""
    return bars.add_bar(ctx, operator, request)


@router.get("/bars")
def list_bars(ctx: Ctx, operator: Operator) -> list[BarView]:
    """The barred TPMs, and the enrolled hosts they cover."""
    return bars.list_bars(ctx)


@router.post("/bars/{bar_id}/remove")
def remove_bar(ctx: Ctx, operator: Operator, bar_id: str) -> BarView:
    """Lift a bar."""
    return bars.remove_bar(ctx, operator, bar_id)
