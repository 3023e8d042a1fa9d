"""Leases: renewed after a fresh quote, one host, one profile key and one term at a time (docs/spec/lease-v1.md).

A host that is removed, whose state is no longer good enough, or whose profile changed its mind, gets no further lease
and loses the key's use at the end of its last one, without cooperating.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

from sealvm.attest.evaluate import evaluate
from sealvm.attest.profile import Profile, load_profile
from sealvm.authority import audit
from sealvm.authority.enroll import NONCE_BYTES, SESSION_BYTES
from sealvm.authority.epochs import cell_for, cells_of, present
from sealvm.authority.ports import LEASE_KEY, Context, Transaction
from sealvm.authority.quoting import pcrs_to_quote
from sealvm.authority.records import ChallengeRecord, EpochRecord, HostRecord, LeaseRecord
from sealvm.errors import AccessRefused, ConflictError, EvidenceRefused, NotFoundError, Refusal, StateRefused
from sealvm.protocol.lease import LeaseAnswer, LeaseChallenge, LeaseRequest, LeaseView, ProvedRequest, check_request
from sealvm.statements.lease import LeaseKey, SignedLease, sign_authorization, sign_grant
from sealvm.tcg.pcr import pcr_digest
from sealvm.tcg.public import name_of

PARSED_PROFILES = 256


def challenge(ctx: Context, host: HostRecord) -> LeaseChallenge:
    """A fresh nonce for the authenticated `host`; an earlier one that is pending is void."""
    expires = ctx.now() + ctx.settings.session_lifetime
    with ctx.store.write() as tx:
        pcrs = pcrs_to_quote(tx)
        record = ChallengeRecord(ctx.random(SESSION_BYTES).hex(), host.name, ctx.random(NONCE_BYTES), pcrs, expires)
        tx.put_lease_challenge(record)
    return LeaseChallenge(session=record.session, nonce=record.nonce, pcrs=record.pcrs, expires=expires)


def renew(ctx: Context, host: HostRecord, request: LeaseRequest) -> LeaseAnswer:
    """Renew the lease of the authenticated `host` for one profile key.

    1. There is a challenge to this host. It is used up with the answer, be that a lease or a refusal from 3 on.
    2. The profile key exists, is leased, and is one that this host gets: by trust class and cell.
    3. The quote is the host's, fresh, for the very session that asks, and its log replays (protocol.lease).
    4. The state is approved for this key and not withdrawn, and meets every requirement of the profile as it is now.
    5. In the transaction of the lease: the host still stands, and 2 and 4 hold of what is stored by then. The lease key
       signs; the authorization is the one it signed before in this boot.

    Raises EvidenceRefused (1, 3), NotFoundError, ConflictError or AccessRefused (2), StateRefused (4), AccessRefused
    (5). Refusals from 3 on are audited. The lease is stored and audited in one transaction before it is answered.
    """
    with ctx.store.read() as tx:
        pending = tx.lease_challenge(request.session)
        if pending is None or pending.host != host.name or pending.expires <= ctx.now():  # 1
            raise _no_challenge()
        epoch, profile = _leased_epoch(tx, host, request)  # 2
        approved = _approved(tx, epoch)
    key = LeaseKey(*epoch.key, name_of(host.srk_public), epoch.lease_point)
    try:
        proved = check_request(  # 3
            request, key, challenge=pending.nonce, pcrs=pending.pcrs, ak_public=host.ak_public
        )
        _refuse_state(host, epoch, profile, proved, approved)  # 4
        return _grant(ctx, host, request, proved, pending)  # 5
    except Refusal as refusal:
        _note_refusal(ctx, host, epoch, refusal, pending)
        raise


def list_leases(ctx: Context) -> list[LeaseView]:
    """The newest lease of each host and profile key, by host."""
    now = ctx.now()
    with ctx.store.read() as tx:
        return [
            LeaseView(
                host=record.host,
                profile=record.profile,
                epoch=record.epoch,
                cell=record.cell,
                seconds=record.seconds,
                granted=record.granted,
                ends=record.ends,
                ended=record.ends <= now,
                renewals=record.renewals,
            )
            for record in tx.leases()
        ]


def _leased_epoch(tx: Transaction, host: HostRecord, request: LeaseRequest) -> tuple[EpochRecord, Profile]:
    what = f"profile {request.profile} epoch {request.epoch}" + (f" cell {request.cell}" if request.cell else "")
    record = tx.profile(request.profile)
    epochs = present(tx, request.profile)
    wanted = (request.profile, request.epoch, request.cell)
    epoch = next((epoch for epoch in epochs if epoch.key == wanted), None)
    if record is None or epoch is None:
        raise NotFoundError(f"{what} does not exist, or is retired", hint="fetch what is new: sealvm host sync")
    if host.trust_class not in record.trust or epoch.cell != cell_for(host.cell, cells_of(epochs)):
        raise AccessRefused(f"{what} is not for host {host.name}")
    profile = _parsed(record.document, record.name)
    if not epoch.lease_point or profile.lease_seconds is None:
        raise ConflictError(f"{what} is not leased", hint="its approvals are standing: the key needs no lease")
    return epoch, profile


def _approved(tx: Transaction, epoch: EpochRecord) -> set[bytes]:
    """PCR digests. A state that was withdrawn from the profile is approved by no epoch when leases are asked for."""
    withdrawn = {withdrawal.pcr_digest for withdrawal in tx.withdrawals(epoch.profile)}
    return {record.pcr_digest for record in tx.approvals(epoch.profile) if record.key == epoch.key} - withdrawn


def _refuse_state(
    host: HostRecord, epoch: EpochRecord, profile: Profile, proved: ProvedRequest, approved: set[bytes]
) -> None:
    """StateRefused unless the proved state is approved for this key and meets the profile's requirements today."""
    what = f"no lease of profile {epoch.profile} for host {host.name}"
    measured = proved.state.measured
    if pcr_digest(measured.pcr_values, epoch.selection) not in approved:
        raise StateRefused(
            f"{what}: its state is none of the {len(approved)} approved ones",
            hint="see what differs with: sealvm host explain",
            profile=epoch.profile,
        )
    unmet = [result for result in evaluate(profile, measured.evidence).results if not result.met]
    if unmet:
        raise StateRefused(
            f"{what}: its state does not meet '{unmet[0].name}' ({unmet[0].says}) any more",
            hint="see what differs with: sealvm host explain",
            profile=epoch.profile,
        )


