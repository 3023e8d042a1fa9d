"""What the operator sees of the hosts."""

from __future__ import annotations

from sealvm.authority.admission import is_admitted
from sealvm.authority.approve import state_digest
from sealvm.authority.epochs import present
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import HostRecord
from sealvm.errors import NotFoundError
from sealvm.protocol.operator import HostView


def list_hosts(ctx: Context) -> list[HostView]:
    """All hosts by name, with the profiles that their last verified states satisfy."""
    with ctx.store.read() as tx:
        satisfied = _satisfied(tx)
        return [_view(tx, record, satisfied.get(record.name, ())) for record in tx.hosts()]


def show_host(ctx: Context, name: str) -> HostView:
    """One host; NotFoundError."""
    with ctx.store.read() as tx:
        record = tx.host(name)
        if record is None:
            raise NotFoundError(f"host {name[:64]!r} is not registered")
        return _view(tx, record, _satisfied(tx).get(name, ()))


def _satisfied(tx: Transaction) -> dict[str, tuple[str, ...]]:
    """For each host with a verified state, the profiles some approval of which fits it."""
    approved: dict[tuple[str, int, str], set[bytes]] = {}
    for approval in tx.approvals():
        approved.setdefault((approval.profile, approval.epoch, approval.cell), set()).add(approval.pcr_digest)
    trust = {record.name: record.trust for record in tx.profiles()}
    classes = {record.name: record.trust_class for record in tx.hosts()}
    epochs = present(tx)
    result: dict[str, tuple[str, ...]] = {}
    for host, values in tx.pcr_values().items():
        names = {
            epoch.profile
            for epoch in epochs
            if classes.get(host) in trust[epoch.profile]
            and state_digest(values, epoch.selection) in approved.get((epoch.profile, epoch.epoch, epoch.cell), set())
        }
        result[host] = tuple(sorted(names))
    return result


def _standing(tx: Transaction, record: HostRecord) -> str:
    if record.enrolled is not None:
        return "enrolled" if is_admitted(record, tx.bars(), tx.roots()) else "locked-out"
    if record.ek_digest is not None:
        return "registered"
    return "expected" if tx.pending(record.name) is None else "pending"


def _view(tx: Transaction, record: HostRecord, satisfies: tuple[str, ...]) -> HostView:
    return HostView.model_validate(
        {
            "name": record.name,
            "host_id": record.host_id,
            "ek_digest": record.ek_digest,
            "state": _standing(tx, record),
            "trust_class": record.trust_class,
            "tpm": record.tpm,
            "registered": record.registered,
            "enrolled": record.enrolled,
            "last_sync": record.last_sync,
            "events": tx.event_count(record.name),
            "satisfies": satisfies,
        }
    )
