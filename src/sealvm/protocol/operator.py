"""What operators and the authority say to each other: requests and views, with limits (docs/spec/http-api-v1.md).

Views are what an operator may see; they carry no key material and no evidence beyond PCR values and events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sealvm.protocol.messages import Message
from sealvm.statements.bundle import DOCUMENT_CHARS_LIMIT
from sealvm.statements.encoding import CellName, Digest, Epoch, Moment, ObjectName, PcrIndex, Point

TrustClass = Literal["hardware", "virtual", "lab"]


class RootRequest(Message):
    """Accept EK certificates under each of these CA certificates (PEM, one or several), as this class."""

    certificate_pem: Annotated[str, Field(max_length=400 * 1024)]
    trust_class: TrustClass


class RootView(Message):
    """An accepted EK root."""

    sha256: Digest
    subject: str
    trust_class: TrustClass
    added: Moment


class RegisterRequest(Message):
    """Let the host whose TPM has this EK join under this name. `ek_digest`: see tcg.ekcert.ek_digest."""

    name: ObjectName
    ek_digest: Digest
    valid_seconds: Annotated[int, Field(ge=60, le=30 * 86400)] = 86400


class TicketRequest(Message):
    """A fresh join ticket for a registered host."""

    valid_seconds: Annotated[int, Field(ge=60, le=30 * 86400)] = 86400


class HostView(Message):
    """A host: who it is, and which profiles its last verified state satisfies.

    `state`: expected, without a known EK; pending, its EK waits for approval; registered; enrolled; or locked-out,
    because its TPM was barred or its EK's root is no longer accepted.
    """

    name: ObjectName
    host_id: str
    ek_digest: Digest | None
    state: Literal["expected", "pending", "registered", "enrolled", "locked-out"]
    trust_class: TrustClass | None
    tpm: str
    registered: Moment
    enrolled: Moment | None
    last_sync: Moment | None
    events: int | None
    satisfies: tuple[str, ...]


class ApplyRequest(Message):
    """A profile document, YAML."""

    document: Annotated[str, Field(max_length=DOCUMENT_CHARS_LIMIT)]


class EpochView(Message):
    """One generation of a profile's key. `approvals` are the labels of approved states, `digests` their PCR digests."""

    epoch: Epoch
    cell: CellName
    mode: str
    point: Point
    approvals: tuple[str, ...]
    digests: tuple[Digest, ...]
    wraps: bool
    created: Moment
    retired: Moment | None


class ProfileView(Message):
    """A profile, its keys, and how many hosts its trust classes let in."""

    name: ObjectName
    description: str
    pcrs: tuple[PcrIndex, ...]
    trust: tuple[str, ...]
    document: str
    epochs: tuple[EpochView, ...]
    outcome: Literal["created", "replaced", "unchanged", "shown"]


class ApproveRequest(Message):
    """Approve a state: the one in which `host` was last verified, or the observed one whose PCR digest begins with
    `state` (hex). Exactly one of the two. In all present epochs and cells, or in one.

    `reinstate`: also when the state was withdrawn.
    """

    host: ObjectName | None = None
    state: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None = None
    epoch: Epoch | None = None
    cell: CellName | None = None
    reinstate: bool = False
    dry_run: bool = False


class RequirementView(Message):
    """How one requirement came out, and by which event."""

    name: str
    says: str
    met: bool
    fact: str
    expected: Any
    found: Any
    event_index: int | None
    detail: str


class DifferenceView(Message):
    """One event in which a state differs from the nearest approved one (attest.explain.PcrDifference)."""

    pcr: PcrIndex
    event_index: int | None
    event_type: str
    what: str
    approved: str
    found: str
    advice: str


class ApprovalView(Message):
    """The outcome of an approval, or of a dry run: the evaluation, the difference from the nearest state approved
    before, and who has (or would have) access.

    `pending`: an offline approver has to sign it. `host` is "" for a predicted state.
    """

    profile: ObjectName
    epoch: Epoch
    cell: CellName
    host: str
    label: str
    pcr_digest: Digest
    requirements: tuple[RequirementView, ...]
    approved_before: int
    differences: tuple[DifferenceView, ...]
    satisfied_by: tuple[str, ...]
    gaining: tuple[str, ...]
    not_satisfied_by: tuple[str, ...]
    outcome: Literal["signed", "pending", "existing", "dry-run"]


class ProvisionerRequest(Message):
    """Accept this provisioner's packages on all hosts, for these profiles."""

    name: ObjectName
    point: Point
    profiles: Annotated[tuple[ObjectName, ...], Field(min_length=1, max_length=1024)]


class ProvisionerView(Message):
    """An accepted provisioner."""

    name: ObjectName
    keyid: str
    point: Point
    profiles: tuple[str, ...]
    trusted: Moment


class AuditEntryView(Message):
    """One entry of the audit chain, as `authority.audit.verify` takes it."""

    sequence: int
    time: Moment
    actor: str
    action: str
    subject: str
    details: dict[str, Any]
    previous: Digest
    digest: Digest


class Problem(Message):
    """An error as RFC 9457 writes it, with sealvm's stable code."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    fields: dict[str, Any] = Field(default_factory=dict)
