"""How much rules may approve: a rule spares people work, and must not let a host fill the trust bundle.

Whoever has root on a host extends PCRs as he likes, and each value is a new state. What is over a limit waits in the
queue for a person, with one audit entry for each host, rule and reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sealvm.authority import audit, bundle
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import RuleRecord
from sealvm.crypto import canonical
from sealvm.statements.bundle import BUNDLE_BYTES_LIMIT

APPROVALS_PER_HOST = 16
"""So many approvals of one host's states by one rule, in one epoch and cell."""
REFERENCE_BYTES = 128 * 1024
"""The largest reference (canonical JSON) of an approval by rule."""
APPROVALS_PER_EPOCH = 2048
"""Half of what a trust bundle may list of one epoch: rules stop here, people go on."""
BUNDLE_BYTES = BUNDLE_BYTES_LIMIT // 2
"""Rules make no trust bundle larger than this; the other half is for people."""
APPROVAL_BYTES = 4096
"""What an approval has in a trust bundle besides its reference, at most."""


@dataclass(slots=True)
class Room:
    """What is left for rules in one write transaction; `take` as approvals are made."""

    tx: Transaction
    _bytes_left: int | None = None
    _per_host: Counter[tuple[bytes, str]] = field(default_factory=Counter)
    _per_epoch: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    _counted: set[str] = field(default_factory=set)

    def refused(self, rule: RuleRecord, host: str, reference: Mapping[str, Any]) -> str:
        """Why `rule` may not approve this state of `host`; "" when it may."""
        self._count(rule.profile)
        size = len(canonical.dumps(reference))
        if size > REFERENCE_BYTES:
            return f"its reference is larger than {REFERENCE_BYTES} bytes"
        if self._per_host[rule.rule_point, host] >= APPROVALS_PER_HOST:
            return f"the rule approved {APPROVALS_PER_HOST} states of this host"
        if self._per_epoch[rule.key] >= APPROVALS_PER_EPOCH:
            return f"{APPROVALS_PER_EPOCH} states of this epoch are approved"
        if self._left() < size + APPROVAL_BYTES:
            return f"the trust bundle would have more than {BUNDLE_BYTES} bytes"
        return ""

    def take(self, rule: RuleRecord, host: str, reference: Mapping[str, Any]) -> None:
        """An approval was made, or would be."""
        self._count(rule.profile)
        self._per_host[rule.rule_point, host] += 1
        self._per_epoch[rule.key] += 1
        self._bytes_left = self._left() - len(canonical.dumps(reference)) - APPROVAL_BYTES

    def _left(self) -> int:
        if self._bytes_left is None:
            self._bytes_left = BUNDLE_BYTES - bundle.size(self.tx)
        return self._bytes_left

    def _count(self, profile: str) -> None:
        if profile not in self._counted:
            self._counted.add(profile)
            for record in self.tx.approvals(profile):
                self._per_host[bytes.fromhex(record.body["approver"]), record.host] += 1
                self._per_epoch[record.key] += 1


def note_waiting(ctx: Context, tx: Transaction, rule: RuleRecord, host: str, why: str) -> None:
    """Audit that a state of `host` waits for a person; once for each host, rule, epoch, cell and reason."""
    details = {"epoch": rule.epoch, "cell": rule.cell, "rule": rule.name, "host": host, "reason": why}
    action = audit.Action.RULE_LIMIT_REACHED
    if all(entry.details != details for entry in tx.audit_of(action.value, rule.profile)):
        audit.record(ctx, tx, f"rule {rule.name}", action, rule.profile, **details)
