"""The offline approver's side of the authority: what waits for its signature goes out as a file, signatures come in.

The file holds all that a digest is made of and the evidence behind it, so that the approver's machine judges for itself
(`authority.review`); an imported signature is verified before anything is stored.
"""

from __future__ import annotations

import base64
from typing import Any

from sealvm.authority import audit, bundle, rules
from sealvm.authority.epochs import present
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import SigningRecord
from sealvm.authority.signing import add_approval, add_delegation
from sealvm.errors import ConflictError, NotFoundError, UntrustedRefused
from sealvm.protocol.trust import (
    REQUEST_FORMAT,
    REQUESTS_LIMIT,
    ApproverAnswer,
    ApproverRequest,
    ImportView,
    SignedRequest,
    SigningRequest,
)
from sealvm.statements.approval import Approval, verify_approval
from sealvm.statements.rule import Delegation, verify_delegation


def waiting(ctx: Context) -> ApproverRequest:
    """Everything that waits for the offline approver. ConflictError when the approver's key is in custody here."""
    with ctx.store.read() as tx:
        point = _offline_point(tx)
        requests = tuple(_exported(tx, record) for record in list(tx.signings())[:REQUESTS_LIMIT])
    return ApproverRequest(format=REQUEST_FORMAT, approver=point, made=ctx.now(), requests=requests)


def import_answer(ctx: Context, actor: str, answer: ApproverAnswer) -> ImportView:
    """Store what the offline approver signed, and publish it; all of it or, when one signature is wrong, nothing.

    UntrustedRefused for another approver's answer, SignatureRefused, NotFoundError for a rule that is gone. A request
    that does not wait (any more) is named as unknown: importing an answer again changes nothing.
    """
    approvals: list[str] = []
    delegations: list[str] = []
    unknown: list[str] = []
    with ctx.store.write() as tx:
        if answer.approver != _offline_point(tx):
            raise UntrustedRefused("the answer is signed by another key than this authority's approver")
        epochs = {record.key: record for record in present(tx)}
        for signed in answer.signed:
            record = tx.take_signing(signed.request_id)
            epoch = epochs.get((record.profile, record.epoch, record.cell)) if record is not None else None
            if record is None or epoch is None:
                unknown.append(signed.request_id[:16])
            elif record.kind == "approval":
                approvals.append(_approval(ctx, tx, actor, record, signed))
            else:
                delegations.append(_delegation(ctx, tx, actor, record, signed))
        if approvals or delegations:
            rules.judge_all(ctx, tx)
            details = {"approvals": len(approvals), "delegations": len(delegations)}
            audit.record(ctx, tx, actor, audit.Action.SIGNATURES_IMPORTED, "approver", **details)
            bundle.publish(ctx, tx, actor, urgent=True)  # what a withdrawal carries over comes this way
        left = len(tx.signings())
    return ImportView(approvals=tuple(approvals), delegations=tuple(delegations), unknown=tuple(unknown), waiting=left)


def _offline_point(tx: Transaction) -> bytes:
    point = tx.approver()
    if point is None:
        raise ConflictError(
            "this authority's approver key is in its custody: nothing waits for an offline approver",
            hint="an offline approver is chosen by: sealvm authority init --approver-public FILE",
        )
    return point


def _exported(tx: Transaction, record: SigningRecord) -> SigningRequest:
    profile = tx.profile(record.profile)
    body = record.body
    return SigningRequest.model_validate(
        {
            "kind": record.kind,
            "request_id": record.request_id,
            "document": profile.document if profile is not None else "",
            "statement": body["statement"],
            "pcr_values": body.get("pcr_values", {}),
            "event_log": bytes.fromhex(body.get("event_log", "")),
            "preimages": [bytes.fromhex(item) for item in body.get("preimages", [])],
            "match": body.get("match", []),
            "hosts": [body["host"]] if body.get("host") else [],
        }
    )


def _approval(ctx: Context, tx: Transaction, actor: str, record: SigningRecord, signed: SignedRequest) -> str:
    approval = Approval.from_json(_with_signature(record, signed))
    verify_approval(approval)
    known = {(other.key, other.pcr_digest) for other in tx.approvals(record.profile)}
    if ((record.profile, record.epoch, record.cell), approval.pcr_digest) not in known:
        add_approval(ctx, tx, actor, approval, str(record.body.get("host", "")))
    return f"{approval.profile} epoch {approval.epoch}: {approval.label}"


def _delegation(ctx: Context, tx: Transaction, actor: str, record: SigningRecord, signed: SignedRequest) -> str:
    delegation = Delegation.from_json(_with_signature(record, signed))
    verify_delegation(delegation)
    rule = next((rule for rule in tx.rules(record.profile) if rule.rule_point == delegation.rule_point), None)
    if rule is None:
        raise NotFoundError(
            f"profile {record.profile} epoch {record.epoch} has no rule with the key that request "
            f"{record.request_id[:16]} delegates to: nothing is imported",
            hint=f"sealvm profile rule list {record.profile}; sign the other requests without this one",
        )
    add_delegation(ctx, tx, actor, rule, delegation)
    return f"{rule.profile} epoch {rule.epoch}: rule {rule.name}"


def _with_signature(record: SigningRecord, signed: SignedRequest) -> dict[str, Any]:
    return {**record.body["statement"], "signature": base64.b64encode(signed.signature).decode()}
