"""First start: the authority's own keys, an operator, the first trust bundle."""

from __future__ import annotations

from sealvm.authority import audit, bundle
from sealvm.authority.ports import APPROVER_KEY, BUNDLE_KEY, LEASE_KEY, TLS_CA_KEY, Context
from sealvm.authority.records import OperatorRecord
from sealvm.authority.tokens import token_digest
from sealvm.crypto.ec import keyid_of
from sealvm.custody.base import Custody
from sealvm.errors import NotFoundError
from sealvm.secret import Secret


def create_keys(custody: Custody, *, approver: bool = True) -> None:
    """The approver, lease, bundle and TLS CA keys, unless they are there. Safe to repeat after a crash.

    Without `approver` that key is left out: it is kept offline, and only its public half will be known here.
    """
    for name in (APPROVER_KEY, LEASE_KEY, BUNDLE_KEY) if approver else (LEASE_KEY, BUNDLE_KEY):
        try:
            custody.signer(name)
        except NotFoundError:
            custody.create_signer(name)
    try:
        custody.scalar(TLS_CA_KEY)
    except NotFoundError:
        custody.create_scalar(TLS_CA_KEY)


def initialise(ctx: Context, operator: str, token: Secret, approver_point: bytes | None = None) -> None:
    """In an empty store: the operator `operator`, who will present `token`, and trust bundle version 1.

    approver_point: the public key of an approver whose private key is kept offline; None when it is in custody here.
    """
    now = ctx.now()
    keys = {
        "approver": keyid_of(approver_point or ctx.custody.signer(APPROVER_KEY).point),
        "lease": ctx.custody.signer(LEASE_KEY).keyid,
        "bundle": ctx.custody.signer(BUNDLE_KEY).keyid,
    }
    with ctx.store.write() as tx:
        if approver_point is not None:
            tx.put_approver(approver_point)
        tx.add_operator(OperatorRecord(operator, token_digest(token.reveal().decode()), now))
        audit.record(ctx, tx, "authority", audit.Action.AUTHORITY_INITIALISED, operator, **keys)
        bundle.publish(ctx, tx, "authority")
