"""The audit log: typed, append-only, hash-chained; every state change is an entry.

    digest = L("audit", SHA-256 of the canonical JSON of {sequence, time, actor, action, subject, details}, previous)

`previous` is the digest of the entry before, 32 zero bytes for the first; sequence counts from 1. Entries are appended
in the transaction of the change they describe, so there is none without the other. `verify` needs nothing but the
entries; to notice that the newest ones were cut off, keep the last digest elsewhere and pass it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import AuditRecord
from sealvm.crypto import canonical
from sealvm.crypto.labels import label_digest
from sealvm.errors import IntegrityRefused
from sealvm.protocol.operator import AuditEntryView
from sealvm.statements.encoding import parse_message
from sealvm.statements.times import format_time

FIRST = bytes(32)
EXPORT_LINE_LIMIT = 1024 * 1024
_VIEW: TypeAdapter[AuditEntryView] = TypeAdapter(AuditEntryView)


class Action(StrEnum):
    """What can happen."""

    AUTHORITY_INITIALISED = "authority.initialised"
    ROOT_ADDED = "root.added"
    ROOT_REMOVED = "root.removed"
    HOST_REGISTERED = "host.registered"
    HOST_EXPECTED = "host.expected"
    HOST_PENDING = "host.pending"
    HOST_APPROVED = "host.approved"
    HOST_REPLACED = "host.replaced"
    HOST_REMOVED = "host.removed"
    TPM_BARRED = "tpm.barred"
    TPM_BAR_LIFTED = "tpm.bar-lifted"
    TICKET_ISSUED = "host.ticket-issued"
    HOST_ENROLLED = "host.enrolled"
    HOST_REFUSED = "host.refused"
    HOST_SYNCED = "host.synced"
    LEASE_GRANTED = "lease.granted"
    LEASE_REFUSED = "lease.refused"
    PROFILE_APPLIED = "profile.applied"
    STATE_APPROVED = "profile.state-approved"
    STATE_APPROVED_BY_RULE = "profile.state-approved-by-rule"
    STATE_WITHDRAWN = "profile.state-withdrawn"
    EVIDENCE_STORED = "profile.evidence-stored"
    EPOCH_CREATED = "profile.epoch-created"
    EPOCH_CLOSED = "profile.epoch-closed"
    EPOCH_RETIRED = "profile.epoch-retired"
    RULE_DELEGATED = "profile.rule-delegated"
    RULE_LIMIT_REACHED = "profile.rule-limit-reached"
    CELL_ADDED = "profile.cell-added"
    HOST_ASSIGNED = "host.assigned"
    SIGNATURE_REQUESTED = "approver.signature-requested"
    SIGNATURES_IMPORTED = "approver.signatures-imported"
    PACKAGE_REWRAPPED = "package.rewrapped"
    PROVISIONER_TRUSTED = "provisioner.trusted"
    BUNDLE_PUBLISHED = "bundle.published"


def record(
    ctx: Context,
    tx: Transaction,
    actor: str,
    action: Action,
    subject: str,
    **details: Any,
) -> None:
    """Append an entry inside `tx`, a write transaction. Details are JSON and never hold key material or tokens."""
    last = tx.last_audit()
    sequence, previous = (last.sequence + 1, last.digest) if last else (1, FIRST)
    entry = AuditRecord(sequence, ctx.now(), actor, action.value, subject, details, previous, b"")
    tx.add_audit(
        AuditRecord(sequence, entry.time, actor, entry.action, subject, entry.details, previous, entry_digest(entry))
    )


def list_entries(ctx: Context, after: int, limit: int) -> list[AuditEntryView]:
    """At most `limit` entries with a sequence number above `after`, in order."""
    with ctx.store.read() as tx:
        return [
            AuditEntryView(
                sequence=entry.sequence,
                time=entry.time,
                actor=entry.actor,
                action=entry.action,
                subject=entry.subject,
                details=entry.details,
                previous=entry.previous,
                digest=entry.digest,
            )
            for entry in tx.audit(after, limit)
        ]


def parse_export(data: bytes) -> list[AuditRecord]:
    """The entries of an exported log (one JSON object a line, as `GET /v1/audit` has them); MalformedError.

    Verifies nothing: `verify` does.
    """
    records = []
    for number, line in enumerate(data.splitlines(), start=1):
        what = f"audit log, line {number}"
        view = parse_message(_VIEW, canonical.loads(line, what, EXPORT_LINE_LIMIT), what)
        records.append(AuditRecord(**dict(view)))
    return records


def entry_digest(entry: AuditRecord) -> bytes:
    """The digest that `entry` must carry; its `digest` field does not enter."""
    body = {
        "sequence": entry.sequence,
        "time": format_time(entry.time),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "details": entry.details,
    }
    return label_digest("audit", hashlib.sha256(canonical.dumps(body)).digest(), entry.previous)


def verify(entries: Iterable[AuditRecord], *, last_digest: bytes | None = None) -> int:
    """The number of entries, if none was changed, removed, added or moved; IntegrityRefused names the first that was.

    `entries` is the whole log from the first entry. Without `last_digest` (kept elsewhere), entries cut off at the end
    are not noticed.
    """
    sequence, previous = 0, FIRST
    for entry in entries:
        sequence += 1
        if entry.sequence != sequence:
            raise IntegrityRefused(f"audit log: expected entry {sequence}, found entry {entry.sequence}")
        if entry.previous != previous:
            raise IntegrityRefused(f"audit log: entry {sequence} does not follow the one before it")
        if entry_digest(entry) != entry.digest:
            raise IntegrityRefused(f"audit log: entry {sequence} was changed")
        previous = entry.digest
    if last_digest is not None and previous != last_digest:
        raise IntegrityRefused(f"audit log: ends after entry {sequence}, which is not the last one that was seen")
    return sequence
