"""Routes for hosts: enrollment (by join token) and synchronisation (by request key)."""

from __future__ import annotations

from fastapi import APIRouter, Response

from sealvm.authority import bundle, enroll, lease, sync
from sealvm.authority.http.auth import Ctx, Host
from sealvm.authority.http.limits import StrictRoute
from sealvm.protocol.lease import LeaseAnswer, LeaseChallenge, LeaseRequest
from sealvm.protocol.messages import (
    EnrollChallenge,
    EnrollFinish,
    EnrollStart,
    SyncAnswer,
    SyncChallenge,
    SyncRequest,
)

BUNDLE_MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["hosts"])


@router.post("/enroll/start")
def enroll_start(ctx: Ctx, message: EnrollStart) -> EnrollChallenge:
    """Present a join token and the TPM's public areas; receive a challenge only that TPM can answer."""
    return enroll.start(ctx, message)


@router.post("/enroll/finish")
def enroll_finish(ctx: Ctx, message: EnrollFinish) -> SyncAnswer:
    """Answer the challenge; receive the profile keys and the trust bundle."""
    return enroll.finish(ctx, message)


@router.post("/sync/challenge")
def sync_challenge(ctx: Ctx, host: Host) -> SyncChallenge:
    """Ask what to quote."""
    return sync.challenge(ctx, host)


@router.post("/sync")
def sync_answer(ctx: Ctx, host: Host, message: SyncRequest) -> SyncAnswer:
    """Present the quoted state; receive the profile keys that this host lacks, and the trust bundle."""
    return sync.sync(ctx, host, message)


@router.post("/leases/challenge")
def lease_challenge(ctx: Ctx, host: Host) -> LeaseChallenge:
    """Ask what to quote for a lease."""
    return lease.challenge(ctx, host)


@router.post("/leases")
def renew_lease(ctx: Ctx, host: Host, message: LeaseRequest) -> LeaseAnswer:
    """Present the quoted state and a session's nonceTPM; receive a lease for one profile key, for one term."""
    return lease.renew(ctx, host, message)


@router.get("/bundle", response_class=Response, responses={200: {"content": {BUNDLE_MEDIA_TYPE: {}}}})
def trust_bundle(ctx: Ctx) -> Response:
    """The trust bundle, a DSSE envelope. Public; verify it under the pinned anchor."""
    return Response(bundle.current(ctx), media_type=BUNDLE_MEDIA_TYPE)
