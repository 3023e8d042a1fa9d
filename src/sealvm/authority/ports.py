"""What the use cases need from outside: a store with transactions, custody, a clock, randomness, settings.

`Store.write()` transactions are serialised: what one reads stays true until it commits. Leaving the block commits,
leaving it by an exception changes nothing. Implementations raise ConflictError for a name that exists and StorageFault
when the database fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from sealvm.authority.records import (
    ApprovalRecord,
    AuditRecord,
    BarRecord,
    BundleRecord,
    ChallengeRecord,
    EnrollmentRecord,
    EpochRecord,
    HostRecord,
    InventoryRecord,
    LeaseRecord,
    ObservedRecord,
    OperatorRecord,
    PendingRecord,
    ProfileRecord,
    ProvisionerRecord,
    RootRecord,
    RuleRecord,
    SigningRecord,
    StateRecord,
    TicketRecord,
    WithdrawalRecord,
)
from sealvm.custody.base import Custody

APPROVER_KEY = "approver"
LEASE_KEY = "lease"
BUNDLE_KEY = "bundle"
TLS_CA_KEY = "tls-ca"


class EnrollingTransaction(Protocol):
    """What letting hosts in and out asks of the store."""

    def put_pending(self, record: PendingRecord) -> None: ...
    def pending(self, host: str) -> PendingRecord | None: ...
    def pendings(self) -> Sequence[PendingRecord]: ...
    def remove_pending(self, host: str) -> None: ...

    def bind_ticket(self, host: str, ek_digest: bytes) -> None:
        """Bind the ticket of a host, which was bound to no EK, to this one."""

    def add_bar(self, record: BarRecord) -> None: ...
    def bars(self) -> Sequence[BarRecord]: ...
    def remove_bar(self, bar_id: str) -> None: ...

    def remove_root(self, sha256: bytes) -> None: ...

    def void_enrollment(self, host: str) -> None:
        """Forget all that a host's TPM said and was told: states, challenges, leases. Host and ticket stay."""

    def remove_host(self, name: str) -> None:
        """Forget a host and all that is tied to it; approvals and observed states stay."""


