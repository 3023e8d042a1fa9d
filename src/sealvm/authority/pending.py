"""Hosts whose EK nobody registered beforehand: expected by name, pending when they present an EK, let in by approval.

The join token of such a host is not bound to an EK yet. The first certified EK that is presented with it binds it; the
operator compares that EK's digest with what the host's owner says (`sealvm host ek`) and approves exactly it.
"""

from __future__ import annotations

import dataclasses

from sealvm.authority import audit
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import HostRecord, PendingRecord, TicketRecord
from sealvm.authority.register import HOST_ID_BYTES, refuse_known_ek, write_ticket
from sealvm.errors import ConflictError, EnrollmentRefused, NotFoundError, Refusal
from sealvm.protocol.enroll import PresentedHost
from sealvm.protocol.hosts import EkRequest, ExpectRequest, PendingView
from sealvm.protocol.messages import JoinTicket
from sealvm.tcg.ekcert import ek_digest


def expect_host(ctx: Context, actor: str, request: ExpectRequest) -> JoinTicket:
    """Expect the host `name`, whose EK is not known yet, and issue its join ticket. ConflictError if the name is
    taken.
    """
    host = HostRecord(name=request.name, host_id=ctx.random(HOST_ID_BYTES).hex(), ek_digest=None, registered=ctx.now())
    with ctx.store.write() as tx:
        tx.add_host(host)
        audit.record(ctx, tx, actor, audit.Action.HOST_EXPECTED, request.name)
        return write_ticket(ctx, tx, actor, host, request.valid_seconds)


def note_pending(ctx: Context, ticket: TicketRecord, presented: PresentedHost) -> Refusal:
    """Remember the EK that a host presented with an unbound token; the refusal with which the host is to be answered.

    `ek-approval`: an operator must approve it first. `ek-pending`: another EK came with this token before.
    `ek-registered`: the EK is another host's.
    """
    digest = bytes.fromhex(ek_digest(presented.publics.ek))
    now = ctx.now()
    with ctx.store.write() as tx:
        owner, known = tx.host_by_ek(digest), tx.pending(ticket.host)
        if owner is not None:
            return _refused(
                ctx, tx, ticket.host, "ek-registered", "this EK is registered as another host", digest=digest
            )
        if known is not None and known.ek_digest != digest:
            return _refused(
                ctx, tx, ticket.host, "ek-pending", "another EK was presented with this token", digest=digest
            )
        first_seen = now if known is None else known.first_seen
        tx.put_pending(
            PendingRecord(ticket.host, digest, str(presented.tpm), presented.trust_class, first_seen, last_seen=now)
        )
        if known is None:
            details = {"ek_digest": digest.hex(), "tpm": str(presented.tpm), "trust_class": presented.trust_class}
            audit.record(ctx, tx, f"host {ticket.host}", audit.Action.HOST_PENDING, ticket.host, **details)
    return EnrollmentRefused(
        f"host {ticket.host} waits for an operator to approve its EK {digest.hex()}",
        hint=f"approve it with `sealvm host approve {ticket.host} --ek DIGEST`, then enroll again with the same ticket",
        check="ek-approval",
        ek_digest=digest.hex(),
    )


def list_pending(ctx: Context) -> list[PendingView]:
    """The hosts that wait for approval, by name."""
    with ctx.store.read() as tx:
        return [_view(record) for record in tx.pendings()]


def approve_host(ctx: Context, actor: str, name: str, request: EkRequest) -> PendingView:
    """Let the pending host enroll with exactly this EK; its token is bound to it.

    NotFoundError when no host of that name waits, ConflictError when it presented another EK, or the EK is another
    host's by now.
    """
    with ctx.store.write() as tx:
        record, host = tx.pending(name), tx.host(name)
        if record is None or host is None:
            raise NotFoundError(f"no host {name[:64]!r} waits for approval", hint="see: sealvm host pending")
        if record.ek_digest != request.ek_digest:
            raise ConflictError(
                f"host {name} presented EK {record.ek_digest.hex()}, not {request.ek_digest.hex()}",
                hint="if that is not its EK, somebody else used its ticket: issue another with `host register --again`",
            )
        refuse_known_ek(tx, record.ek_digest)
        tx.update_host(dataclasses.replace(host, ek_digest=record.ek_digest))
        tx.bind_ticket(name, record.ek_digest)
        tx.remove_pending(name)
        details = {"ek_digest": record.ek_digest.hex(), "tpm": record.tpm}
        audit.record(ctx, tx, actor, audit.Action.HOST_APPROVED, name, **details)
    return _view(record)


def _refused(ctx: Context, tx: Transaction, host: str, check: str, reason: str, *, digest: bytes) -> Refusal:
    details = {"code": EnrollmentRefused.code, "check": check, "reason": reason, "ek_digest": digest.hex()}
    audit.record(ctx, tx, f"host {host}", audit.Action.HOST_REFUSED, host, **details)
    return EnrollmentRefused(reason, hint="ask an operator for a new join ticket", check=check)


def _view(record: PendingRecord) -> PendingView:
    return PendingView.model_validate(
        {
            "name": record.host,
            "ek_digest": record.ek_digest,
            "tpm": record.tpm,
            "trust_class": record.trust_class,
            "first_seen": record.first_seen,
            "last_seen": record.last_seen,
        }
    )
