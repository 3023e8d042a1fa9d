"""What operators, approvers and the authority say about the life of trust: queue, withdrawals, epochs, cells, rules.

Requests and views with limits (docs/spec/http-api-v1.md, sections "Approvals" and "Epochs").
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from sealvm.crypto import canonical
from sealvm.protocol.messages import EVENT_LOG_BYTES_LIMIT, PREIMAGE_BYTES_LIMIT, PREIMAGES_LIMIT, Message, QuotedState
from sealvm.protocol.operator import ApproveRequest, DifferenceView, RequirementView
from sealvm.statements.encoding import (
    Base64Bytes,
    CellName,
    Digest,
    Epoch,
    Moment,
    ObjectName,
    PcrIndex,
    Point,
    parse_message,
)

EVIDENCE_FORMAT: Final = "sealvm-host-evidence-v1"
PREDICTION_FORMAT: Final = "sealvm-predicted-state-v1"
REQUEST_FORMAT: Final = "sealvm-approver-request-v1"
ANSWER_FORMAT: Final = "sealvm-approver-answer-v1"
EVIDENCE_BYTES_LIMIT = 4 * 1024 * 1024
REQUESTS_LIMIT = 256
REQUEST_BYTES_LIMIT = 256 * 1024 * 1024

Log = Annotated[Base64Bytes, Field(max_length=EVENT_LOG_BYTES_LIMIT)]
Preimages = Annotated[
    tuple[Annotated[Base64Bytes, Field(max_length=PREIMAGE_BYTES_LIMIT)], ...], Field(max_length=PREIMAGES_LIMIT)
]
Signature = Annotated[Base64Bytes, Field(min_length=8, max_length=80)]
Label = Annotated[str, Field(max_length=256)]


class Evidence(QuotedState):
    """A host's quoted state as a file, over a nonce of its own choice: it says that the host was in it, not when.

    `attest.saved` reads the same file for `profile predict` and `profile lint`.
    """

    format: Literal["sealvm-host-evidence-v1"]
    host: ObjectName
    nonce: Annotated[Base64Bytes, Field(min_length=32, max_length=32)]
    pcrs: Annotated[tuple[PcrIndex, ...], Field(min_length=1, max_length=24)]


class EvidenceView(Message):
    """The observed state that an evidence file became: for each profile that could approve it, the digest to name."""

    host: ObjectName
    events: int
    profiles: dict[str, Digest]


class Prediction(Message):
    """A state that no host was in yet: a log as hosts would record it, and the PCR values it gives."""

    format: Literal["sealvm-predicted-state-v1"]
    label: Annotated[str, Field(min_length=1, max_length=128)]
    pcr_values: dict[PcrIndex, Digest]
    event_log: Log
    preimages: Preimages = ()


class QueueEntry(Message):
    """A state that a host was verified in and no approval covers, as one profile sees it."""

    profile: ObjectName
    pcr_digest: Digest
    host: ObjectName
    hosts_in_it: tuple[str, ...]
    trust_class: str
    first_seen: Moment
    last_seen: Moment
    satisfied: bool
    withdrawn: bool
    requirements: tuple[RequirementView, ...]
    differences: tuple[DifferenceView, ...]


class WithdrawRequest(Message):
    """Stop approving a state: a rotation without it. `state`: the beginning of its PCR digest, hex."""

    state: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    dry_run: bool = False


class RotateRequest(Message):
    """A new epoch: for one cell, or (None) for all of the profile's."""

    cell: CellName | None = None
    dry_run: bool = False


class DroppedView(Message):
    """An approval that a new epoch does not have, and why."""

    pcr_digest: Digest
    label: str
    why: str


class NewEpochView(Message):
    """A new epoch of one cell, or one that would be made, and what becomes of the approvals of the one before."""

    epoch: Epoch
    cell: CellName
    carried: tuple[str, ...]
    pending: tuple[str, ...]
    dropped: tuple[DroppedView, ...]
    dry_run: bool = False


class RotationView(Message):
    """What a rotation or withdrawal made, or would make: new epochs, who lacks the keys, what stays openable."""

    profile: ObjectName
    epochs: tuple[NewEpochView, ...]
    older: tuple[str, ...]
    hosts_to_sync: tuple[str, ...]
    losing: tuple[str, ...]
    disks: tuple[str, ...]
    says: tuple[str, ...]
    dry_run: bool


class RetireRequest(Message):
    """End an epoch: of one cell, or (None) of all."""

    epoch: Epoch
    cell: CellName | None = None
    dry_run: bool = False


class RetireView(Message):
    """What retiring an epoch ends, or would end; `blocking` are the disks that only it opens."""

    profile: ObjectName
    epoch: Epoch
    cells: tuple[str, ...]
    blocking: tuple[str, ...]
    behind: tuple[str, ...]
    says: tuple[str, ...]
    dry_run: bool


class CellRequest(Message):
    """Give a profile a key of its own for the hosts of a cell."""

    cell: Annotated[ObjectName, Field(min_length=1)]
    dry_run: bool = False


class CellView(Message):
    """A cell of a profile: its present epochs, and the hosts assigned to it."""

    profile: ObjectName
    cell: CellName
    epochs: tuple[int, ...]
    hosts: tuple[str, ...]


class AssignRequest(Message):
    """Which cell a host belongs to; "" for none."""

    cell: CellName
    dry_run: bool = False


