"""Approval by rule: the approver delegates an epoch once, and then a rule's key approves the states the rule covers.

A rule covers a state that meets every requirement of the profile and has, in the PCRs that the rule names, the values
of a state that the approver itself approved for that very key: with PCRs 0, 2 and 7, the firmware of an approved
state. States that were withdrawn are not covered. Rules are applied when a host proves a state, before its answer. What
exceeds `authority.rule_limits` waits in the queue for a person.

A stolen rule key approves any state of the epochs and cells delegated to it (docs/threat-model.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sealvm.attest.explain import reference_of
from sealvm.attest.reference import parse_reference
from sealvm.authority import bundle
from sealvm.authority.candidates import Candidate, from_observed
from sealvm.authority.epochs import SUFFIX_BYTES, newest, present
from sealvm.authority.observed import digest_in
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.profiles import required_profile
from sealvm.authority.records import EpochRecord, ObservedRecord, ProfileRecord, RuleRecord
from sealvm.authority.rule_limits import Room, note_waiting
from sealvm.authority.signing import StateToSign, sign_by_rule, sign_rule
from sealvm.errors import ConflictError, InputError, Refusal
from sealvm.protocol.trust import RuleRequest, RuleView

LEASED_WARNING = (
    "this epoch is leased: whoever steals the rule's key can approve states of it without the lease, "
    "which no longer ends there; the answer is a rotation without the rule"
)


def add_rule(ctx: Context, actor: str, name: str, request: RuleRequest) -> list[RuleView]:
    """Make a rule for the present epochs of a profile, or of one cell, and apply it to what waits in the queue.

    InputError when the rule names PCRs that the profile does not select, or an epoch that is over; ConflictError when
    there is a rule of that name in such an epoch. With `dry_run` nothing is made; the views say what it would approve.
    """
    with ctx.store.write() as tx:
        profile = required_profile(tx, name)
        epochs = _epochs_for(tx, profile, request)
        match = tuple(sorted(set(request.match)))
        if request.dry_run:
            return [_dry(tx, profile, epoch, request, match) for epoch in epochs]
        for epoch in epochs:
            make_rule(ctx, tx, actor, epoch, Terms(request.name, match, request.until_epoch))
        judge_all(ctx, tx, name)
        bundle.publish(ctx, tx, actor)
        made = {epoch.key for epoch in epochs}
        return [_view(tx, rule) for rule in tx.rules(name) if rule.name == request.name and rule.key in made]


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator says of a rule."""

    name: str
    match: tuple[int, ...]
    until_epoch: int | None


def _epochs_for(tx: Transaction, profile: ProfileRecord, request: RuleRequest) -> list[EpochRecord]:
    name = profile.name
    if foreign := sorted(set(request.match) - set(profile.pcrs)):
        raise InputError(f"rule {request.name}: profile {name} does not select PCR {foreign[0]}")
    epochs = present(tx, name)
    if request.cell is not None:
        newest(epochs, request.cell)
        epochs = [record for record in epochs if record.cell == request.cell]
    if request.until_epoch is not None and request.until_epoch < max(record.epoch for record in epochs):
        raise InputError(f"rule {request.name}: epoch {request.until_epoch} is older than the present one")
    taken = {rule.key for rule in tx.rules(name) if rule.name == request.name}
    if any(record.key in taken for record in epochs):
        raise ConflictError(f"profile {name} has a rule {request.name} already")
    return epochs


def make_rule(ctx: Context, tx: Transaction, actor: str, epoch: EpochRecord, terms: Terms) -> None:
    """A rule with a fresh key for one epoch and cell, delegated to by the approver or waiting for it."""
    custody_name = f"rule.{epoch.profile}.{epoch.epoch}.{ctx.random(SUFFIX_BYTES).hex()}"
    rule = RuleRecord(
        profile=epoch.profile,
        epoch=epoch.epoch,
        cell=epoch.cell,
        name=terms.name,
        match=terms.match,
        rule_point=ctx.custody.create_signer(custody_name).point,
        custody_name=custody_name,
        delegation=None,
        until_epoch=terms.until_epoch,
        created=ctx.now(),
    )
    sign_rule(ctx, tx, actor, epoch, rule)


def list_rules(ctx: Context, name: str) -> list[RuleView]:
    """The rules of a profile in all its epochs."""
    with ctx.store.read() as tx:
        required_profile(tx, name)
        return [_view(tx, rule) for rule in tx.rules(name)]


def judge(ctx: Context, tx: Transaction, record: ObservedRecord) -> None:
    """Approve an observed state wherever a rule covers it and nobody approved it, and publish it. In a write."""
    if _judge(ctx, tx, record, None, Room(tx)):
        bundle.publish(ctx, tx, "authority")


def judge_all(ctx: Context, tx: Transaction, profile: str | None = None) -> None:
    """The same for every observed state, for one profile or all; the caller publishes. In a write."""
    if tx.rules(profile):
        room = Room(tx)
        known = {approval.pcr_digest for approval in tx.approvals(profile)}
        selections = {epoch.selection for epoch in tx.epochs(profile)}

        def waits(light: ObservedRecord) -> bool:
            return all(digest_in(light.pcr_values, selection) not in known for selection in selections)

        for light in sorted(tx.observed_values(), key=waits):  # what an older epoch approves comes before the queue
            record = tx.observed(light.state_id)
            if record is not None:
                _judge(ctx, tx, record, profile, room)


