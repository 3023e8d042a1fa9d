"""What hosts report after a synchronisation: their keys, and the disks whose keys are wrapped to profiles."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import TypeAdapter

from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import HostRecord, InventoryRecord
from sealvm.errors import AccessRefused
from sealvm.protocol.trust import InventoryReport, InventoryTaken
from sealvm.statements.encoding import parse_message

_REPORT: TypeAdapter[InventoryReport] = TypeAdapter(InventoryReport)


def take_report(ctx: Context, host: HostRecord, report: InventoryReport) -> InventoryTaken:
    """Keep the report of the authenticated `host`, in place of its earlier one.

    It is the host's word: it keeps an epoch from being retired too early, and grants nothing.
    """
    with ctx.store.write() as tx:
        present = tx.host(host.name)
        if present is None or present.request_keyid != host.request_keyid:
            raise AccessRefused(f"host {host.name} enrolled anew meanwhile", hint="synchronise again")
        tx.put_inventory(InventoryRecord(host.name, report.model_dump(mode="json"), ctx.now()))
    return InventoryTaken(taken=True)


def reports(tx: Transaction) -> Iterator[tuple[HostRecord, InventoryReport]]:
    """The newest report of every host that is still known."""
    for record in tx.inventories():
        host = tx.host(record.host)
        if host is not None and host.enrolled is not None:
            yield host, parse_message(_REPORT, record.body, f"inventory of host {record.host}")


def disks_of(tx: Transaction, profile: str) -> Iterator[str]:
    """HOST/INSTANCE (epochs …) of every reported disk that is wrapped to a key of the profile."""
    for host, report in reports(tx):
        for disk in report.disks:
            epochs = sorted({wrap.epoch for wrap in disk.wraps if wrap.profile == profile})
            if epochs:
                yield f"{host.name}/{disk.instance} (epoch {', '.join(map(str, epochs))})"
