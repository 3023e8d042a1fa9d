"""The part of a transaction that lets hosts in and out: pending hosts, bars, and what is tied to one host."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from sealvm.authority.records import BarRecord, PendingRecord
from sealvm.authority.sql import tables
from sealvm.errors import ConflictError

OUTLIVE_ENROLLMENT = frozenset({"approvals", "observed", "inventories", "tickets"})
OUTLIVE_HOST = frozenset({"approvals", "observed"})
"""Tables with a column `host` whose rows stay: of a state, who showed it; of a host, its disks and its ticket."""


class EnrollingStatements:
    """See authority.ports.EnrollingTransaction for what each method promises."""

    _connection: Connection

    def put_pending(self, record: PendingRecord) -> None:
        self._connection.execute(delete(tables.pending).where(tables.pending.c.host == record.host))
        values = {column.name: getattr(record, column.name) for column in tables.pending.c}
        self._connection.execute(insert(tables.pending).values(values))

    def pending(self, host: str) -> PendingRecord | None:
        row = self._connection.execute(select(tables.pending).where(tables.pending.c.host == host)).first()
        return None if row is None else PendingRecord(**row._mapping)

    def pendings(self) -> Sequence[PendingRecord]:
        rows = self._connection.execute(select(tables.pending).order_by(tables.pending.c.host))
        return [PendingRecord(**row._mapping) for row in rows]

    def remove_pending(self, host: str) -> None:
        self._connection.execute(delete(tables.pending).where(tables.pending.c.host == host))

    def bind_ticket(self, host: str, ek_digest: bytes) -> None:
        table = tables.tickets
        unbound = (table.c.host == host) & table.c.ek_digest.is_(None)
        self._connection.execute(update(table).where(unbound).values(ek_digest=ek_digest))

    def add_bar(self, record: BarRecord) -> None:
        values = {column.name: getattr(record, column.name) for column in tables.bars.c}
        try:
            self._connection.execute(insert(tables.bars).values(values))
        except IntegrityError as error:
            raise ConflictError(f"bar {record.bar_id} exists already") from error

    def bars(self) -> Sequence[BarRecord]:
        rows = self._connection.execute(select(tables.bars).order_by(tables.bars.c.added, tables.bars.c.bar_id))
        return [BarRecord(**row._mapping) for row in rows]

    def remove_bar(self, bar_id: str) -> None:
        self._connection.execute(delete(tables.bars).where(tables.bars.c.bar_id == bar_id))

    def remove_root(self, sha256: bytes) -> None:
        self._connection.execute(delete(tables.roots).where(tables.roots.c.sha256 == sha256))

    def void_enrollment(self, host: str) -> None:
        self._forget(host, OUTLIVE_ENROLLMENT)

    def remove_host(self, name: str) -> None:
        self._forget(name, OUTLIVE_HOST)
        self._connection.execute(delete(tables.hosts).where(tables.hosts.c.name == name))

    def _forget(self, host: str, kept: frozenset[str]) -> None:
        """A table that is added later and has a column `host` is emptied too, unless it is listed above."""
        for table in tables.metadata.sorted_tables:
            if "host" in table.c and table.name not in kept:
                self._connection.execute(delete(table).where(table.c.host == host))
