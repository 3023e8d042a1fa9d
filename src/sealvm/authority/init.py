"""First start: the authority's own keys, an operator, the first trust bundle."""

from __future__ import annotations

from sealvm.authority import audit, bundle
from sealvm.authority.ports import APPROVER_KEY, BUNDLE_KEY, LEASE_KEY, TLS_CA_KEY, Context
from sealvm.authority.records import OperatorRecord
from sealvm.authority.tokens import token_digest
from sealvm.custody.base import Custody
from sealvm.errors import NotFoundError
from sealvm.secret import Secret


def create_keys(custody: Custody) -> None:
    """The approver, lease, bundle and TLS CA keys, unless they are there. Safe to repeat after a crash."""
    for name in (APPROVER_KEY, LEASE_KEY, BUNDLE_KEY):
        try:
            custody.signer(name)
        except NotFoundError:
            custody.create_signer(name)
    try:
        custody.scalar(TLS_CA_KEY)
    except NotFoundError:
        custody.create_scalar(TLS_CA_KEY)


def initialise(ctx: Context, operator: str, token: Secret) -> None:
    """In an empty store: the operator `operator`, who will present `token`, and trust bundle version 1."""
    now = ctx.now()
    keys = {
        "approver": ctx.custody.signer(APPROVER_KEY).keyid,
        "lease": ctx.custody.signer(LEASE_KEY).keyid,
        "bundle": ctx.custody.signer(BUNDLE_KEY).keyid,
    }
    with ctx.store.write() as tx:
        tx.add_operator(OperatorRecord(operator, token_digest(token.reveal().decode()), now))
        audit.record(ctx, tx, "authority", audit.Action.AUTHORITY_INITIALISED, operator, **keys)
        bundle.publish(ctx, tx, "authority")
