"""Calls for the life of trust: queue, epochs, cells, rules, the offline approver (docs/spec/http-api-v1.md).

Each takes the client of an operator, `report_inventory` that of a host, and raises as `AuthorityClient`'s methods do.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from sealvm.client.authority import AuthorityClient
from sealvm.protocol.operator import ApprovalView, ApproveRequest
from sealvm.protocol.trust import (
    ApproverAnswer,
    ApproverRequest,
    AssignRequest,
    AssignView,
    CellRequest,
    CellView,
    Evidence,
    EvidenceView,
    ImportView,
    InventoryReport,
    InventoryTaken,
    NewEpochView,
    PredictedRequest,
    Prediction,
    QueueEntry,
    RetireRequest,
    RetireView,
    RewrapRequest,
    RewrapView,
    RotateRequest,
    RotationView,
    RuleRequest,
    RuleView,
    WithdrawRequest,
)
from sealvm.statements.encoding import ObjectName, parse_message

_NAME: TypeAdapter[str] = TypeAdapter(ObjectName)


def queue(client: AuthorityClient, profile: str | None = None) -> list[QueueEntry]:
    """The verified states that no approval covers."""
    return client.get("/v1/queue" + _query(profile), list[QueueEntry])


def add_evidence(client: AuthorityClient, evidence: Evidence) -> EvidenceView:
    """Take a host's saved evidence into the queue."""
    return client.post("/v1/evidence", evidence, EvidenceView)


def approve(client: AuthorityClient, profile: str, request: ApproveRequest) -> list[ApprovalView]:
    """Approve a host's state or one from the queue, in all present epochs or one; or say what that would do."""
    return client.post(f"/v1/profiles/{_name(profile)}/approvals", request, list[ApprovalView])


def approve_predicted(
    client: AuthorityClient, profile: str, request: ApproveRequest, prediction: Prediction
) -> list[ApprovalView]:
    """Approve a state that no host was in yet."""
    message = PredictedRequest(approval=request, prediction=prediction)
    return client.post(f"/v1/profiles/{_name(profile)}/predicted", message, list[ApprovalView])


def withdraw(client: AuthorityClient, profile: str, request: WithdrawRequest) -> RotationView:
    """A rotation without one approved state."""
    return client.post(f"/v1/profiles/{_name(profile)}/withdraw", request, RotationView)


def rotate(client: AuthorityClient, profile: str, request: RotateRequest) -> RotationView:
    """A new epoch with a new key."""
    return client.post(f"/v1/profiles/{_name(profile)}/rotate", request, RotationView)


def retire(client: AuthorityClient, profile: str, request: RetireRequest) -> RetireView:
    """End an epoch."""
    return client.post(f"/v1/profiles/{_name(profile)}/retire", request, RetireView)


def add_cell(client: AuthorityClient, profile: str, request: CellRequest) -> NewEpochView:
    """Give a profile a key of its own for a cell."""
    return client.post(f"/v1/profiles/{_name(profile)}/cells", request, NewEpochView)


def cells(client: AuthorityClient, profile: str | None = None) -> list[CellView]:
    """The cells of a profile, or of all."""
    return client.get("/v1/cells" + _query(profile), list[CellView])


def assign_host(client: AuthorityClient, host: str, request: AssignRequest) -> AssignView:
    """Put a host into a cell."""
    return client.post(f"/v1/hosts/{_name(host)}/cell", request, AssignView)


def add_rule(client: AuthorityClient, profile: str, request: RuleRequest) -> list[RuleView]:
    """Let a rule approve states of the present epochs."""
    return client.post(f"/v1/profiles/{_name(profile)}/rules", request, list[RuleView])


def rules(client: AuthorityClient, profile: str) -> list[RuleView]:
    """The rules of a profile, in all its epochs."""
    return client.get(f"/v1/profiles/{_name(profile)}/rules", list[RuleView])


def approver_requests(client: AuthorityClient) -> ApproverRequest:
    """What waits for the offline approver."""
    return client.get("/v1/approver/requests", ApproverRequest)


def import_answer(client: AuthorityClient, answer: ApproverAnswer) -> ImportView:
    """Store what the offline approver signed."""
    return client.post("/v1/approver/answers", answer, ImportView)


def rewrap(client: AuthorityClient, request: RewrapRequest) -> RewrapView:
    """A package's recipients for the present epochs."""
    return client.post("/v1/rewrap", request, RewrapView)


def report_inventory(client: AuthorityClient, report: InventoryReport) -> InventoryTaken:
    """What this host has after a synchronisation; as an enrolled host."""
    return client.post("/v1/sync/inventory", report, InventoryTaken)


def _name(name: str) -> str:
    return parse_message(_NAME, name, "name")


def _query(profile: str | None) -> str:
    return "" if profile is None else f"?profile={_name(profile)}"
