"""The life of a profile key: an epoch is made, wrapped to, perhaps closed to new wraps, and retired (docs/rotation.md).

An epoch is one key for one cell; epochs of several cells that were made together share a number. A *present* epoch is
one that is not retired: it is in the trust bundle, hosts have its key, states are approved for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sealvm.attest.profile import Profile
from sealvm.authority.ports import APPROVER_KEY, LEASE_KEY, Context, Transaction
from sealvm.authority.records import EpochRecord
from sealvm.errors import ConflictError, NotFoundError
from sealvm.statements.bundle import expected_public
from sealvm.tcg.policy import MODE_LEASED, MODE_STANDING

SUFFIX_BYTES = 8


def approver_point(ctx: Context, tx: Transaction) -> bytes:
    """The state approver's public key, 65 bytes: the offline approver's, or the one in custody."""
    offline = tx.approver()
    return offline if offline is not None else ctx.custody.signer(APPROVER_KEY).point


def make_epoch(ctx: Context, tx: Transaction, profile: Profile, number: int, cell: str) -> EpochRecord:
    """A fresh key for this profile and cell, in custody and in `tx`. Nothing is approved for it yet."""
    mode = MODE_STANDING if profile.lease_seconds is None else MODE_LEASED
    custody_name = f"profile.{profile.name}.{number}.{ctx.random(SUFFIX_BYTES).hex()}"
    point = ctx.custody.create_scalar(custody_name)
    approver = approver_point(ctx, tx)
    record = EpochRecord(
        profile=profile.name,
        epoch=number,
        cell=cell,
        mode=mode,
        selection=tuple(profile.pcrs),
        point=point,
        public=expected_public(profile.name, number, cell, mode, point=point, approver_point=approver),
        approver_point=approver,
        custody_name=custody_name,
        created=ctx.now(),
        lease_point=b"" if mode == MODE_STANDING else ctx.custody.signer(LEASE_KEY).point,
    )
    tx.add_epoch(record)
    return record


def present(tx: Transaction, profile: str | None = None) -> list[EpochRecord]:
    """The epochs that are not retired, by profile, number and cell."""
    return [record for record in tx.epochs(profile) if record.retired is None]


def cells_of(epochs: Iterable[EpochRecord]) -> list[str]:
    """The cells that have a key, "" (no cell) first."""
    return sorted({record.cell for record in epochs})


def cell_for(host_cell: str, cells: Iterable[str]) -> str:
    """Whose keys of one profile a host gets: those of its own cell if the profile has that cell, else those of none."""
    return host_cell if host_cell in cells else ""


def newest(epochs: Sequence[EpochRecord], cell: str) -> EpochRecord:
    """The newest of `epochs` for a cell. NotFoundError when it has none."""
    own = [record for record in epochs if record.cell == cell]
    if not own:
        name = epochs[0].profile if epochs else "?"
        raise NotFoundError(
            f"profile {name} has no cell {cell!r}", hint=f"cells: {', '.join(filter(None, cells_of(epochs))) or 'none'}"
        )
    return max(own, key=lambda record: record.epoch)


def epoch_named(tx: Transaction, profile: str, number: int, cell: str | None) -> list[EpochRecord]:
    """The epoch `number`, of one cell or (None) of all. NotFoundError; ConflictError when it is retired already."""
    found = [r for r in tx.epochs(profile) if r.epoch == number and (cell is None or r.cell == cell)]
    if not found:
        of_cell = f" of cell {cell!r}" if cell else ""
        raise NotFoundError(
            f"profile {profile} has no epoch {number}{of_cell}", hint="`sealvm profile show` lists them"
        )
    left = [record for record in found if record.retired is None]
    if not left:
        raise ConflictError(f"epoch {number} of profile {profile} is retired")
    return left
