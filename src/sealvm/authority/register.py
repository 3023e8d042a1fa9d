"""Registering a host beforehand: its EK is expected, and a join ticket is bound to it."""

from __future__ import annotations

from datetime import timedelta

from sealvm.authority import audit
from sealvm.authority.ports import BUNDLE_KEY, Context, Transaction
from sealvm.authority.records import HostRecord, TicketRecord
from sealvm.authority.tokens import TOKEN_BYTES, encode_token, token_digest
from sealvm.errors import ConflictError, NotFoundError
from sealvm.protocol.messages import JoinTicket
from sealvm.protocol.operator import RegisterRequest, TicketRequest

HOST_ID_BYTES = 16


def register_host(ctx: Context, actor: str, request: RegisterRequest) -> JoinTicket:
    """Expect the host `name` with this EK, and issue its first join ticket.

    ConflictError when the name or the EK is registered already (`issue_ticket` gives that host another ticket).
    """
    host = HostRecord(
        name=request.name,
        host_id=ctx.random(HOST_ID_BYTES).hex(),
        ek_digest=request.ek_digest,
        registered=ctx.now(),
    )
    with ctx.store.write() as tx:
        other = tx.host_by_ek(request.ek_digest)
        if other is not None:
            raise ConflictError(
                f"this EK is registered as host {other.name}", hint=f"issue another ticket for {other.name}"
            )
        tx.add_host(host)
        details = {"ek_digest": request.ek_digest.hex()}
        audit.record(ctx, tx, actor, audit.Action.HOST_REGISTERED, request.name, **details)
        return _issue(ctx, tx, actor, host, request.valid_seconds)


def issue_ticket(ctx: Context, actor: str, name: str, request: TicketRequest) -> JoinTicket:
    """Another ticket for a registered host, to enroll or to enroll again; the one before is void."""
    with ctx.store.write() as tx:
        host = tx.host(name)
        if host is None:
            raise NotFoundError(f"host {name} is not registered")
        return _issue(ctx, tx, actor, host, request.valid_seconds)


def _issue(ctx: Context, tx: Transaction, actor: str, host: HostRecord, valid_seconds: int) -> JoinTicket:
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