class Transaction(EnrollingTransaction, Protocol):
    """All that can be asked of the store inside one transaction."""

    def add_operator(self, record: OperatorRecord) -> None: ...
    def operator_by_token(self, token_digest: bytes) -> OperatorRecord | None: ...

    def add_root(self, record: RootRecord) -> None: ...
    def roots(self) -> Sequence[RootRecord]: ...

    def add_host(self, record: HostRecord) -> None: ...
    def update_host(self, record: HostRecord) -> None: ...
    def host(self, name: str) -> HostRecord | None: ...
    def host_by_ek(self, ek_digest: bytes) -> HostRecord | None: ...
    def host_by_request_key(self, keyid: str) -> HostRecord | None: ...
    def hosts(self) -> Sequence[HostRecord]: ...

    def put_ticket(self, record: TicketRecord) -> None:
        """Store the ticket of a host, in place of its earlier one."""

    def ticket_by_token(self, token_digest: bytes) -> TicketRecord | None: ...

    def use_ticket(self, token_digest: bytes, now: datetime) -> bool:
        """Mark the ticket as used; False when it is unknown, used or expired. Never True twice."""
        ...

    def put_enrollment(self, record: EnrollmentRecord) -> None:
        """Store the pending enrollment of a host, in place of its earlier one."""

    def take_enrollment(self, session: str) -> EnrollmentRecord | None:
        """The pending enrollment, which is gone afterwards."""
        ...

    def put_challenge(self, record: ChallengeRecord) -> None:
        """Store the pending challenge of a host, in place of its earlier one."""

    def take_challenge(self, session: str) -> ChallengeRecord | None:
        """The pending challenge, which is gone afterwards."""
        ...

    def put_lease_challenge(self, record: ChallengeRecord) -> None:
        """Store the pending lease challenge of a host, in place of its earlier one."""

    def lease_challenge(self, session: str) -> ChallengeRecord | None: ...
    def take_lease_challenge(self, session: str) -> ChallengeRecord | None:
        """The pending lease challenge, which is gone afterwards."""
        ...

    def put_lease(self, record: LeaseRecord) -> None:
        """Store the newest lease of a host for a profile key, in place of the one before."""

    def lease(self, host: str, profile: str, epoch: int, cell: str) -> LeaseRecord | None: ...
    def leases(self) -> Sequence[LeaseRecord]: ...

    def use_proof(self, proof_id: bytes, now: datetime, expires: datetime) -> bool:
        """Remember a request proof until `expires`; False when it is known. Forgets what expired before `now`."""
        ...

    def put_state(self, record: StateRecord) -> None: ...
    def state(self, host: str) -> StateRecord | None: ...
    def pcr_values(self) -> dict[str, dict[int, bytes]]:
        """The PCR values of every host's newest verified state, without logs."""
        ...

    def event_count(self, host: str) -> int | None:
        """The number of events in that state's log; None when the host has none."""
        ...

    def put_profile(self, record: ProfileRecord) -> None: ...
    def profile(self, name: str) -> ProfileRecord | None: ...
    def profiles(self) -> Sequence[ProfileRecord]: ...

    def add_epoch(self, record: EpochRecord) -> None: ...
    def epochs(self, profile: str | None = None) -> Sequence[EpochRecord]: ...

    def add_approval(self, record: ApprovalRecord) -> None: ...
    def approvals(self, profile: str | None = None) -> Sequence[ApprovalRecord]: ...

    def update_epoch(self, record: EpochRecord) -> None: ...

    def put_observed(self, record: ObservedRecord) -> None: ...
    def observed(self, state_id: bytes) -> ObservedRecord | None: ...
    def observed_values(self, host: str | None = None) -> Sequence[ObservedRecord]:
        """All observed states, or those last shown by `host`, newest first, without quotes, logs and preimages."""
        ...

    def remove_observed(self, state_id: bytes) -> None: ...

    def put_withdrawal(self, record: WithdrawalRecord) -> None: ...
    def withdrawals(self, profile: str) -> Sequence[WithdrawalRecord]: ...
    def remove_withdrawal(self, profile: str, pcr_digest: bytes) -> None: ...

    def put_rule(self, record: RuleRecord) -> None: ...
    def rules(self, profile: str | None = None) -> Sequence[RuleRecord]: ...

    def put_signing(self, record: SigningRecord) -> None: ...
    def signings(self) -> Sequence[SigningRecord]: ...
    def take_signing(self, request_id: str) -> SigningRecord | None:
        """The waiting request, which is gone afterwards."""
        ...

    def put_inventory(self, record: InventoryRecord) -> None: ...
    def inventories(self) -> Sequence[InventoryRecord]: ...

    def put_approver(self, point: bytes) -> None:
        """The point of the offline approver, set once."""

    def approver(self) -> bytes | None:
        """The point of the offline approver; None where the approver's key is in custody."""
        ...

    def put_provisioner(self, record: ProvisionerRecord) -> None: ...
    def provisioner(self, name: str) -> ProvisionerRecord | None: ...
    def provisioners(self) -> Sequence[ProvisionerRecord]: ...

    def put_bundle(self, record: BundleRecord) -> None: ...
    def bundle(self) -> BundleRecord | None: ...

    def add_audit(self, record: AuditRecord) -> None: ...
    def last_audit(self) -> AuditRecord | None: ...
    def audit(self, after: int, limit: int) -> Sequence[AuditRecord]: ...
    def audit_of(self, action: str, subject: str) -> Sequence[AuditRecord]:
        """The entries of one action and subject, in order."""
        ...


class Store(Protocol):
    """The database."""

    def read(self) -> AbstractContextManager[Transaction]:
        """A consistent view; what is written in it is refused or lost."""
        ...

    def write(self) -> AbstractContextManager[Transaction]:
        """An exclusive, atomic, durable change."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How this authority presents itself. `url` is what tickets tell hosts; `origins` all forms a request may name."""

    url: str
    origins: frozenset[str]
    ca_pem: str
    bundle_lifetime: timedelta = timedelta(days=30)
    session_lifetime: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Context:
    """What every use case gets."""

    store: Store
    custody: Custody
    settings: Settings
    clock: Callable[[], datetime]
    random: Callable[[int], bytes]

    def now(self) -> datetime:
        """The clock, cut to the whole second, which is what is stored and signed."""
        return self.clock().replace(microsecond=0)
