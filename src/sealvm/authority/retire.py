"""Retiring an epoch: no approvals, no wraps, no place in the trust bundle; hosts remove its key (docs/rotation.md).

The private half stays in custody, for recovery and for re-wrapping packages. A host's root may have kept a copy of its
blob and of the approvals: retiring erases nothing that left the authority, it ends what the authority does for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sealvm.authority import audit, bundle
from sealvm.authority.epochs import cell_for, cells_of, epoch_named, newest, present
from sealvm.authority.inventory import reports
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.profiles import required_profile
from sealvm.authority.records import EpochRecord, ProfileRecord
from sealvm.errors import ConflictError
from sealvm.protocol.trust import RetireRequest, RetireView


def retire(ctx: Context, actor: str, name: str, request: RetireRequest) -> RetireView:
    """Retire an epoch of a profile, in one cell or in all.

    ConflictError for the newest epoch of a cell, and while a host reports a disk that it can open by no later key;
    then the view is in the field `blocking`. With `dry_run` nothing changes, and the view says what would block.
    """
    with ctx.store.write() as tx:
        profile = required_profile(tx, name)
        ending = epoch_named(tx, name, request.epoch, request.cell)
        left = [record for record in present(tx, name) if record not in ending]
        for record in ending:
            if all(other.cell != record.cell or other.epoch < record.epoch for other in left):
                raise ConflictError(
                    f"epoch {record.epoch} is the newest of profile {name}"
                    + (f" cell {record.cell}" if record.cell else ""),
                    hint=f"make another first: sealvm profile rotate {name}",
                )
        blocking = tuple(_blocking(tx, name, ending, left))
        view = RetireView(
            profile=name,
            epoch=request.epoch,
            cells=tuple(record.cell for record in ending),
            blocking=blocking,
            behind=tuple(_behind(tx, profile, left, cells_of(ending))),
            says=(
                f"packages wrapped to epoch {request.epoch} alone open on no host any more: sealvm package rewrap",
                "hosts remove its key at their next sync; a copy that root has made is not erased",
                "the private half stays in custody, for recovery",
            ),
            dry_run=request.dry_run,
        )
        if request.dry_run:
            return view
        if blocking:
            raise ConflictError(
                f"epoch {request.epoch} of profile {name} cannot be retired: only it opens {', '.join(blocking[:5])}"
                + (f" and {len(blocking) - 5} more" if len(blocking) > 5 else ""),
                hint="`sealvm host sync` on these hosts, in an approved state, wraps disks to the present epochs; "
                "packages are re-wrapped by `sealvm package rewrap`",
                blocking=list(blocking),
            )
        for record in ending:
            tx.update_epoch(replace(record, wraps=False, retired=ctx.now()))
            details = {"epoch": record.epoch, "cell": record.cell}
            audit.record(ctx, tx, actor, audit.Action.EPOCH_RETIRED, name, **details)
        ended = {record.key for record in ending}
        for waiting in tx.signings():
            if (waiting.profile, waiting.epoch, waiting.cell) in ended:
                tx.take_signing(waiting.request_id)
        bundle.publish(ctx, tx, actor, urgent=True)
    return view


def _blocking(tx: Transaction, name: str, ending: list[EpochRecord], left: list[EpochRecord]) -> Iterator[str]:
    """HOST/INSTANCE where disk or package is wrapped to an ending epoch and to none left whose key that host gets."""
    ended, remaining = {record.key for record in ending}, {record.key for record in left}
    for host, report in reports(tx):
        own = cell_for(host.cell, cells_of(left))
        for disk in report.disks:
            for what, listed in (("disk", disk.wraps), ("package", disk.package_wraps)):
                wraps = {(wrap.profile, wrap.epoch, wrap.cell) for wrap in listed if wrap.profile == name}
                if wraps & ended and not any(key[2] == own for key in wraps & remaining):
                    yield f"{host.name}/{disk.instance} ({what})"


def _behind(tx: Transaction, profile: ProfileRecord, left: list[EpochRecord], cells: list[str]) -> Iterator[str]:
    """The enrolled hosts of these cells that did not report the newest key yet."""
    keys = {host.name: {(key.profile, key.epoch, key.cell) for key in report.keys} for host, report in reports(tx)}
    for host in tx.hosts():
        own = cell_for(host.cell, cells_of(left))
        if host.enrolled is None or host.trust_class not in profile.trust or own not in cells:
            continue
        if newest(left, own).key not in keys.get(host.name, set()):
            yield host.name
