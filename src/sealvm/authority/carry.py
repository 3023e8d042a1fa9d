"""What a new epoch takes over from the one before: approvals, by new signatures, and rules that are to go on.

An approval is taken over when its state was not withdrawn and, judged again from the evidence that is kept, still meets
every requirement of the profile's present document. One whose evidence is not kept any more was judged when it was
approved; it is taken over, and the offline approver, if there is one, is told that it comes without evidence.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sealvm.attest.evaluate import evaluate_sealed
from sealvm.attest.profile import load_profile
from sealvm.attest.reference import parse_reference
from sealvm.authority import observed, rules
from sealvm.authority.observed import digest_in
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import ApprovalRecord, EpochRecord, ObservedRecord, ProfileRecord, RuleRecord
from sealvm.authority.rules import Terms
from sealvm.authority.signing import StateToSign, sign_state
from sealvm.errors import Refusal
from sealvm.protocol.trust import DroppedView, NewEpochView
from sealvm.tcg.pcr import pcr_digest

WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class CarryPlan:
    """What would be carried from `old`: states to be signed anew, rules to be renewed, and what is dropped and why."""

    old: EpochRecord
    states: tuple[StateToSign, ...]
    terms: tuple[Terms, ...]
    dropped: tuple[DroppedView, ...]


def plan(
    tx: Transaction, profile: ProfileRecord, old: EpochRecord, number: int, excluded: Collection[bytes]
) -> CarryPlan:
    """What the epoch `number` takes over from `old`, without the states whose PCR digests are `excluded`."""
    kept = [rule for rule in tx.rules(profile.name) if rule.key == old.key and (rule.until_epoch or 0) >= number]
    states: list[StateToSign] = []
    dropped: list[DroppedView] = []
    for record in tx.approvals(profile.name):
        if record.key != old.key:
            continue
        state, why = _judged(tx, profile, old, record, excluded)
        if not why and record.body["approver"] != old.approver_point.hex():
            rule = _rule_of(tx, record)
            if rule in kept:
                continue  # its renewal approves it again, from the observed states
            why = f"approved by the rule {rule.name if rule else '?'}, which ends with epoch {old.epoch}"
        if why or state is None:
            dropped.append(DroppedView(pcr_digest=record.pcr_digest, label=str(record.body["label"]), why=why))
        else:
            states.append(state)
    terms = tuple(Terms(rule.name, rule.match, rule.until_epoch) for rule in kept)
    return CarryPlan(old, tuple(states), terms, tuple(dropped))


def carry(ctx: Context, tx: Transaction, actor: str, new: EpochRecord, planned: CarryPlan) -> NewEpochView:
    """Do it: the approver signs for `new`, or is asked to. The caller publishes the bundle."""
    carried: list[str] = []
    pending: list[str] = []
    for state in planned.states:
        outcome = sign_state(ctx, tx, actor, new, state)
        (carried if outcome == "signed" else pending).append(state.label)
    for terms in planned.terms:
        rules.make_rule(ctx, tx, actor, new, terms)
    if planned.terms:
        rules.judge_all(ctx, tx, new.profile)
    return NewEpochView(
        epoch=new.epoch, cell=new.cell, carried=tuple(carried), pending=tuple(pending), dropped=planned.dropped
    )


def foresee(tx: Transaction, number: int, cell: str, planned: CarryPlan) -> NewEpochView:
    """What `carry` would answer, with nothing changed."""
    offline = tx.approver() is not None
    labels = tuple(state.label for state in planned.states)
    return NewEpochView(
        epoch=number,
        cell=cell,
        carried=() if offline else labels,
        pending=labels if offline else (),
        dropped=planned.dropped,
        dry_run=True,
    )


def _judged(
    tx: Transaction, profile: ProfileRecord, old: EpochRecord, record: ApprovalRecord, excluded: Collection[bytes]
) -> tuple[StateToSign | None, str]:
    """The state to sign for, or why not."""
    withdrawn = {withdrawal.pcr_digest for withdrawal in tx.withdrawals(profile.name)} | set(excluded)
    if record.pcr_digest in withdrawn:
        return None, WITHDRAWN
    values = dict(parse_reference(record.body["reference"]).pcr_values)
    if digest_in(values, old.selection) != record.pcr_digest:
        return None, "its PCR values were not kept"
    evidence = _evidence(tx, old, record.pcr_digest)
    log: bytes = b""
    preimages: tuple[bytes, ...] = ()
    if evidence is not None:
        try:
            state = observed.proved(evidence)
        except Refusal as refusal:
            return None, f"its evidence does not verify any more: {refusal.message}"
        document = load_profile(profile.document, profile.name)
        unmet = [r for r in evaluate_sealed(document, state.evidence).results if not r.met]
        if unmet:
            return None, f"does not meet {unmet[0].name}: {unmet[0].says}"
        log, preimages = evidence.event_log, evidence.preimages
    label, host = str(record.body["label"]), record.host
    return StateToSign(values, label, record.body["reference"], host, log, preimages), ""


def _evidence(tx: Transaction, epoch: EpochRecord, digest: bytes) -> ObservedRecord | None:
    for light in tx.observed_values():
        values = light.pcr_values
        if all(pcr in values for pcr in epoch.selection) and pcr_digest(values, epoch.selection) == digest:
            return tx.observed(light.state_id)
    return None


def _rule_of(tx: Transaction, record: ApprovalRecord) -> RuleRecord | None:
    own = (r for r in tx.rules(record.profile) if r.key == record.key)
    return next((rule for rule in own if rule.rule_point.hex() == record.body["approver"]), None)