def _grant(
    ctx: Context,
    host: HostRecord,
    request: LeaseRequest,
    proved: ProvedRequest,
    pending: ChallengeRecord,
) -> LeaseAnswer:
    signer = ctx.custody.signer(LEASE_KEY)
    with ctx.store.write() as tx:
        standing = tx.host(host.name)
        if standing is None or standing.request_keyid != host.request_keyid:
            raise AccessRefused(f"host {host.name} was removed or enrolled anew meanwhile")
        if tx.take_lease_challenge(pending.session) is None:  # another request was quicker
            raise _no_challenge()
        epoch, profile = _leased_epoch(tx, standing, request)
        _refuse_state(standing, epoch, profile, proved, _approved(tx, epoch))
        if signer.point != epoch.lease_point:
            raise ConflictError(
                f"epoch {epoch.epoch} of profile {epoch.profile} was made for another lease key",
                hint="rotate the profile",
            )
        seconds, now = profile.lease_seconds or 0, ctx.now()
        grant = sign_grant(signer, proved.key, proved.nonce_tpm, seconds)
        before = tx.lease(host.name, *epoch.key)
        same_boot = before is not None and _boot(before) == _boot_of(proved)
        record = LeaseRecord(
            *(host.name, *epoch.key),
            reset_count=proved.reset_count,
            lease_point=signer.point,
            srk_name=proved.key.srk_name,
            authorization=before.authorization
            if before is not None and same_boot
            else sign_authorization(signer, proved.key, proved.reset_count),
            seconds=seconds,
            granted=now,
            ends=now + timedelta(seconds=seconds),
            renewals=before.renewals + 1 if before is not None else 1,
        )
        tx.put_lease(record)
        details = {"profile": epoch.profile, "epoch": epoch.epoch, "cell": epoch.cell, "seconds": seconds}
        audit.record(ctx, tx, f"host {host.name}", audit.Action.LEASE_GRANTED, host.name, **details)
    return _answer(record, grant)


def _answer(record: LeaseRecord, grant: bytes) -> LeaseAnswer:
    lease = SignedLease(
        profile=record.profile,
        epoch=record.epoch,
        cell=record.cell,
        lease_point=record.lease_point,
        reset_count=record.reset_count,
        authorization=record.authorization,
        seconds=record.seconds,
        grant=grant,
    )
    return LeaseAnswer(lease=lease, ends=record.ends)


def _boot(record: LeaseRecord) -> tuple[bytes, bytes, int]:
    return record.lease_point, record.srk_name, record.reset_count


def _boot_of(proved: ProvedRequest) -> tuple[bytes, bytes, int]:
    return proved.key.lease_point, proved.key.srk_name, proved.reset_count


def _no_challenge() -> EvidenceRefused:
    return EvidenceRefused("there is no pending challenge for this request", hint="renew again", check="session")


@lru_cache(maxsize=PARSED_PROFILES)
def _parsed(document: str, name: str) -> Profile:
    """A profile as it was applied; the same document reads the same."""
    return load_profile(document, name)


def _note_refusal(
    ctx: Context, host: HostRecord, epoch: EpochRecord, refusal: Refusal, pending: ChallengeRecord
) -> None:
    details = {
        "profile": epoch.profile,
        "epoch": epoch.epoch,
        "cell": epoch.cell,
        "code": refusal.code,
        "check": str(refusal.fields.get("check", "")),
        "reason": refusal.message[:500],
    }
    with ctx.store.write() as tx:
        tx.take_lease_challenge(pending.session)
        audit.record(ctx, tx, f"host {host.name}", audit.Action.LEASE_REFUSED, host.name, **details)