def _judge(ctx: Context, tx: Transaction, record: ObservedRecord, name: str | None, room: Room) -> bool:
    approved = False
    for profile in tx.profiles():
        if name in (None, profile.name) and record.trust_class in profile.trust:
            approved |= _judge_for(ctx, tx, profile, record, room)
    return approved


def covering(
    tx: Transaction, epoch: EpochRecord, values: dict[int, bytes], rules: Sequence[RuleRecord]
) -> RuleRecord | None:
    """The first of `rules` with a signed delegation that covers these PCR values in its epoch; None."""
    firsthand = [
        parse_reference(record.body["reference"]).pcr_values
        for record in tx.approvals(epoch.profile)
        if record.key == epoch.key and record.body["approver"] == epoch.approver_point.hex()
    ]
    for rule in rules:
        if rule.key == epoch.key and rule.delegation is not None and _matches(rule.match, values, firsthand):
            return rule
    return None


def _matches(match: tuple[int, ...], values: dict[int, bytes], approved: Sequence[Mapping[int, bytes]]) -> bool:
    wanted = digest_in(values, match)
    return wanted is not None and any(digest_in(known, match) == wanted for known in approved)


def _judge_for(ctx: Context, tx: Transaction, profile: ProfileRecord, record: ObservedRecord, room: Room) -> bool:
    rules = tx.rules(profile.name)
    if not rules:
        return False
    withdrawn = {withdrawal.pcr_digest for withdrawal in tx.withdrawals(profile.name)}
    known = {(approval.key, approval.pcr_digest) for approval in tx.approvals(profile.name)}
    candidate: Candidate | None = None
    signed = False
    for epoch in present(tx, profile.name):
        digest = digest_in(record.pcr_values, epoch.selection)
        if digest is None or digest in withdrawn or (epoch.key, digest) in known:
            continue
        rule = covering(tx, epoch, record.pcr_values, rules)
        if rule is None:
            continue
        candidate = candidate or _candidate(profile, record)
        if candidate is None or not candidate.evaluation.satisfied:
            return signed
        state = _to_sign(candidate)
        why = room.refused(rule, state.host, state.reference)
        if why:
            note_waiting(ctx, tx, rule, state.host, why)
            continue
        sign_by_rule(ctx, tx, epoch, rule, state)
        room.take(rule, state.host, state.reference)
        signed = True
    return signed


def _candidate(profile: ProfileRecord, record: ObservedRecord) -> Candidate | None:
    try:
        return from_observed(profile, record)
    except Refusal:
        return None


def _to_sign(candidate: Candidate) -> StateToSign:
    return StateToSign(candidate.pcr_values, candidate.label, reference_of(candidate.state), candidate.host)


def _dry(
    tx: Transaction, profile: ProfileRecord, epoch: EpochRecord, request: RuleRequest, match: tuple[int, ...]
) -> RuleView:
    """What the rule would approve now: digests of observed states that meet the requirements and nobody approved."""
    rule = RuleRecord(*epoch.key, request.name, match, b"", "", {}, request.until_epoch, epoch.created)
    known = {record.pcr_digest for record in tx.approvals(profile.name) if record.key == epoch.key}
    known |= {withdrawal.pcr_digest for withdrawal in tx.withdrawals(profile.name)}
    covers: dict[bytes, str] = {}
    room = Room(tx)
    for light in tx.observed_values():
        digest = digest_in(light.pcr_values, epoch.selection)
        if digest is None or digest in known or light.trust_class not in profile.trust:
            continue
        record = tx.observed(light.state_id)
        if record is not None and covering(tx, epoch, record.pcr_values, [rule]) is not None:
            candidate = _candidate(profile, record)
            if candidate is None or not candidate.evaluation.satisfied or digest in covers:
                continue
            reference = _to_sign(candidate).reference
            if not room.refused(rule, candidate.host, reference):
                room.take(rule, candidate.host, reference)
                covers[digest] = f"{digest.hex()[:16]} ({candidate.label})"
    return _as_view(rule, "dry-run", tuple(covers.values()), leased=bool(epoch.lease_point))


def _view(tx: Transaction, rule: RuleRecord) -> RuleView:
    of_rule = [record for record in tx.epochs(rule.profile) if record.key == rule.key]
    retired = all(record.retired is not None for record in of_rule)
    leased = any(record.lease_point for record in of_rule)
    state: Literal["active", "pending", "retired"] = "active" if rule.delegation is not None else "pending"
    covers = tuple(
        f"{record.pcr_digest.hex()[:16]} ({record.body['label']})"
        for record in tx.approvals(rule.profile)
        if record.key == rule.key and record.body["approver"] == rule.rule_point.hex()
    )
    return _as_view(rule, "retired" if retired else state, covers, leased=leased)


def _as_view(
    rule: RuleRecord,
    state: Literal["active", "pending", "retired", "dry-run"],
    covers: tuple[str, ...],
    *,
    leased: bool,
) -> RuleView:
    return RuleView(
        profile=rule.profile,
        name=rule.name,
        epoch=rule.epoch,
        cell=rule.cell,
        match=rule.match,
        rule_point=rule.rule_point or None,
        until_epoch=rule.until_epoch,
        state=state,
        covers=covers,
        warning=LEASED_WARNING if leased else "",
    )
