"""Enrollment at the authority: stores and clock around the checks of protocol.enroll."""

from __future__ import annotations

import dataclasses

from sealvm.authority import admission, audit, bundle, observed, pending, rules
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.quoting import pcrs_to_quote
from sealvm.authority.records import EnrollmentRecord, HostRecord, RootRecord, StateRecord
from sealvm.authority.seal import keys_for, still_present
from sealvm.authority.tokens import token_digest
from sealvm.crypto.ec import keyid_of
from sealvm.errors import EnrollmentRefused, Refusal
from sealvm.protocol import enroll
from sealvm.protocol.enroll import ProvedHost
from sealvm.protocol.messages import EnrollChallenge, EnrollFinish, EnrollStart, SealedKey, SyncAnswer
from sealvm.protocol.state import ProvedState
from sealvm.secret import Secret
from sealvm.tcg.ekcert import TrustRoot
from sealvm.tcg.public import parse_public

SESSION_BYTES = 16
NONCE_BYTES = 32
TICKET_HINT = "ask an operator for a new join ticket"


def start(ctx: Context, message: EnrollStart) -> EnrollChallenge:
    """Steps 1 and 2: check the join token and everything presented, and challenge the TPM.

    A token that is bound to no EK yet challenges nobody: the EK becomes pending, and the host is refused until an
    operator approves it. The token is not used up yet. EnrollmentRefused names the check. An earlier enrollment of this
    host that is still pending is void.
    """
    now = ctx.now()
    digest = token_digest(message.token)
    with ctx.store.read() as tx:
        ticket = tx.ticket_by_token(digest)
        roots = [_trust_root(record) for record in tx.roots()]
        bars = [admission.bar_of(record) for record in tx.bars()]
        pcrs = pcrs_to_quote(tx)
    if ticket is None:
        raise EnrollmentRefused("the join token is not known", hint=TICKET_HINT, check="join-token")
    if ticket.used is not None:
        raise EnrollmentRefused("the join token was used already", hint=TICKET_HINT, check="join-token")
    if ticket.expires <= now:
        raise EnrollmentRefused("the join token has expired", hint=TICKET_HINT, check="join-token")
    try:
        presented = enroll.check_start(message, ticket.ek_digest, roots, now, bars)
    except Refusal as refusal:
        _note_refusal(ctx, ticket.host, refusal)
        raise
    if ticket.ek_digest is None:
        raise pending.note_pending(ctx, ticket, presented)
    expires = now + ctx.settings.session_lifetime
    waiting, challenge = enroll.challenge(
        presented,
        session=ctx.random(SESSION_BYTES).hex(),
        nonce=ctx.random(NONCE_BYTES),
        secret=Secret(ctx.random(enroll.SECRET_BYTES)),
        pcrs=pcrs,
        expires=expires,
    )
    with ctx.store.write() as tx:
        body = enroll.pending_to_json(waiting)
        tx.put_enrollment(EnrollmentRecord(waiting.session, ticket.host, digest, expires, body))
    return challenge


def finish(ctx: Context, message: EnrollFinish) -> SyncAnswer:
    """Steps 3 and 4: check the answer, use up the token, store the host, and seal every admitted profile key to it.

    A challenge is good for one answer, right or wrong. Token, host and state change together or not at all; a token is
    used up by success only. EnrollmentRefused or EvidenceRefused names the check.
    """
    with ctx.store.write() as tx:
        record = tx.take_enrollment(message.session)
    if record is None or record.expires <= ctx.now():
        raise EnrollmentRefused(
            "there is no pending enrollment for this answer", hint="begin the enrollment again", check="session"
        )
    try:
        proved = enroll.check_finish(enroll.pending_from_json(record.body), message)
    except Refusal as refusal:
        _note_refusal(ctx, record.host, refusal)
        raise
    parent = proved.publics.import_parent
    cell = _cell(ctx, record.host)
    keys = keys_for(ctx, trust_class=proved.trust_class, import_parent_public=parent, have=(), cell=cell)
    with ctx.store.write() as tx:
        host = _store_host(ctx, tx, record, proved)
        rules.judge(ctx, tx, observed.note(ctx, tx, host, proved.state))
    envelope = bundle.current(ctx)
    return answer(ctx, host, proved.state, keys, envelope)


def answer(
    ctx: Context, host: HostRecord, state: ProvedState, keys: tuple[SealedKey, ...], envelope: bytes
) -> SyncAnswer:
    """What an enrolled host receives."""
    return SyncAnswer(
        host=host.name,
        host_id=host.host_id,
        trust_class=host.trust_class or "",
        events=len(state.measured.events),
        keys=still_present(ctx, keys),
        bundle=envelope,
        time=ctx.now(),
    )


def state_record(ctx: Context, host: str, state: ProvedState) -> StateRecord:
    """What is kept of a host's newest verified state."""
    return StateRecord(
        host=host,
        qualifying_data=state.qualifying_data,
        quote=state.quoted.attest,
        signature=state.quoted.signature,
        event_log=state.quoted.event_log,
        preimages=state.quoted.preimages,
        pcr_values=dict(state.measured.pcr_values),
        events=len(state.measured.events),
        verified=ctx.now(),
    )


def _store_host(ctx: Context, tx: Transaction, record: EnrollmentRecord, proved: ProvedHost) -> HostRecord:
    known = tx.host(record.host)
    if known is None or not tx.use_ticket(record.token_digest, ctx.now()):
        raise EnrollmentRefused("the join token was used already", hint=TICKET_HINT, check="join-token")
    if known.enrolled is not None:  # enrolled anew, perhaps after TPM2_Clear: nothing of before is believed any more
        tx.void_enrollment(known.name)
    publics = proved.publics
    host = dataclasses.replace(
        known,
        trust_class=proved.trust_class,
        tpm=str(proved.tpm),
        tpm_model=(proved.tpm.manufacturer, proved.tpm.model, proved.tpm.version),
        ek_root=proved.ek_root,
        ek_public=publics.ek,
        ak_public=publics.ak,
        srk_public=publics.srk,
        import_parent_public=publics.import_parent,
        request_key_public=publics.request_key,
        request_keyid=keyid_of(parse_public(publics.request_key, "request key").point),
        enrolled=ctx.now(),
        last_sync=ctx.now(),
    )
    admission.check_admitted(tx, host)  # a bar or a root may have changed since the challenge
    tx.update_host(host)
    tx.put_state(state_record(ctx, host.name, proved.state))
    details = {"trust_class": proved.trust_class, "tpm": host.tpm, "events": len(proved.state.measured.events)}
    if known.request_keyid is not None:
        details["voided_request_key"] = known.request_keyid
    audit.record(ctx, tx, f"host {host.name}", audit.Action.HOST_ENROLLED, host.name, **details)
    return host


def _cell(ctx: Context, name: str) -> str:
    with ctx.store.read() as tx:
        host = tx.host(name)
    return host.cell if host is not None else ""


def _note_refusal(ctx: Context, host: str, refusal: Refusal) -> None:
    """The holder of a good token failed a check: the operator learns of it from the audit log."""
    details = {"code": refusal.code, "check": str(refusal.fields.get("check", "")), "reason": refusal.message[:500]}
    with ctx.store.write() as tx:
        audit.record(ctx, tx, f"host {host}", audit.Action.HOST_REFUSED, host, **details)


def _trust_root(record: RootRecord) -> TrustRoot:
    return TrustRoot(record.certificate, record.trust_class)
