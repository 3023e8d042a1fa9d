"""Synchronisation: an enrolled host proves its present state and receives what is new."""

from __future__ import annotations

import dataclasses

from sealvm.authority import audit, bundle, observed, rules
from sealvm.authority.enroll import NONCE_BYTES, SESSION_BYTES, answer, state_record
from sealvm.authority.ports import Context
from sealvm.authority.quoting import pcrs_to_quote
from sealvm.authority.records import ChallengeRecord, HostRecord
from sealvm.authority.seal import keys_for
from sealvm.errors import AccessRefused, EvidenceRefused, Refusal
from sealvm.protocol.enroll import quote_nonce
from sealvm.protocol.messages import SyncAnswer, SyncChallenge, SyncRequest
from sealvm.protocol.state import prove_state


def challenge(ctx: Context, host: HostRecord) -> SyncChallenge:
    """A fresh nonce for the authenticated `host`; an earlier one that is pending is void."""
    expires = ctx.now() + ctx.settings.session_lifetime
    with ctx.store.write() as tx:
        pcrs = pcrs_to_quote(tx)
        record = ChallengeRecord(ctx.random(SESSION_BYTES).hex(), host.name, ctx.random(NONCE_BYTES), pcrs, expires)
        tx.put_challenge(record)
    return SyncChallenge(session=record.session, nonce=record.nonce, pcrs=record.pcrs, expires=expires)


def sync(ctx: Context, host: HostRecord, request: SyncRequest) -> SyncAnswer:
    """Verify the state of the authenticated `host`, store it, and answer with the keys it lacks and the trust bundle.

    Idempotent: the same host in the same state gets the same again. EvidenceRefused names the check; then the state
    stored before stays.
    """
    with ctx.store.write() as tx:
        pending = tx.take_challenge(request.session)
    if pending is None or pending.host != host.name or pending.expires <= ctx.now():
        raise EvidenceRefused(
            "there is no pending challenge for this answer", hint="begin the synchronisation again", check="session"
        )
    try:
        nonce = quote_nonce("sync-quote", pending.nonce)
        state = prove_state(request.state, host.ak_public, nonce, pending.pcrs)
    except Refusal as refusal:
        with ctx.store.write() as tx:
            details = {
                "code": refusal.code,
                "check": str(refusal.fields.get("check", "")),
                "reason": refusal.message[:500],
            }
            audit.record(ctx, tx, f"host {host.name}", audit.Action.HOST_REFUSED, host.name, **details)
        raise
    keys = keys_for(
        ctx,
        trust_class=host.trust_class or "",
        import_parent_public=host.import_parent_public,
        have=frozenset(request.have),
        cell=host.cell,
    )
    with ctx.store.write() as tx:
        present = tx.host(host.name)
        if present is None or present.request_keyid != host.request_keyid:
            raise AccessRefused(f"host {host.name} enrolled anew meanwhile", hint="synchronise again")
        tx.update_host(dataclasses.replace(present, last_sync=ctx.now()))
        tx.put_state(state_record(ctx, host.name, state))
        rules.judge(ctx, tx, observed.note(ctx, tx, present, state))
        counts = {"keys": len(keys), "events": len(state.measured.events)}
        audit.record(ctx, tx, f"host {host.name}", audit.Action.HOST_SYNCED, host.name, **counts)
    envelope = bundle.current(ctx)
    return answer(ctx, host, state, keys, envelope)
