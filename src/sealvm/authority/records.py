"""What the authority remembers, one frozen record a table. All times are aware, UTC, whole seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class OperatorRecord:
    """Who may call the operator's API: the SHA-256 of a bearer token of 256 random bits."""

    name: str
    token_digest: bytes
    created: datetime


@dataclass(frozen=True, slots=True)
class RootRecord:
    """An EK root certificate and the trust class of what it vouches for."""

    sha256: bytes
    certificate: bytes
    subject: str
    trust_class: str
    added: datetime


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host. The public areas and later fields are empty or None until it has enrolled; `ek_digest` is None while an
    operator has yet to approve the EK it presents. `tpm_model` is its manufacturer, model and version, `ek_root` the
    SHA-256 of the root certificate that vouched for its EK.
    """

    name: str
    host_id: str
    ek_digest: bytes | None
    registered: datetime
    trust_class: str | None = None
    tpm: str = ""
    tpm_model: tuple[str, ...] = ()
    ek_root: bytes = b""
    ek_public: bytes = b""
    ak_public: bytes = b""
    srk_public: bytes = b""
    import_parent_public: bytes = b""
    request_key_public: bytes = b""
    request_keyid: str | None = None
    enrolled: datetime | None = None
    last_sync: datetime | None = None
    cell: str = ""


@dataclass(frozen=True, slots=True)
class TicketRecord:
    """A join token, known by its digest only. One a host; used once."""

    host: str
    token_digest: bytes
    ek_digest: bytes | None
    expires: datetime
    used: datetime | None = None


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """A host that presented a certified EK which nobody registered, and waits for an operator. One a host."""

    host: str
    ek_digest: bytes
    tpm: str
    trust_class: str
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class BarRecord:
    """TPMs that may not take part; the fields are those of protocol.tpm_model.Bar."""

    bar_id: str
    manufacturer: str
    model: str
    version: str
    before: str
    reason: str
    added: datetime


@dataclass(frozen=True, slots=True)
class EnrollmentRecord:
    """An enrollment between challenge and answer. One a host; `body` is a protocol.enroll.PendingEnrollment."""

    session: str
    host: str
    token_digest: bytes
    expires: datetime
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChallengeRecord:
    """A synchronisation between challenge and answer. One a host."""

    session: str
    host: str
    nonce: bytes
    pcrs: tuple[int, ...]
    expires: datetime


@dataclass(frozen=True, slots=True)
class StateRecord:
    """The newest verified state of a host, kept so that it can be verified again."""

    host: str
    qualifying_data: bytes
    quote: bytes
    signature: bytes
    event_log: bytes
    preimages: tuple[bytes, ...]
    pcr_values: dict[int, bytes]
    events: int
    verified: datetime


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """A profile as applied: the YAML text, and its PCRs and trust classes, which no later document may change."""

    name: str
    document: str
    pcrs: tuple[int, ...]
    trust: tuple[str, ...]
    applied: datetime


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One generation of a profile's key: the public area, and the custody name of the private half.

    wraps: whether new packages and disks are wrapped to it; a withdrawal ends that before the epoch is retired.
    lease_point: the lease key that its approvals name, 65 bytes; empty for a standing epoch.
    """

    profile: str
    epoch: int
    cell: str
    mode: str
    selection: tuple[int, ...]
    point: bytes
    public: bytes
    approver_point: bytes
    custody_name: str
    created: datetime
    wraps: bool = True
    retired: datetime | None = None
    lease_point: bytes = b""

    @property
    def key(self) -> tuple[str, int, str]:
        """Profile, epoch and cell."""
        return self.profile, self.epoch, self.cell


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """A signed approval; `body` is its JSON, `host` whose state it was taken from."""

    profile: str
    epoch: int
    cell: str
    pcr_digest: bytes
    host: str
    body: dict[str, Any]
    created: datetime

    @property
    def key(self) -> tuple[str, int, str]:
        """Profile, epoch and cell."""
        return self.profile, self.epoch, self.cell


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The newest lease of one host for one profile key. `ends` is by the authority's clock, the TPM's may be slower.

    authorization: the lease key's signature for the boot `reset_count`, DER, which further renewals repeat.
    """

    host: str
    profile: str
    epoch: int
    cell: str
    reset_count: int
    lease_point: bytes
    srk_name: bytes
    authorization: bytes
    seconds: int
    granted: datetime
    ends: datetime
    renewals: int


@dataclass(frozen=True, slots=True)
class ObservedRecord:
    """A verified state that some host was in, with the newest quote and log that prove it: what can be approved.

    state_id: 32 bytes, over trust class and quoted PCR values, so that a state is kept once however many hosts show it.
    """

    state_id: bytes
    host: str
    trust_class: str
    ak_public: bytes
    qualifying_data: bytes
    quote: bytes
    signature: bytes
    event_log: bytes
    preimages: tuple[bytes, ...]
    pcr_values: dict[int, bytes]
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class WithdrawalRecord:
    """A state whose approval was withdrawn: no epoch made since has it, and no rule approves it again."""

    profile: str
    pcr_digest: bytes
    label: str
    withdrawn: datetime


@dataclass(frozen=True, slots=True)
class RuleRecord:
    """A rule: in this epoch and cell its key approves states whose `match` PCRs are those of an approved state.

    delegation: the approver's word for the rule key, JSON; None while an offline approver has not signed it.
    until_epoch: rotations renew the rule up to this epoch; None for this one only.
    """

    profile: str
    epoch: int
    cell: str
    name: str
    match: tuple[int, ...]
    rule_point: bytes
    custody_name: str
    delegation: dict[str, Any] | None
    until_epoch: int | None
    created: datetime

    @property
    def key(self) -> tuple[str, int, str]:
        """Profile, epoch and cell."""
        return self.profile, self.epoch, self.cell


@dataclass(frozen=True, slots=True)
class SigningRecord:
    """A statement that waits for an offline approver; `request_id` is the digest to be signed, hex."""

    request_id: str
    kind: str
    profile: str
    epoch: int
    cell: str
    body: dict[str, Any]
    created: datetime


@dataclass(frozen=True, slots=True)
class InventoryRecord:
    """What a host reported after a synchronisation; `body` is a protocol.trust.InventoryReport."""

    host: str
    body: dict[str, Any]
    reported: datetime


@dataclass(frozen=True, slots=True)
class ProvisionerRecord:
    """A provisioner whose packages hosts accept for these profiles."""

    name: str
    point: bytes
    profiles: tuple[str, ...]
    trusted: datetime


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """The newest signed trust bundle."""

    version: int
    envelope: bytes
    issued: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One link of the audit chain; see authority.audit."""

    sequence: int
    time: datetime
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    previous: bytes
    digest: bytes
