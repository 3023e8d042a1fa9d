"""Approving a state: from verified evidence to the approver's signature, valid on every host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from sealvm.attest.explain import reference_of
from sealvm.authority import bundle, candidates
from sealvm.authority.candidates import Candidate, refuse_unmet, requirement_view
from sealvm.authority.epochs import cell_for, cells_of, epoch_named, newest, present
from sealvm.authority.observed import digest_in
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.profiles import required_profile
from sealvm.authority.records import EpochRecord, ProfileRecord
from sealvm.authority.signing import StateToSign, sign_state
from sealvm.errors import ConflictError, InputError, NotFoundError
from sealvm.protocol.operator import ApprovalView, ApproveRequest, DifferenceView
from sealvm.protocol.trust import Prediction
from sealvm.tcg.pcr import pcr_digest

Find = Callable[[Transaction, ProfileRecord], Candidate]


@dataclass(frozen=True, slots=True)
class _Access:
    """Names of enrolled hosts: who satisfies the profile with the approval, who only through it, and who does not."""

    satisfied: tuple[str, ...]
    gaining: tuple[str, ...]
    other: tuple[str, ...]


def approve(ctx: Context, actor: str, name: str, request: ApproveRequest) -> list[ApprovalView]:
    """Approve a host's last verified state, or an observed one, for the present epochs of the profile `name`.

    1. The profile exists; the host is enrolled, or the state was observed; its trust class is one the profile accepts.
    2. The stored quote and log are verified again.
    3. Every requirement of the profile is met; else EvidenceRefused, with the answers in the field `requirements`.
    4. The state was not withdrawn, or `reinstate` is asked for; else ConflictError.
    5. The approver signs, once for each epoch and cell; a state that is approved already is answered as `existing`, one
       that waits for an offline approver as `pending`.

    With `dry_run` nothing is signed or stored. The views say how the state differs from the nearest one approved
    before, which hosts satisfy the profile then, which of them gain it by this approval, and which do not.
    """
    if (request.host is None) == (request.state is None):
        raise InputError("name either a host or a state to approve")

    def find(tx: Transaction, profile: ProfileRecord) -> Candidate:
        if request.host is not None:
            return candidates.from_host(tx, profile, request.host)
        selection = newest(present(tx, name), request.cell or "").selection
        return candidates.from_digest(tx, profile, selection, request.state or "")

    return _approve(ctx, actor, name, request, find)


def approve_predicted(
    ctx: Context, actor: str, name: str, request: ApproveRequest, prediction: Prediction
) -> list[ApprovalView]:
    """Approve a state that no host was in yet; steps 1 to 5 as `approve`, with the replayed prediction for 2."""
    if request.host is not None or request.state is not None:
        raise InputError("a prediction is approved without naming a host or state")
    return _approve(ctx, actor, name, request, lambda _tx, profile: candidates.from_prediction(profile, prediction))


def _approve(ctx: Context, actor: str, name: str, request: ApproveRequest, find: Find) -> list[ApprovalView]:
    with ctx.store.read() as tx:
        profile = required_profile(tx, name)
        candidate = find(tx, profile)  # 1, 2
    refuse_unmet(name, candidate)  # 3
    if request.dry_run:
        with ctx.store.read() as tx:
            _refuse_withdrawn(tx, profile, candidate, request)
            return [_view(tx, profile, e, candidate, "dry-run") for e in _epochs(tx, name, request)]
    with ctx.store.write() as tx:
        if required_profile(tx, name) != profile:
            raise ConflictError(f"profile {name} was changed meanwhile", hint="approve again")
        _refuse_withdrawn(tx, profile, candidate, request)  # 4
        views = []
        for epoch in _epochs(tx, name, request):
            view = _view(tx, profile, epoch, candidate, None)
            if view.outcome != "existing":
                outcome = sign_state(ctx, tx, actor, epoch, _to_sign(candidate))  # 5
                view = view.model_copy(update={"outcome": outcome})
            views.append(view)
        if any(view.outcome == "signed" for view in views):
            bundle.publish(ctx, tx, actor)
    return views


def _epochs(tx: Transaction, name: str, request: ApproveRequest) -> list[EpochRecord]:
    if request.epoch is not None:
        return epoch_named(tx, name, request.epoch, request.cell)
    found = [record for record in present(tx, name) if request.cell in (None, record.cell)]
    if not found:
        raise NotFoundError(f"profile {name} has no cell {request.cell!r}", hint=f"sealvm profile cell list {name}")
    return found


def _to_sign(candidate: Candidate) -> StateToSign:
    return StateToSign(
        pcr_values=candidate.pcr_values,
        label=candidate.label,
        reference=reference_of(candidate.state),
        host=candidate.host,
        event_log=candidate.event_log,
        preimages=candidate.preimages,
    )


def _refuse_withdrawn(tx: Transaction, profile: ProfileRecord, candidate: Candidate, request: ApproveRequest) -> None:
    """ConflictError for a withdrawn state; with `reinstate` the withdrawal is forgotten instead (in a write)."""
    for withdrawal in tx.withdrawals(profile.name):
        digests = {digest_in(candidate.pcr_values, epoch.selection) for epoch in present(tx, profile.name)}
        if withdrawal.pcr_digest not in digests:
            continue
        if not request.reinstate:
            raise ConflictError(
                f"this state was withdrawn from profile {profile.name} on {withdrawal.withdrawn:%Y-%m-%d}",
                hint="approve it all the same with --reinstate",
            )
        if not request.dry_run:
            tx.remove_withdrawal(profile.name, withdrawal.pcr_digest)


def _view(
    tx: Transaction, profile: ProfileRecord, epoch: EpochRecord, candidate: Candidate, outcome: str | None
) -> ApprovalView:
    digest = pcr_digest(candidate.pcr_values, epoch.selection)
    before = [record for record in tx.approvals(profile.name) if record.key == epoch.key]
    approved = {record.pcr_digest: record for record in before}
    existing = approved.get(digest)
    access = _access(tx, profile, epoch, set(approved), digest)
    differing = candidates.differences(profile, before, candidate) if existing is None else ()
    return ApprovalView(
        profile=profile.name,
        epoch=epoch.epoch,
        cell=epoch.cell,
        host=candidate.host,
        label=candidate.label if existing is None else str(existing.body.get("label", "")),
        pcr_digest=digest,
        requirements=tuple(requirement_view(result) for result in candidate.evaluation.results),
        approved_before=len(before),
        differences=tuple(DifferenceView(**asdict(difference)) for difference in differing),
        satisfied_by=access.satisfied,
        gaining=access.gaining,
        not_satisfied_by=access.other,
        outcome="dry-run" if outcome == "dry-run" else "signed" if existing is None else "existing",
    )


def _access(tx: Transaction, profile: ProfileRecord, epoch: EpochRecord, approved: set[bytes], new: bytes) -> _Access:
    """Of the hosts that get this cell's key."""
    satisfied, gaining, other = [], [], []
    values = tx.pcr_values()
    cells = cells_of(present(tx, profile.name))
    for host in tx.hosts():
        if host.enrolled is None or cell_for(host.cell, cells) != epoch.cell:
            continue
        digest = digest_in(values.get(host.name, {}), epoch.selection)
        if host.trust_class in profile.trust and digest is not None and digest in approved | {new}:
            satisfied.append(host.name)
            if digest not in approved:
                gaining.append(host.name)
        else:
            other.append(host.name)
    return _Access(tuple(satisfied), tuple(gaining), tuple(other))


def state_digest(values: Mapping[int, bytes], selection: tuple[int, ...]) -> bytes | None:
    """The digest of the selected PCRs, or None when one of them was not quoted."""
    return digest_in(dict(values), selection)
