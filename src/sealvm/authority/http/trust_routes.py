"""Routes for the life of trust: queue, evidence, epochs, cells, rules, the offline approver, re-wrapping.

All need an operator's token but the host's own inventory.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from sealvm.authority import airgap, approve, cells, inventory, queue, retire, rewrap, rotate, rules
from sealvm.authority.http.auth import Ctx, Host, Operator
from sealvm.authority.http.limits import StrictRoute
from sealvm.protocol.operator import ApprovalView
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
from sealvm.statements.encoding import ObjectName

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["trust"])


@router.get("/queue")
def waiting_states(
    ctx: Ctx, operator: Operator, profile: Annotated[ObjectName | None, Query()] = None
) -> list[QueueEntry]:
    """The verified states that no approval covers."""
    return queue.queue(ctx, profile)


@router.post("/evidence")
def add_evidence(ctx: Ctx, operator: Operator, evidence: Evidence) -> EvidenceView:
    """Take a host's saved evidence into the queue."""
    return queue.add_evidence(ctx, operator, evidence)


@router.post("/profiles/{name}/predicted")
def approve_predicted(ctx: Ctx, operator: Operator, name: str, request: PredictedRequest) -> list[ApprovalView]:
    """Approve a state that no host was in yet."""
    return approve.approve_predicted(ctx, operator, name, request.approval, request.prediction)


@router.post("/profiles/{name}/withdraw")
def withdraw(ctx: Ctx, operator: Operator, name: str, request: WithdrawRequest) -> RotationView:
    """A rotation without one approved state."""
    return rotate.withdraw(ctx, operator, name, request)


@router.post("/profiles/{name}/rotate")
def rotate_profile(ctx: Ctx, operator: Operator, name: str, request: RotateRequest) -> RotationView:
    """A new epoch with a new key."""
    return rotate.rotate(ctx, operator, name, request)


@router.post("/profiles/{name}/retire")
def retire_epoch(ctx: Ctx, operator: Operator, name: str, request: RetireRequest) -> RetireView:
    """End an epoch."""
    return retire.retire(ctx, operator, name, request)


@router.post("/profiles/{name}/cells")
def add_cell(ctx: Ctx, operator: Operator, name: str, request: CellRequest) -> NewEpochView:
    """Give a profile a key of its own for a cell."""
    return cells.add_cell(ctx, operator, name, request)


@router.get("/cells")
def list_cells(ctx: Ctx, operator: Operator, profile: Annotated[ObjectName | None, Query()] = None) -> list[CellView]:
    """The cells of a profile, or of all."""
    return cells.list_cells(ctx, profile)


@router.post("/hosts/{name}/cell")
def assign_host(ctx: Ctx, operator: Operator, name: str, request: AssignRequest) -> AssignView:
    """Put a host into a cell."""
    return cells.assign_host(ctx, operator, name, request)


@router.post("/profiles/{name}/rules")
def add_rule(ctx: Ctx, operator: Operator, name: str, request: RuleRequest) -> list[RuleView]:
    """Let a rule approve states of the present epochs."""
    return rules.add_rule(ctx, operator, name, request)


@router.get("/profiles/{name}/rules")
def list_rules(ctx: Ctx, operator: Operator, name: str) -> list[RuleView]:
    """The rules of a profile, in all its epochs."""
    return rules.list_rules(ctx, name)


@router.get("/approver/requests")
def approver_requests(ctx: Ctx, operator: Operator) -> ApproverRequest:
    """What waits for the offline approver."""
    return airgap.waiting(ctx)


@router.post("/approver/answers")
def approver_answer(ctx: Ctx, operator: Operator, answer: ApproverAnswer) -> ImportView:
    """Store what the offline approver signed."""
    return airgap.import_answer(ctx, operator, answer)


@router.post("/rewrap")
def rewrap_package(ctx: Ctx, operator: Operator, request: RewrapRequest) -> RewrapView:
    """A package's recipients for the present epochs."""
    return rewrap.rewrap(ctx, operator, request)


@router.post("/sync/inventory")
def take_inventory(ctx: Ctx, host: Host, report: InventoryReport) -> InventoryTaken:
    """What a host has after a synchronisation."""
    return inventory.take_report(ctx, host, report)
