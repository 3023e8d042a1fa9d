"""The approver's signature: made at once where its key is in custody, else left as a request for the offline approver.

The only place that asks for the approver's key, and it signs two things: that a profile key may be used in a state, and
that a rule key may say so. Whoever calls has evaluated the profile's requirements.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sealvm.authority import audit
from sealvm.authority.ports import APPROVER_KEY, Context, Transaction
from sealvm.authority.records import ApprovalRecord, EpochRecord, RuleRecord, SigningRecord
from sealvm.crypto.ec import Signer
from sealvm.errors import ConflictError
from sealvm.statements.approval import Approval, digest_to_sign, sign_approval, unsigned_approval
from sealvm.statements.rule import Delegation, sign_approval_by_rule, sign_delegation
from sealvm.tcg.policy import profile_ref

Outcome = Literal["signed", "pending"]


@dataclass(frozen=True, slots=True)
class StateToSign:
    """A state as an approval takes it, and the evidence that lets an offline approver judge it again."""

    pcr_values: dict[int, bytes]
    label: str
    reference: dict[str, Any]
    host: str = ""
    event_log: bytes = b""
    preimages: tuple[bytes, ...] = field(default=())


def sign_state(ctx: Context, tx: Transaction, actor: str, epoch: EpochRecord, state: StateToSign) -> Outcome:
    """Approve `state` for one profile key: an approval in `tx`, or a request in it. The caller publishes the bundle."""
    if _offline(tx, epoch):
        unsigned = unsigned_approval(
            epoch.approver_point,
            profile_ref(epoch.profile, epoch.epoch, epoch.cell, epoch.mode),
            **_of_epoch(epoch, state),
        )
        digest = digest_to_sign(unsigned.approved_policy, unsigned.policy_ref)
        body = {
            "statement": unsigned.to_json(),
            "pcr_values": {str(index): value.hex() for index, value in sorted(state.pcr_values.items())},
            "event_log": state.event_log.hex(),
            "preimages": [preimage.hex() for preimage in state.preimages],
            "host": state.host,
        }
        _request(ctx, tx, actor, epoch, SigningRecord(digest.hex(), "approval", *epoch.key, body, ctx.now()))
        return "pending"
    add_approval(ctx, tx, actor, sign_approval(_approver(ctx, epoch), **_of_epoch(epoch, state)), state.host)
    return "signed"


def sign_rule(ctx: Context, tx: Transaction, actor: str, epoch: EpochRecord, rule: RuleRecord) -> Outcome:
    """Delegate one profile key to the key of `rule`, which this stores, with the delegation or a request for it."""
    if _offline(tx, epoch):
        unsigned = Delegation(*epoch.key, epoch.mode, rule.rule_point, epoch.approver_point, b"")
        digest = digest_to_sign(unsigned.approved_policy, unsigned.policy_ref)
        body = {"statement": unsigned.to_json(), "match": list(rule.match), "rule": rule.name}
        tx.put_rule(rule)
        _request(ctx, tx, actor, epoch, SigningRecord(digest.hex(), "delegation", *epoch.key, body, ctx.now()))
        return "pending"
    delegation = sign_delegation(
        _approver(ctx, epoch),
        profile=epoch.profile,
        epoch=epoch.epoch,
        cell=epoch.cell,
        mode=epoch.mode,
        rule_point=rule.rule_point,
    )
    add_delegation(ctx, tx, actor, rule, delegation)
    return "signed"


def sign_by_rule(ctx: Context, tx: Transaction, epoch: EpochRecord, rule: RuleRecord, state: StateToSign) -> None:
    """Approve `state` by the rule's key. The caller has found that the rule covers it and that requirements are met."""
    actor = f"rule {rule.name}"
    approval = sign_approval_by_rule(ctx.custody.signer(rule.custody_name), **_of_epoch(epoch, state))
    add_approval(ctx, tx, actor, approval, state.host, rule=rule.name)


def add_approval(ctx: Context, tx: Transaction, actor: str, approval: Approval, host: str, *, rule: str = "") -> None:
    """Store a signed approval, with its audit entry."""
    tx.add_approval(
        ApprovalRecord(
            profile=approval.profile,
            epoch=approval.epoch,
            cell=approval.cell,
            pcr_digest=approval.pcr_digest,
            host=host,
            body=approval.to_json(),
            created=ctx.now(),
        )
    )
    details = {"epoch": approval.epoch, "cell": approval.cell, "pcr_digest": approval.pcr_digest.hex(), "host": host}
    if rule:
        details["rule"] = rule
    action = audit.Action.STATE_APPROVED_BY_RULE if rule else audit.Action.STATE_APPROVED
    audit.record(ctx, tx, actor, action, approval.profile, **details)


def add_delegation(ctx: Context, tx: Transaction, actor: str, rule: RuleRecord, delegation: Delegation) -> None:
    """Store a rule with its signed delegation, with its audit entry."""
    tx.put_rule(
        RuleRecord(
            profile=rule.profile,
            epoch=rule.epoch,
            cell=rule.cell,
            name=rule.name,
            match=rule.match,
            rule_point=rule.rule_point,
            custody_name=rule.custody_name,
            delegation=delegation.to_json(),
            until_epoch=rule.until_epoch,
            created=rule.created,
        )
    )
    details = {"epoch": rule.epoch, "cell": rule.cell, "rule": rule.name, "match": list(rule.match)}
    audit.record(ctx, tx, actor, audit.Action.RULE_DELEGATED, rule.profile, **details)


def _of_epoch(epoch: EpochRecord, state: StateToSign) -> dict[str, Any]:
    return {
        "profile": epoch.profile,
        "epoch": epoch.epoch,
        "cell": epoch.cell,
        "mode": epoch.mode,
        "selection": epoch.selection,
        "lease_point": epoch.lease_point,
        "pcr_values": state.pcr_values,
        "label": state.label,
        "reference": state.reference,
    }


def _offline(tx: Transaction, epoch: EpochRecord) -> bool:
    return tx.approver() == epoch.approver_point


def _approver(ctx: Context, epoch: EpochRecord) -> Signer:
    signer = ctx.custody.signer(APPROVER_KEY)
    if signer.point != epoch.approver_point:
        raise ConflictError(
            f"epoch {epoch.epoch} of profile {epoch.profile} was made for another approver key",
            hint="rotate the profile",
        )
    return signer


def _request(ctx: Context, tx: Transaction, actor: str, epoch: EpochRecord, record: SigningRecord) -> None:
    if any(known.request_id == record.request_id for known in tx.signings()):
        return
    tx.put_signing(record)
    details = {"kind": record.kind, "epoch": epoch.epoch, "cell": epoch.cell, "digest": record.request_id}
    audit.record(ctx, tx, actor, audit.Action.SIGNATURE_REQUESTED, epoch.profile, **details)
