"""Sealing profile keys to a host: the only place where their private scalars are in memory."""

from __future__ import annotations

from collections.abc import Container

from sealvm.authority.epochs import cell_for, cells_of, present
from sealvm.authority.ports import Context
from sealvm.authority.records import EpochRecord
from sealvm.protocol.messages import SealedKey
from sealvm.tcg.duplicate import duplicate
from sealvm.tcg.public import name_of


def keys_for(
    ctx: Context, *, trust_class: str, import_parent_public: bytes, have: Container[bytes], cell: str = ""
) -> tuple[SealedKey, ...]:
    """Every profile key that a host of this trust class and cell may have and does not (`have`: Names), duplicated to
    its parent.

    A profile whose trust classes do not include the host's is left out: its key never reaches such a TPM. Of a profile
    that has the host's cell, the host gets that cell's keys and no others. Call it before `bundle.current`, and
    `still_present` on the result after: then every key is in the bundle.
    """
    with ctx.store.read() as tx:
        admitted = {record.name for record in tx.profiles() if trust_class in record.trust}
        epochs = [record for record in present(tx) if record.profile in admitted]
    cells = {name: cells_of(r for r in epochs if r.profile == name) for name in admitted}
    wanted = [
        record
        for record in epochs
        if record.cell == cell_for(cell, cells[record.profile]) and name_of(record.public) not in have
    ]
    return tuple(_seal(ctx, record, import_parent_public) for record in wanted)


def still_present(ctx: Context, keys: tuple[SealedKey, ...]) -> tuple[SealedKey, ...]:
    """Those of `keys` whose epochs were not retired meanwhile."""
    with ctx.store.read() as tx:
        left = {record.key for record in present(tx)}
    return tuple(key for key in keys if (key.profile, key.epoch, key.cell) in left)


def _seal(ctx: Context, record: EpochRecord, import_parent_public: bytes) -> SealedKey:
    blob = duplicate(ctx.custody.scalar(record.custody_name), record.public, import_parent_public)
    return SealedKey(
        profile=record.profile,
        epoch=record.epoch,
        cell=record.cell,
        mode=record.mode,
        public=blob.public,
        duplicate=blob.duplicate,
        in_sym_seed=blob.in_sym_seed,
        approver_point=record.approver_point,
    )
