"""Approving a state: from a host's verified evidence to the approver's signature, valid on every host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sealvm.attest.evaluate import Evaluation, RequirementResult, evaluate
from sealvm.attest.explain import reference_of
from sealvm.attest.profile import load_profile
from sealvm.attest.state import MeasuredState
from sealvm.authority import audit, bundle
from sealvm.authority.ports import APPROVER_KEY, Context, Transaction
from sealvm.authority.profiles import required_profile
from sealvm.authority.records import ApprovalRecord, EpochRecord, HostRecord, ProfileRecord, StateRecord
from sealvm.errors import ConflictError, EvidenceRefused, NotFoundError
from sealvm.protocol.messages import QuotedState
from sealvm.protocol.operator import ApprovalView, ApproveRequest, RequirementView
from sealvm.protocol.state import prove_state
from sealvm.statements.approval import sign_approval
from sealvm.statements.times import format_time
from sealvm.tcg.pcr import pcr_digest


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The state that is to be approved, proved anew from what the host sent."""

    host: HostRecord
    state: MeasuredState
    evaluation: Evaluation
    label: str


@dataclass(frozen=True, slots=True)
class _Access:
    """Names of enrolled hosts: who satisfies the profile with the approval, who only through it, and who does not."""

    satisfied: tuple[str, ...]
    gaining: tuple[str, ...]
    other: tuple[str, ...]


def approve(ctx: Context, actor: str, name: str, request: ApproveRequest) -> list[ApprovalView]:
    """Approve the state in which `request.host` was last verified, for every epoch of the profile `name`.

    1. The profile exists, the host is enrolled, and its trust class is one the profile accepts.
    2. The stored quote and log are verified again.
    3. Every requirement of the profile is met; else EvidenceRefused, with the answers in the field `requirements`.
    4. The approver signs, once for each epoch and cell; a state that is approved already is answered as `existing`.

    With `dry_run` nothing is signed or stored. The views say which hosts satisfy the profile then, which of them gain
    it by this approval, and which do not.
    """
    with ctx.store.read() as tx:
        profile = required_profile(tx, name)
        candidate = _candidate(tx, profile, request.host)  # 1, 2
    _refuse_unmet(name, candidate)  # 3
    if request.dry_run:
        with ctx.store.read() as tx:
            return [_view(ctx, tx, profile, epoch, candidate, dry_run=True) for epoch in tx.epochs(name)]
    with ctx.store.write() as tx:
        present = required_profile(tx, name)
        if present != profile:
            raise ConflictError(f"profile {name} was changed meanwhile", hint="approve again")
        views = []
        for epoch in tx.epochs(name):
            view = _view(ctx, tx, profile, epoch, candidate, dry_run=False)
            if view.outcome == "signed":
                _sign(ctx, tx, actor, epoch, candidate)  # 4
            views.append(view)
        if any(view.outcome == "signed" for view in views):
            bundle.publish(ctx, tx, actor)
    return views


def _candidate(tx: Transaction, profile: ProfileRecord, host_name: str) -> _Candidate:
    host, record = tx.host(host_name), tx.state(host_name)
    if host is None or host.enrolled is None or record is None:
        raise NotFoundError(f"host {host_name} is not enrolled", hint="`sealvm host list` shows those that are")
    if host.trust_class not in profile.trust:
        raise EvidenceRefused(
            f"host {host_name} is of trust class {host.trust_class}, profile {profile.name} accepts "
            f"{', '.join(profile.trust)}: what it measures proves nothing to this profile",
            check="trust-class",
        )
    state = _proved(record, host)
    unseen = sorted(set(profile.pcrs) - set(state.pcr_values))
    if unseen:
        raise EvidenceRefused(
            f"host {host_name} was last verified before profile {profile.name} asked for PCR {unseen[0]}",
            hint=f"run `sealvm host sync` on {host_name}, then approve again",
            check="quote-selection",
            pcr=unseen[0],
        )
    document = load_profile(profile.document, profile.name)
    label = f"{host.name} {format_time(record.verified)}"
    return _Candidate(host, state, evaluate(document, state.evidence), label)


def _proved(record: StateRecord, host: HostRecord) -> MeasuredState:
    """The stored state, verified again: the database is not what vouches for it."""
    quoted = QuotedState(
        attest=record.quote,
        signature=record.signature,
        event_log=record.event_log,
        preimages=record.preimages,
        pcr_values=record.pcr_values,
    )
    return prove_state(quoted, host.ak_public, record.qualifying_data, tuple(record.pcr_values)).measured


