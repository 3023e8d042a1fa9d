"""Rotation: a new epoch beside the old ones; withdrawal: a rotation without one state (docs/rotation.md).

Hosts get the new key at their next synchronisation, wrap their disks to it as well, and go on opening what is wrapped
to older epochs until these are retired.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sealvm.attest.profile import load_profile
from sealvm.authority import audit, bundle
from sealvm.authority.carry import CarryPlan, carry, foresee, plan
from sealvm.authority.epochs import cell_for, cells_of, make_epoch, newest, present
from sealvm.authority.inventory import disks_of
from sealvm.authority.observed import digest_in
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.profiles import required_profile
from sealvm.authority.records import ApprovalRecord, EpochRecord, ProfileRecord, WithdrawalRecord
from sealvm.errors import ConflictError, NotFoundError
from sealvm.protocol.trust import NewEpochView, RotateRequest, RotationView, WithdrawRequest


@dataclass(frozen=True, slots=True)
class _Rotation:
    """What is to be done: from which present epochs, to which new one in which cells, and what to say about it."""

    profile: ProfileRecord
    older: list[EpochRecord]
    number: int
    plans: dict[str, CarryPlan]
    says: tuple[str, ...]
    losing: tuple[str, ...] = ()


def rotate(ctx: Context, actor: str, name: str, request: RotateRequest) -> RotationView:
    """A new epoch for a profile, or for one cell of it, with the approvals of the one before.

    NotFoundError for a profile or cell that does not exist. With `dry_run` nothing changes.
    """
    with ctx.store.write() as tx:
        view = rotate_in(ctx, tx, actor, name, request)
        if not request.dry_run:
            bundle.publish(ctx, tx, actor)
        return view


def rotate_in(ctx: Context, tx: Transaction, actor: str, name: str, request: RotateRequest) -> RotationView:
    """`rotate` as a part of the write transaction `tx`; the caller publishes the bundle."""
    says = (
        "older epochs stay in use until they are retired, and packages are wrapped to all of them",
        "packages built before open by the older epochs only: sealvm package rewrap",
    )
    profile = required_profile(tx, name)
    epochs = present(tx, name)
    cells = cells_of(epochs) if request.cell is None else [newest(epochs, request.cell).cell]
    number = _next(tx, name)
    plans = {cell: plan(tx, profile, newest(epochs, cell), number, frozenset()) for cell in cells}
    rotation = _Rotation(profile, epochs, number, plans, says)
    if request.dry_run:
        return _view(tx, rotation, _foreseen(tx, rotation), dry_run=True)
    return _view(tx, rotation, _made(ctx, tx, actor, rotation), dry_run=False)


def withdraw(ctx: Context, actor: str, name: str, request: WithdrawRequest) -> RotationView:
    """Stop approving one state: new epochs without it, for all cells; the older ones get no new wraps.

    What was wrapped to the older epochs stays openable in that state, by hosts that have their keys: an approval cannot
    be called back. NotFoundError when no approved state of a present epoch begins with `state`, ConflictError when
    several do. With `dry_run` nothing changes.
    """
    with ctx.store.write() as tx:
        profile = required_profile(tx, name)
        epochs = present(tx, name)
        state = _approved_state(tx, epochs, request.state)
        number = _next(tx, name)
        excluded = frozenset({state.pcr_digest})
        plans = {cell: plan(tx, profile, newest(epochs, cell), number, excluded) for cell in cells_of(epochs)}
        rotation = _Rotation(profile, epochs, number, plans, _says(epochs, state), _in_state(tx, epochs, state))
        if request.dry_run:
            return _view(tx, rotation, _foreseen(tx, rotation), dry_run=True)
        tx.put_withdrawal(WithdrawalRecord(name, state.pcr_digest, str(state.body["label"]), ctx.now()))
        details = {"pcr_digest": state.pcr_digest.hex(), "label": state.body["label"]}
        audit.record(ctx, tx, actor, audit.Action.STATE_WITHDRAWN, name, **details)
        view = _view(tx, rotation, _made(ctx, tx, actor, rotation), dry_run=False)
        for record in epochs:
            close(ctx, tx, actor, record)
        for waiting in tx.signings():
            asked = waiting.body["statement"].get("pcr_digest")
            if waiting.profile == name and asked == state.pcr_digest.hex():
                tx.take_signing(waiting.request_id)
        bundle.publish(ctx, tx, actor, urgent=True)
        return view


def close(ctx: Context, tx: Transaction, actor: str, record: EpochRecord) -> None:
    """Nothing new is wrapped to this epoch from the next bundle on."""
    if record.wraps:
        tx.update_epoch(replace(record, wraps=False))
        details = {"epoch": record.epoch, "cell": record.cell}
        audit.record(ctx, tx, actor, audit.Action.EPOCH_CLOSED, record.profile, **details)


def _next(tx: Transaction, name: str) -> int:
    return max(record.epoch for record in tx.epochs(name)) + 1


def _made(ctx: Context, tx: Transaction, actor: str, rotation: _Rotation) -> list[NewEpochView]:
    profile = rotation.profile
    document = load_profile(profile.document, profile.name)
    views = []
    for cell, planned in rotation.plans.items():
        record = make_epoch(ctx, tx, document, rotation.number, cell)
        details = {"epoch": rotation.number, "cell": cell, "from": planned.old.epoch}
        audit.record(ctx, tx, actor, audit.Action.EPOCH_CREATED, profile.name, **details)
        views.append(carry(ctx, tx, actor, record, planned))
    return views


def _foreseen(tx: Transaction, rotation: _Rotation) -> list[NewEpochView]:
    return [foresee(tx, rotation.number, cell, planned) for cell, planned in rotation.plans.items()]


def _view(tx: Transaction, rotation: _Rotation, epochs: list[NewEpochView], *, dry_run: bool) -> RotationView:
    return RotationView(
        profile=rotation.profile.name,
        epochs=tuple(epochs),
        older=tuple(_named(record) for record in rotation.older),
        hosts_to_sync=_hosts(tx, rotation.profile, list(rotation.plans)),
        losing=rotation.losing,
        disks=tuple(disks_of(tx, rotation.profile.name)),
        says=rotation.says,
        dry_run=dry_run,
    )


def _says(epochs: list[EpochRecord], state: ApprovalRecord) -> tuple[str, ...]:
    older = ", ".join(_named(record) for record in epochs)
    leased = all(record.lease_point for record in epochs)
    until = "until their present leases end: none is renewed in that state" if leased else "for good"
    return (
        f"new packages and disks are wrapped to the new epoch only, which does not approve '{state.body['label']}'",
        f"what is wrapped to {older} stays openable in that state by hosts that have these keys, {until}",
        "to protect a package from it, build it anew: re-wrapping takes back no wrap that somebody has copied",
        "hosts open new packages after their next sync",
    )


def _in_state(tx: Transaction, epochs: list[EpochRecord], state: ApprovalRecord) -> tuple[str, ...]:
    selection = newest(epochs, state.cell).selection
    return tuple(
        host for host, values in sorted(tx.pcr_values().items()) if digest_in(values, selection) == state.pcr_digest
    )


def _hosts(tx: Transaction, profile: ProfileRecord, cells: list[str]) -> tuple[str, ...]:
    """The enrolled hosts that get a key of one of these cells."""
    known = cells_of(present(tx, profile.name))
    return tuple(
        host.name
        for host in tx.hosts()
        if host.enrolled is not None and host.trust_class in profile.trust and cell_for(host.cell, known) in cells
    )


def _approved_state(tx: Transaction, epochs: list[EpochRecord], prefix: str) -> ApprovalRecord:
    keys = {record.key for record in epochs}
    found = {
        record.pcr_digest: record
        for record in tx.approvals(epochs[0].profile)
        if record.key in keys and record.pcr_digest.hex().startswith(prefix)
    }
    if not found:
        raise NotFoundError(
            f"profile {epochs[0].profile} approves no state {prefix} in a present epoch",
            hint=f"sealvm profile show {epochs[0].profile}",
        )
    if len(found) > 1:
        raise ConflictError(f"{prefix} fits {len(found)} states", hint="give more digits")
    return next(iter(found.values()))


def _named(record: EpochRecord) -> str:
    return f"epoch {record.epoch}" + (f" cell {record.cell}" if record.cell else "")
