"""Barring TPM models and firmware that turned out broken: neither enrolling nor synchronising with them works."""

from __future__ import annotations

from sealvm.authority import audit
from sealvm.authority.admission import bar_of, model_of
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import BarRecord
from sealvm.crypto.labels import label_digest
from sealvm.errors import NotFoundError
from sealvm.protocol.hosts import BarRequest, BarView
from sealvm.protocol.tpm_model import vendor

BAR_ID_CHARS = 12


def add_bar(ctx: Context, actor: str, request: BarRequest) -> BarView:
    """Bar these TPMs from now on; the view names the enrolled hosts that this locks out. The same bar again changes
    nothing.
    """
    wanted = (vendor(request.manufacturer), request.model, request.version, request.before)
    digest = label_digest("tpm-bar", *(part.casefold().encode() for part in wanted))
    record = BarRecord(
        bar_id=digest.hex()[:BAR_ID_CHARS],
        manufacturer=request.manufacturer.strip(),
        model=request.model.strip(),
        version=request.version.strip(),
        before=request.before.strip(),
        reason=request.reason,
        added=ctx.now(),
    )
    with ctx.store.write() as tx:
        known = next((bar for bar in tx.bars() if bar.bar_id == record.bar_id), None)
        if known is not None:
            return _view(tx, known)
        tx.add_bar(record)
        view = _view(tx, record)
        details = {"bar": bar_of(record).describe(), "reason": record.reason, "hosts": len(view.hosts)}
        audit.record(ctx, tx, actor, audit.Action.TPM_BARRED, record.bar_id, **details)
        return view


def list_bars(ctx: Context) -> list[BarView]:
    """All bars, in the order they were added, with the enrolled hosts they cover."""
    with ctx.store.read() as tx:
        return [_view(tx, record) for record in tx.bars()]


def remove_bar(ctx: Context, actor: str, bar_id: str) -> BarView:
    """Lift a bar; the hosts it covered may synchronise again. NotFoundError."""
    with ctx.store.write() as tx:
        record = next((bar for bar in tx.bars() if bar.bar_id == bar_id), None)
        if record is None:
            raise NotFoundError(f"no bar {bar_id[:32]!r}", hint="list them with: sealvm authority bar list")
        view = _view(tx, record)
        tx.remove_bar(record.bar_id)
        audit.record(ctx, tx, actor, audit.Action.TPM_BAR_LIFTED, record.bar_id, bar=bar_of(record).describe())
        return view


def _view(tx: Transaction, record: BarRecord) -> BarView:
    bar = bar_of(record)
    covered = tuple(host.name for host in tx.hosts() if host.enrolled is not None and bar.covers(model_of(host)))
    return BarView(
        bar_id=record.bar_id,
        manufacturer=record.manufacturer,
        model=record.model,
        version=record.version,
        before=record.before,
        reason=record.reason,
        added=record.added,
        hosts=covered,
    )
