"""Registering hosts beforehand: their EKs are expected, and a join ticket is bound to each."""

from __future__ import annotations

from datetime import timedelta

from sealvm.authority import audit
from sealvm.authority.ports import BUNDLE_KEY, Context, Transaction
from sealvm.authority.records import HostRecord, TicketRecord
from sealvm.authority.tokens import TOKEN_BYTES, encode_token, token_digest
from sealvm.errors import ConflictError, NotFoundError
from sealvm.protocol.hosts import BulkRequest, BulkResult, Registration
from sealvm.protocol.messages import JoinTicket
from sealvm.protocol.operator import RegisterRequest, TicketRequest

HOST_ID_BYTES = 16


def register_host(ctx: Context, actor: str, request: RegisterRequest) -> JoinTicket:
    """Expect the host `name` with this EK, and issue its first join ticket.

    ConflictError when the name or the EK is registered already (`issue_ticket` gives that host another ticket).
    """
    with ctx.store.write() as tx:
        refuse_known_ek(tx, request.ek_digest)
        return _register(ctx, tx, actor, request.name, request.ek_digest, valid_seconds=request.valid_seconds)


def register_hosts(ctx: Context, actor: str, request: BulkRequest) -> list[BulkResult]:
    """Register all these hosts in one transaction, or none; ConflictError names the first that cannot be.

    Can be repeated: a host that is registered with the same EK and has not enrolled gets another ticket (the one before
    is void), one that has enrolled is left alone.
    """
    with ctx.store.write() as tx:
        return [_register_one(ctx, tx, actor, host, request.valid_seconds) for host in request.hosts]


def issue_ticket(ctx: Context, actor: str, name: str, request: TicketRequest) -> JoinTicket:
    """Another ticket for a registered host, to enroll or to enroll again; the one before is void.

    An EK that a host presented with the ticket before, and that waits for approval, is forgotten.
    """
    with ctx.store.write() as tx:
        host = tx.host(name)
        if host is None:
            raise NotFoundError(f"host {name} is not registered")
        tx.remove_pending(name)
        return write_ticket(ctx, tx, actor, host, request.valid_seconds)


def refuse_known_ek(tx: Transaction, ek_digest: bytes) -> None:
    """Return only if no host is registered with this EK; ConflictError names the one that is."""
    other = tx.host_by_ek(ek_digest)
    if other is not None:
        raise ConflictError(
            f"this EK is registered as host {other.name}", hint=f"issue another ticket for {other.name}"
        )


def write_ticket(ctx: Context, tx: Transaction, actor: str, host: HostRecord, valid_seconds: int) -> JoinTicket:
    """A fresh join ticket for `host`, in place of its earlier one; bound to its EK once that is known."""
    token = encode_token(ctx.random(TOKEN_BYTES)).reveal().decode()
    expires = ctx.now() + timedelta(seconds=valid_seconds)
    tx.put_ticket(TicketRecord(host.name, token_digest(token), host.ek_digest, expires))
    audit.record(ctx, tx, actor, audit.Action.TICKET_ISSUED, host.name, valid_seconds=valid_seconds)
    return JoinTicket(
        url=ctx.settings.url,
        ca_pem=ctx.settings.ca_pem,
        anchor=ctx.custody.signer(BUNDLE_KEY).point,
        host=host.name,
        token=token,
        expires=expires,
    )


def _register(
    ctx: Context, tx: Transaction, actor: str, name: str, ek_digest: bytes, *, valid_seconds: int
) -> JoinTicket:
    host = HostRecord(name=name, host_id=ctx.random(HOST_ID_BYTES).hex(), ek_digest=ek_digest, registered=ctx.now())
    tx.add_host(host)
    audit.record(ctx, tx, actor, audit.Action.HOST_REGISTERED, name, ek_digest=ek_digest.hex())
    return write_ticket(ctx, tx, actor, host, valid_seconds)


def _register_one(ctx: Context, tx: Transaction, actor: str, wanted: Registration, valid_seconds: int) -> BulkResult:
    known = tx.host(wanted.name)
    if known is None:
        other = tx.host_by_ek(wanted.ek_digest)
        if other is not None:
            raise ConflictError(
                f"host {wanted.name}: its EK is registered as host {other.name}; nothing was registered"
            )
        ticket = _register(ctx, tx, actor, wanted.name, wanted.ek_digest, valid_seconds=valid_seconds)
        return BulkResult(name=wanted.name, outcome="registered", ticket=ticket)
    if known.ek_digest != wanted.ek_digest:
        raise ConflictError(
            f"host {wanted.name} is registered with another EK; nothing was registered",
            hint=f"if its TPM was replaced: sealvm host replace {wanted.name} --ek DIGEST",
        )
    if known.enrolled is not None:
        return BulkResult(name=wanted.name, outcome="enrolled-already", ticket=None)
    ticket = write_ticket(ctx, tx, actor, known, valid_seconds)
    return BulkResult(name=wanted.name, outcome="ticket-renewed", ticket=ticket)
