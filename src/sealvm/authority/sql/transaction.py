"""One transaction on the tables: implements authority.ports.Transaction, statement by statement."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from sealvm.authority.records import (
    ApprovalRecord,
    AuditRecord,
    BundleRecord,
    ChallengeRecord,
    EnrollmentRecord,
    EpochRecord,
    HostRecord,
    InventoryRecord,
    LeaseRecord,
    ObservedRecord,
    OperatorRecord,
    ProfileRecord,
    ProvisionerRecord,
    RootRecord,
    RuleRecord,
    SigningRecord,
    StateRecord,
    TicketRecord,
    WithdrawalRecord,
)
from sealvm.authority.sql import tables
from sealvm.authority.sql.enrolling import EnrollingStatements
from sealvm.errors import ConflictError

R = TypeVar("R")


class SqlTransaction(EnrollingStatements):
    """See authority.ports.Transaction for what each method promises."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # operators, roots

    def add_operator(self, record: OperatorRecord) -> None:
        self._add(tables.operators, record, f"operator {record.name}")

    def operator_by_token(self, token_digest: bytes) -> OperatorRecord | None:
        return self._one(OperatorRecord, tables.operators, tables.operators.c.token_digest == token_digest)

    def add_root(self, record: RootRecord) -> None:
        self._add(tables.roots, record, f"root {record.subject}")

    def roots(self) -> Sequence[RootRecord]:
        return self._all(RootRecord, tables.roots, tables.roots.c.added, tables.roots.c.sha256)

    # hosts, tickets

    def add_host(self, record: HostRecord) -> None:
        self._add(tables.hosts, record, f"host {record.name}")

    def update_host(self, record: HostRecord) -> None:
        self._put(tables.hosts, record, tables.hosts.c.name == record.name)

    def host(self, name: str) -> HostRecord | None:
        return self._one(HostRecord, tables.hosts, tables.hosts.c.name == name)

    def host_by_ek(self, ek_digest: bytes) -> HostRecord | None:
        return self._one(HostRecord, tables.hosts, tables.hosts.c.ek_digest == ek_digest)

    def host_by_request_key(self, keyid: str) -> HostRecord | None:
        return self._one(HostRecord, tables.hosts, tables.hosts.c.request_keyid == keyid)

    def hosts(self) -> Sequence[HostRecord]:
        return self._all(HostRecord, tables.hosts, tables.hosts.c.name)

    def put_ticket(self, record: TicketRecord) -> None:
        self._put(tables.tickets, record, tables.tickets.c.host == record.host)

    def ticket_by_token(self, token_digest: bytes) -> TicketRecord | None:
        return self._one(TicketRecord, tables.tickets, tables.tickets.c.token_digest == token_digest)

    def use_ticket(self, token_digest: bytes, now: datetime) -> bool:
        table = tables.tickets
        fresh = (table.c.token_digest == token_digest) & (table.c.used.is_(None)) & (table.c.expires > now)
        return self._connection.execute(update(table).where(fresh).values(used=now)).rowcount == 1

    # what is between challenge and answer

    def put_enrollment(self, record: EnrollmentRecord) -> None:
        self._put(tables.enrollments, record, tables.enrollments.c.host == record.host)

    def take_enrollment(self, session: str) -> EnrollmentRecord | None:
        return self._take(EnrollmentRecord, tables.enrollments, tables.enrollments.c.session == session)

    def put_challenge(self, record: ChallengeRecord) -> None:
        self._put(tables.challenges, record, tables.challenges.c.host == record.host)

    def take_challenge(self, session: str) -> ChallengeRecord | None:
        return self._take(ChallengeRecord, tables.challenges, tables.challenges.c.session == session)

    def put_lease_challenge(self, record: ChallengeRecord) -> None:
        self._put(tables.lease_challenges, record, tables.lease_challenges.c.host == record.host)

    def lease_challenge(self, session: str) -> ChallengeRecord | None:
        table = tables.lease_challenges
        return self._one(ChallengeRecord, table, table.c.session == session)

    def take_lease_challenge(self, session: str) -> ChallengeRecord | None:
        table = tables.lease_challenges
        return self._take(ChallengeRecord, table, table.c.session == session)

    def put_lease(self, record: LeaseRecord) -> None:
        self._put(tables.leases, record, _same_lease(record.host, record.profile, record.epoch, record.cell))

    def lease(self, host: str, profile: str, epoch: int, cell: str) -> LeaseRecord | None:
        return self._one(LeaseRecord, tables.leases, _same_lease(host, profile, epoch, cell))

    def leases(self) -> Sequence[LeaseRecord]:
        columns = tables.leases.c
        return self._all(LeaseRecord, tables.leases, columns.host, columns.profile, columns.epoch, columns.cell)

    def use_proof(self, proof_id: bytes, now: datetime, expires: datetime) -> bool:
        table = tables.proofs
        self._connection.execute(delete(table).where(table.c.expires < now))
        known = self._connection.execute(select(table.c.proof_id).where(table.c.proof_id == proof_id)).first()
        if known is not None:
            return False
        self._connection.execute(insert(table).values(proof_id=proof_id, expires=expires))
        return True

    def put_state(self, record: StateRecord) -> None:
        self._put(tables.states, record, tables.states.c.host == record.host)

    def state(self, host: str) -> StateRecord | None:
        return self._one(StateRecord, tables.states, tables.states.c.host == host)

    def pcr_values(self) -> dict[str, dict[int, bytes]]:
        rows = self._connection.execute(select(tables.states.c.host, tables.states.c.pcr_values))
        return {row.host: row.pcr_values for row in rows}

    def event_count(self, host: str) -> int | None:
        query = select(tables.states.c.events).where(tables.states.c.host == host)
        count: int | None = self._connection.execute(query).scalar_one_or_none()
        return count

    # profiles and what is made for them

    def put_profile(self, record: ProfileRecord) -> None:
        self._put(tables.profiles, record, tables.profiles.c.name == record.name)

    def profile(self, name: str) -> ProfileRecord | None:
        return self._one(ProfileRecord, tables.profiles, tables.profiles.c.name == name)

    def profiles(self) -> Sequence[ProfileRecord]:
        return self._all(ProfileRecord, tables.profiles, tables.profiles.c.name)

    def add_epoch(self, record: EpochRecord) -> None:
        self._add(tables.epochs, record, f"epoch {record.epoch} of profile {record.profile}")

    def epochs(self, profile: str | None = None) -> Sequence[EpochRecord]:
        table = tables.epochs
        query = select(table).order_by(table.c.profile, table.c.epoch, table.c.cell)
        return self._records(EpochRecord, query if profile is None else query.where(table.c.profile == profile))

    def add_approval(self, record: ApprovalRecord) -> None:
        self._add(tables.approvals, record, f"approval of this state for profile {record.profile}")

    def approvals(self, profile: str | None = None) -> Sequence[ApprovalRecord]:
        table = tables.approvals
        columns = [column for column in table.c if column.name != "number"]
        query = select(*columns).order_by(table.c.number)
        return self._records(ApprovalRecord, query if profile is None else query.where(table.c.profile == profile))

    def update_epoch(self, record: EpochRecord) -> None:
        profile, epoch, cell = record.key
        self._put(tables.epochs, record, _is(tables.epochs, profile=profile, epoch=epoch, cell=cell))

    def put_observed(self, record: ObservedRecord) -> None:
        self._put(tables.observed, record, tables.observed.c.state_id == record.state_id)

    def observed(self, state_id: bytes) -> ObservedRecord | None:
        return self._one(ObservedRecord, tables.observed, tables.observed.c.state_id == state_id)

    def observed_values(self, host: str | None = None) -> Sequence[ObservedRecord]:
        table = tables.observed
        light = [column for column in table.c if column.name not in _EVIDENCE]
        query = select(*light).order_by(table.c.last_seen.desc(), table.c.state_id)
        rows = self._connection.execute(query if host is None else query.where(table.c.host == host))
        return [ObservedRecord(**_NO_EVIDENCE, **row._mapping) for row in rows]

    def remove_observed(self, state_id: bytes) -> None:
        self._connection.execute(delete(tables.observed).where(tables.observed.c.state_id == state_id))

    def put_withdrawal(self, record: WithdrawalRecord) -> None:
        which = _is(tables.withdrawals, profile=record.profile, pcr_digest=record.pcr_digest)
        self._put(tables.withdrawals, record, which)

    def withdrawals(self, profile: str) -> Sequence[WithdrawalRecord]:
        table = tables.withdrawals
        return self._records(WithdrawalRecord, select(table).where(table.c.profile == profile))

    def remove_withdrawal(self, profile: str, pcr_digest: bytes) -> None:
        table = tables.withdrawals
        self._connection.execute(delete(table).where(_is(table, profile=profile, pcr_digest=pcr_digest)))

    def put_rule(self, record: RuleRecord) -> None:
        names = ("profile", "epoch", "cell", "name")
        self._put(tables.rules, record, _is(tables.rules, **{name: getattr(record, name) for name in names}))

    def rules(self, profile: str | None = None) -> Sequence[RuleRecord]:
        table = tables.rules
        query = select(table).order_by(table.c.profile, table.c.epoch, table.c.cell, table.c.name)
        return self._records(RuleRecord, query if profile is None else query.where(table.c.profile == profile))

    def put_signing(self, record: SigningRecord) -> None:
        self._put(tables.signings, record, tables.signings.c.request_id == record.request_id)

    def signings(self) -> Sequence[SigningRecord]:
        return self._all(SigningRecord, tables.signings, tables.signings.c.created, tables.signings.c.request_id)

    def take_signing(self, request_id: str) -> SigningRecord | None:
        return self._take(SigningRecord, tables.signings, tables.signings.c.request_id == request_id)

    def put_inventory(self, record: InventoryRecord) -> None:
        self._put(tables.inventories, record, tables.inventories.c.host == record.host)

    def inventories(self) -> Sequence[InventoryRecord]:
        return self._all(InventoryRecord, tables.inventories, tables.inventories.c.host)

    def put_approver(self, point: bytes) -> None:
        self._connection.execute(insert(tables.approvers).values(point=point))

    def approver(self) -> bytes | None:
        point: bytes | None = self._connection.execute(select(tables.approvers.c.point)).scalar_one_or_none()
        return point

    def put_provisioner(self, record: ProvisionerRecord) -> None:
        self._put(tables.provisioners, record, tables.provisioners.c.name == record.name)

    def provisioner(self, name: str) -> ProvisionerRecord | None:
        return self._one(ProvisionerRecord, tables.provisioners, tables.provisioners.c.name == name)

    def provisioners(self) -> Sequence[ProvisionerRecord]:
        return self._all(ProvisionerRecord, tables.provisioners, tables.provisioners.c.name)

    def put_bundle(self, record: BundleRecord) -> None:
        self._connection.execute(delete(tables.bundles))
        self._add(tables.bundles, record, f"trust bundle version {record.version}")

    def bundle(self) -> BundleRecord | None:
        records = self._all(BundleRecord, tables.bundles, tables.bundles.c.version.desc())
        return records[0] if records else None

    # audit

    def add_audit(self, record: AuditRecord) -> None:
        self._add(tables.audit, record, f"audit entry {record.sequence}")

    def last_audit(self) -> AuditRecord | None:
        query = select(tables.audit).order_by(tables.audit.c.sequence.desc()).limit(1)
        return next(iter(self._records(AuditRecord, query)), None)

    def audit(self, after: int, limit: int) -> Sequence[AuditRecord]:
        table = tables.audit
        return self._records(
            AuditRecord, select(table).where(table.c.sequence > after).order_by(table.c.sequence).limit(limit)
        )

    def audit_of(self, action: str, subject: str) -> Sequence[AuditRecord]:
        table = tables.audit
        which = _is(table, action=action, subject=subject)
        return self._records(AuditRecord, select(table).where(which).order_by(table.c.sequence))

    # the few statements all of it is made of

    def _add(self, table: Table, record: Any, what: str) -> None:
        try:
            self._connection.execute(insert(table).values(_values(record)))
        except IntegrityError as error:
            raise ConflictError(f"{what} exists already") from error

    def _put(self, table: Table, record: Any, which: ColumnElement[bool]) -> None:
        values = _values(record)
        try:
            if self._connection.execute(update(table).where(which).values(values)).rowcount == 0:
                self._connection.execute(insert(table).values(values))
        except IntegrityError as error:
            raise ConflictError(f"{table.name}: a value of {_label(record)} belongs to another entry") from error

    def _take(self, kind: type[R], table: Table, which: ColumnElement[bool]) -> R | None:
        record = self._one(kind, table, which)
        if record is not None:
            self._connection.execute(delete(table).where(which))
        return record

    def _one(self, kind: type[R], table: Table, which: ColumnElement[bool]) -> R | None:
        return next(iter(self._records(kind, select(table).where(which).limit(1))), None)

    def _all(self, kind: type[R], table: Table, *order: ColumnElement[Any]) -> Sequence[R]:
        return self._records(kind, select(table).order_by(*order))

    def _records(self, kind: type[R], query: Select[Any]) -> Sequence[R]:
        return [kind(**row._mapping) for row in self._connection.execute(query)]


_EVIDENCE = frozenset({"ak_public", "qualifying_data", "quote", "signature", "event_log", "preimages"})
_NO_EVIDENCE: dict[str, Any] = {name: () if name == "preimages" else b"" for name in sorted(_EVIDENCE)}


def _is(table: Table, **values: Any) -> ColumnElement[bool]:
    return and_(*(table.c[name] == value for name, value in values.items()))


def _same_lease(host: str, profile: str, epoch: int, cell: str) -> ColumnElement[bool]:
    columns = tables.leases.c
    return and_(columns.host == host, columns.profile == profile, columns.epoch == epoch, columns.cell == cell)


def _values(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _label(record: Any) -> str:
    return str(getattr(record, "name", None) or getattr(record, "host", "this"))