class AssignView(Message):
    """A host's cell, or what it would be, and which profiles have keys of it.

    `keeps` are keys it has had before, as PROFILE epoch N.
    """

    host: ObjectName
    cell: CellName
    profiles: tuple[str, ...]
    keeps: tuple[str, ...]
    dry_run: bool = False


class RuleRequest(Message):
    """Approve by rule in the present epochs of a profile: states that meet every requirement and equal an approved
    state in the PCRs `match`."""

    name: ObjectName
    match: Annotated[tuple[PcrIndex, ...], Field(min_length=1, max_length=24)]
    cell: CellName | None = None
    until_epoch: Epoch | None = None
    dry_run: bool = False


class RuleView(Message):
    """A rule in one epoch and cell. `state`: whether its delegation is signed; `covers`: queued states it approves.
    `warning`: what a theft of its key costs beyond other rules, "" when nothing."""

    profile: ObjectName
    name: ObjectName
    epoch: Epoch
    cell: CellName
    match: tuple[PcrIndex, ...]
    rule_point: Point | None
    until_epoch: Epoch | None
    state: Literal["active", "pending", "retired", "dry-run"]
    covers: tuple[str, ...]
    warning: str = ""


class SigningRequest(Message):
    """One statement for the approver: all that its digest is made of, and the evidence by which to judge it."""

    kind: Literal["approval", "delegation"]
    request_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    document: Annotated[str, Field(max_length=64 * 1024)]
    statement: dict[str, Any]
    pcr_values: dict[PcrIndex, Digest] = Field(default_factory=dict)
    event_log: Log = b""
    preimages: Preimages = ()
    match: tuple[PcrIndex, ...] = ()
    hosts: tuple[str, ...] = ()


class ApproverRequest(Message):
    """What waits for the offline approver, as a file."""

    format: Literal["sealvm-approver-request-v1"]
    approver: Point
    made: Moment
    requests: Annotated[tuple[SigningRequest, ...], Field(max_length=REQUESTS_LIMIT)]


class SignedRequest(Message):
    """The approver's signature for one request."""

    request_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Signature


class ApproverAnswer(Message):
    """What the offline approver signed, as a file."""

    format: Literal["sealvm-approver-answer-v1"]
    approver: Point
    signed: Annotated[tuple[SignedRequest, ...], Field(max_length=REQUESTS_LIMIT)]


class ImportView(Message):
    """What became of an approver's answer."""

    approvals: tuple[str, ...]
    delegations: tuple[str, ...]
    unknown: tuple[str, ...]
    waiting: int


class RewrapRequest(Message):
    """A package's signed header and its recipients, to be wrapped anew to the present epochs."""

    envelope: Annotated[Base64Bytes, Field(min_length=2, max_length=256 * 1024)]
    recipients: Annotated[Base64Bytes, Field(min_length=2, max_length=64 * 1024)]


class RewrapView(Message):
    """The new recipients; `before` and `after` list PROFILE epoch N [cell C]."""

    package: Digest
    recipients: Annotated[Base64Bytes, Field(max_length=64 * 1024)]
    before: tuple[str, ...]
    after: tuple[str, ...]


class KeyNamed(Message):
    """A profile key by its name."""

    profile: ObjectName
    epoch: Epoch
    cell: CellName


class DiskReport(Message):
    """An instance's writable disk: the profile keys its key is wrapped to, and those its package is wrapped to (none
    when the package is not at hand)."""

    instance: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    package: Digest
    wraps: Annotated[tuple[KeyNamed, ...], Field(max_length=64)]
    package_wraps: Annotated[tuple[KeyNamed, ...], Field(max_length=64)] = ()


class InventoryReport(Message):
    """What a host has after a synchronisation: the bundle's version, its keys and its disks."""

    bundle_version: Annotated[int, Field(ge=0)]
    keys: Annotated[tuple[KeyNamed, ...], Field(max_length=4096)]
    disks: Annotated[tuple[DiskReport, ...], Field(max_length=4096)]


class InventoryTaken(Message):
    """The authority has the report."""

    taken: bool


class PredictedRequest(Message):
    """Approve a predicted state; `approval` names neither host nor state."""

    approval: ApproveRequest
    prediction: Prediction


_EVIDENCE: TypeAdapter[Evidence] = TypeAdapter(Evidence)
_PREDICTION: TypeAdapter[Prediction] = TypeAdapter(Prediction)
_REQUEST: TypeAdapter[ApproverRequest] = TypeAdapter(ApproverRequest)
_ANSWER: TypeAdapter[ApproverAnswer] = TypeAdapter(ApproverAnswer)


def parse_evidence(data: bytes) -> Evidence:
    """A file that `sealvm host evidence` wrote; MalformedError."""
    return parse_message(_EVIDENCE, canonical.loads(data, "evidence", EVIDENCE_BYTES_LIMIT), "evidence")


def parse_prediction(data: bytes) -> Prediction:
    """A file that `sealvm profile predict` wrote; MalformedError."""
    return parse_message(_PREDICTION, canonical.loads(data, "prediction", EVIDENCE_BYTES_LIMIT), "prediction")


def parse_approver_request(data: bytes) -> ApproverRequest:
    """A file that `sealvm approver request` wrote; MalformedError."""
    return parse_message(_REQUEST, canonical.loads(data, "approver request", REQUEST_BYTES_LIMIT), "approver request")


def parse_approver_answer(data: bytes) -> ApproverAnswer:
    """A file that `sealvm approver sign` wrote; MalformedError."""
    return parse_message(_ANSWER, canonical.loads(data, "approver answer", EVIDENCE_BYTES_LIMIT), "approver answer")