def _refuse_unmet(name: str, candidate: _Candidate) -> None:
    unmet = [result for result in candidate.evaluation.results if not result.met]
    if not unmet:
        return
    first = unmet[0]
    raise EvidenceRefused(
        f"the state of host {candidate.host.name} does not satisfy profile {name}: {first.name} ({first.says}): "
        f"expected {first.expected}, {first.detail}" + (f"; and {len(unmet) - 1} more" if len(unmet) > 1 else ""),
        hint="approve a state that meets every requirement, or change the profile's requirements",
        check="requirements",
        requirements=[_requirement(result).model_dump(mode="json") for result in candidate.evaluation.results],
    )


def _sign(ctx: Context, tx: Transaction, actor: str, epoch: EpochRecord, candidate: _Candidate) -> None:
    signer = ctx.custody.signer(APPROVER_KEY)
    if signer.point != epoch.approver_point:
        raise ConflictError(
            f"epoch {epoch.epoch} of profile {epoch.profile} was made for another approver key",
            hint="rotate the profile",
        )
    approval = sign_approval(
        signer,
        profile=epoch.profile,
        epoch=epoch.epoch,
        cell=epoch.cell,
        mode=epoch.mode,
        selection=epoch.selection,
        pcr_values=candidate.state.pcr_values,
        label=candidate.label,
        reference=reference_of(candidate.state),
    )
    tx.add_approval(
        ApprovalRecord(
            profile=epoch.profile,
            epoch=epoch.epoch,
            cell=epoch.cell,
            pcr_digest=approval.pcr_digest,
            host=candidate.host.name,
            body=approval.to_json(),
            created=ctx.now(),
        )
    )
    details = {
        "epoch": epoch.epoch,
        "cell": epoch.cell,
        "pcr_digest": approval.pcr_digest.hex(),
        "host": candidate.host.name,
    }
    audit.record(ctx, tx, actor, audit.Action.STATE_APPROVED, epoch.profile, **details)


def _view(
    ctx: Context, tx: Transaction, profile: ProfileRecord, epoch: EpochRecord, candidate: _Candidate, *, dry_run: bool
) -> ApprovalView:
    digest = pcr_digest(candidate.state.pcr_values, epoch.selection)
    approved = {
        record.pcr_digest: record
        for record in tx.approvals(profile.name)
        if (record.epoch, record.cell) == (epoch.epoch, epoch.cell)
    }
    existing = approved.get(digest)
    access = _access(tx, profile, epoch, set(approved), digest)
    return ApprovalView(
        profile=profile.name,
        epoch=epoch.epoch,
        cell=epoch.cell,
        host=candidate.host.name,
        label=candidate.label if existing is None else str(existing.body.get("label", "")),
        pcr_digest=digest,
        requirements=tuple(_requirement(result) for result in candidate.evaluation.results),
        satisfied_by=access.satisfied,
        gaining=access.gaining,
        not_satisfied_by=access.other,
        outcome="dry-run" if dry_run else "signed" if existing is None else "existing",
    )


def _access(tx: Transaction, profile: ProfileRecord, epoch: EpochRecord, approved: set[bytes], new: bytes) -> _Access:
    satisfied, gaining, other = [], [], []
    values = tx.pcr_values()
    for host in tx.hosts():
        if host.enrolled is None:
            continue
        digest = state_digest(values.get(host.name, {}), epoch.selection)
        if host.trust_class in profile.trust and digest is not None and digest in approved | {new}:
            satisfied.append(host.name)
            if digest not in approved:
                gaining.append(host.name)
        else:
            other.append(host.name)
    return _Access(tuple(satisfied), tuple(gaining), tuple(other))


def state_digest(values: Mapping[int, bytes], selection: tuple[int, ...]) -> bytes | None:
    """The digest of the selected PCRs, or None when one of them was not quoted."""
    return pcr_digest(values, selection) if all(index in values for index in selection) else None


def _requirement(result: RequirementResult) -> RequirementView:
    return RequirementView(
        name=result.name,
        says=result.says,
        met=result.met,
        fact=result.fact,
        expected=result.expected,
        found=result.found,
        event_index=result.event_index,
        detail=result.detail,
    )
