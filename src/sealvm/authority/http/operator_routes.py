"""Routes for operators: hosts, profiles, approvals, provisioners, audit. All need an operator's token."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from sealvm.authority import approve, audit, hosts, lease, profiles, provisioners, register
from sealvm.authority.http.auth import Ctx, Operator
from sealvm.authority.http.limits import StrictRoute
from sealvm.protocol.lease import LeaseView
from sealvm.protocol.messages import JoinTicket
from sealvm.protocol.operator import (
    ApplyRequest,
    ApprovalView,
    ApproveRequest,
    AuditEntryView,
    HostView,
    ProfileView,
    ProvisionerRequest,
    ProvisionerView,
    RegisterRequest,
    TicketRequest,
)

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["operators"])


@router.post("/hosts")
def register_host(ctx: Ctx, operator: Operator, request: RegisterRequest) -> JoinTicket:
    """Register a host's EK and receive its join ticket."""
    return register.register_host(ctx, operator, request)


@router.post("/hosts/{name}/ticket")
def issue_ticket(ctx: Ctx, operator: Operator, name: str, request: TicketRequest) -> JoinTicket:
    """Another join ticket for a registered host."""
    return register.issue_ticket(ctx, operator, name, request)


@router.get("/hosts")
def list_hosts(ctx: Ctx, operator: Operator) -> list[HostView]:
    """All hosts, with the profiles that their last verified states satisfy."""
    return hosts.list_hosts(ctx)


@router.get("/hosts/{name}")
def show_host(ctx: Ctx, operator: Operator, name: str) -> HostView:
    """One host."""
    return hosts.show_host(ctx, name)


@router.post("/profiles")
def apply_profile(ctx: Ctx, operator: Operator, request: ApplyRequest) -> ProfileView:
    """Create a profile with a fresh key, or replace the document of one."""
    return profiles.apply_profile(ctx, operator, request)


@router.get("/profiles")
def list_profiles(ctx: Ctx, operator: Operator) -> list[ProfileView]:
    """All profiles."""
    return profiles.list_profiles(ctx)


@router.get("/profiles/{name}")
def show_profile(ctx: Ctx, operator: Operator, name: str) -> ProfileView:
    """One profile."""
    return profiles.show_profile(ctx, name)


@router.post("/profiles/{name}/approvals")
def approve_state(ctx: Ctx, operator: Operator, name: str, request: ApproveRequest) -> list[ApprovalView]:
    """Approve the state in which a host was last verified, for every epoch of the profile; or say what it would do."""
    return approve.approve(ctx, operator, name, request)


@router.post("/provisioners")
def trust_provisioner(ctx: Ctx, operator: Operator, request: ProvisionerRequest) -> ProvisionerView:
    """Accept a provisioner's packages for profiles."""
    return provisioners.trust_provisioner(ctx, operator, request)


@router.get("/provisioners")
def list_provisioners(ctx: Ctx, operator: Operator) -> list[ProvisionerView]:
    """The accepted provisioners."""
    return provisioners.list_provisioners(ctx)


@router.get("/leases")
def list_leases(ctx: Ctx, operator: Operator) -> list[LeaseView]:
    """The newest lease of each host and profile key."""
    return lease.list_leases(ctx)


@router.get("/audit")
def audit_entries(
    ctx: Ctx,
    operator: Operator,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> list[AuditEntryView]:
    """Entries of the audit chain after a sequence number."""
    return audit.list_entries(ctx, after, limit)
