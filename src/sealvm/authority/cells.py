"""Cells: subsets of hosts with profile keys of their own, so that one broken TPM opens only what its cell has.

A host belongs to one cell or to none. Of a profile that has its cell it gets that cell's keys and no others; of other
profiles those of no cell. Packages are wrapped to all cells.
"""

from __future__ import annotations

from dataclasses import replace

from sealvm.attest.profile import load_profile
from sealvm.authority import audit, bundle
from sealvm.authority.carry import carry, foresee, plan
from sealvm.authority.epochs import cell_for, cells_of, make_epoch, newest, present
from sealvm.authority.inventory import reports
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.profiles import required_profile
from sealvm.errors import ConflictError, NotFoundError
from sealvm.protocol.trust import AssignRequest, AssignView, CellRequest, CellView, NewEpochView


def add_cell(ctx: Context, actor: str, name: str, request: CellRequest) -> NewEpochView:
    """A key of its own for a cell of a profile: an epoch with the number of the newest, and its approvals.

    ConflictError when the profile has that cell. No host gets it before it is assigned. With `dry_run` nothing changes.
    """
    with ctx.store.write() as tx:
        profile = required_profile(tx, name)
        epochs = present(tx, name)
        if request.cell in cells_of(tx.epochs(name)):
            raise ConflictError(f"profile {name} has the cell {request.cell} already")
        old = newest(epochs, "")
        number = max(record.epoch for record in epochs)
        planned = plan(tx, profile, old, number, frozenset())
        if request.dry_run:
            return foresee(tx, number, request.cell, planned)
        record = make_epoch(ctx, tx, load_profile(profile.document, name), number, request.cell)
        audit.record(ctx, tx, actor, audit.Action.CELL_ADDED, name, cell=request.cell, epoch=number)
        view = carry(ctx, tx, actor, record, planned)
        bundle.publish(ctx, tx, actor)
        return view


def list_cells(ctx: Context, name: str | None) -> list[CellView]:
    """The cells of a profile, or of all, with their present epochs and the hosts that get their keys."""
    with ctx.store.read() as tx:
        profiles = list(tx.profiles()) if name is None else [required_profile(tx, name)]
        views = []
        for profile in profiles:
            epochs = present(tx, profile.name)
            cells = cells_of(epochs)
            for cell in cells:
                hosts = tuple(h.name for h in tx.hosts() if cell_for(h.cell, cells) == cell)
                numbers = tuple(record.epoch for record in epochs if record.cell == cell)
                views.append(CellView(profile=profile.name, cell=cell, epochs=numbers, hosts=hosts))
        return views


def assign_host(ctx: Context, actor: str, name: str, request: AssignRequest) -> AssignView:
    """Put a host into a cell, or (with "") into none. It gets that cell's keys at its next synchronisation.

    Keys it has of another cell stay with it until their epochs are retired: `keeps` names those it reported.
    NotFoundError for a host or cell that nobody knows. With `dry_run` nothing changes.
    """
    with ctx.store.write() as tx:
        host = tx.host(name)
        if host is None:
            raise NotFoundError(f"host {name[:64]!r} is not registered")
        epochs = present(tx)
        if request.cell and request.cell not in cells_of(epochs):
            raise NotFoundError(
                f"no profile has a cell {request.cell!r}", hint=f"sealvm profile cell add PROFILE {request.cell}"
            )
        if host.cell != request.cell and not request.dry_run:
            tx.update_host(replace(host, cell=request.cell))
            audit.record(ctx, tx, actor, audit.Action.HOST_ASSIGNED, name, cell=request.cell, before=host.cell)
        profiles = tuple(sorted({record.profile for record in epochs if record.cell == request.cell}))
        return AssignView(
            host=name,
            cell=request.cell,
            profiles=profiles,
            keeps=tuple(_keeps(tx, name, request.cell, profiles)),
            dry_run=request.dry_run,
        )


def _keeps(tx: Transaction, name: str, cell: str, profiles: tuple[str, ...]) -> list[str]:
    kept = []
    for host, report in reports(tx):
        if host.name == name:
            kept = [
                f"{key.profile} epoch {key.epoch}" + (f" cell {key.cell}" if key.cell else "")
                for key in report.keys
                if key.profile in profiles and key.cell != cell
            ]
    return kept
