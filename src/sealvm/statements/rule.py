"""Approvals by rule: the approver delegates an epoch once, and a rule key then approves states of it.

    delegation       H(PA(rule key Name, RU) || R)     signed by the approver, once per epoch and cell
    approval by rule H(approved policy || RU)          signed by the rule key, once per state

An approval by rule is an `Approval` whose policy reference is RU and whose approver is the rule key; its approved
policy is that of an ordinary one. A stolen rule key approves any state of the epochs and cells that were delegated to
it, and in a leased one also a policy without the lease; the answer is a new epoch. Specification:
docs/spec/tpm-policy-v1.md, section "Approvals by rule".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from sealvm.crypto.ec import Signer, verify_digest
from sealvm.errors import SignatureRefused
from sealvm.statements.approval import Approval, digest_to_sign, unsigned_approval, verify_approval_under
from sealvm.statements.encoding import Base64Bytes, CellName, Epoch, ObjectName, Point, parse_message
from sealvm.tcg import policy
from sealvm.tcg.public import name_of
from sealvm.tcg.templates import verifier_public

Signature = Annotated[Base64Bytes, Field(min_length=8, max_length=80)]


@dataclass(frozen=True, slots=True)
class Delegation:
    """The approver's word that `rule_point` may approve states of one profile key. See `verify_delegation`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", hide_input_in_errors=True)

    profile: ObjectName
    epoch: Epoch
    cell: CellName
    mode: Annotated[str, Field(max_length=16)]
    rule_point: Point
    approver_point: Point
    signature: Signature

    @property
    def approved_policy(self) -> bytes:
        """PA(rule key Name, RU), 32 bytes: what the approver approves in place of a state."""
        ref = policy.rule_ref(self.profile, self.epoch, self.cell)
        return policy.approved_by_rule(name_of(verifier_public(self.rule_point)), ref)

    @property
    def policy_ref(self) -> bytes:
        """R, 32 bytes."""
        return policy.profile_ref(self.profile, self.epoch, self.cell, self.mode)

    def to_json(self) -> dict[str, Any]:
        """JSON object: points in lower-case hex, the signature in base64."""
        body: dict[str, Any] = _DELEGATION.dump_python(self, mode="json")
        return body

    @classmethod
    def from_json(cls, obj: object, what: str = "delegation") -> Delegation:
        """Read what `to_json` wrote; MalformedError. Verifies nothing."""
        return parse_message(_DELEGATION, obj, what)


_DELEGATION: TypeAdapter[Delegation] = TypeAdapter(Delegation)


def sign_delegation(
    approver: Signer, *, profile: str, epoch: int, cell: str, mode: str, rule_point: bytes
) -> Delegation:
    """Let the rule key approve states of this profile key, as long as its epoch lasts. MalformedError."""
    unsigned = Delegation(profile, epoch, cell, mode, rule_point, approver.point, b"")
    digest = digest_to_sign(unsigned.approved_policy, unsigned.policy_ref)
    return replace(unsigned, signature=approver.sign_digest(digest))


def verify_delegation(delegation: Delegation) -> None:
    """Return only if the approver at `approver_point` delegated exactly this profile key to exactly this rule key.

    SignatureRefused, MalformedError. The caller must still check that `approver_point` is the profile key's approver.
    """
    try:
        digest = digest_to_sign(delegation.approved_policy, delegation.policy_ref)
        verify_digest(delegation.approver_point, digest, delegation.signature)
    except SignatureRefused as error:
        raise SignatureRefused(
            f"delegation of profile {delegation.profile!r} epoch {delegation.epoch}: "
            "signature of the approver does not verify"
        ) from error


def sign_approval_by_rule(
    rule_key: Signer,
    *,
    profile: str,
    epoch: int,
    cell: str,
    selection: Iterable[int],
    pcr_values: Mapping[int, bytes],
    mode: str = policy.MODE_STANDING,
    lease_point: bytes = b"",
    label: str = "",
    reference: Mapping[str, Any] | None = None,
) -> Approval:
    """Approve a state as `approval.sign_approval` does, by a rule key: good only beside a delegation to that key.

    MalformedError as there. The caller must have verified that a rule covers the state.
    """
    unsigned = unsigned_approval(
        rule_key.point,
        policy.rule_ref(profile, epoch, cell),
        profile=profile,
        epoch=epoch,
        cell=cell,
        selection=selection,
        pcr_values=pcr_values,
        mode=mode,
        lease_point=lease_point,
        label=label,
        reference=reference,
    )
    digest = digest_to_sign(unsigned.approved_policy, unsigned.policy_ref)
    return replace(unsigned, signature_der=rule_key.sign_digest(digest))


def verify_approval_by_rule(approval: Approval, delegation: Delegation) -> None:
    """Return only if the rule key of `delegation` approved exactly this state, for the very key that was delegated.

    SignatureRefused naming what does not fit, MalformedError. Verifies the delegation as well, whose approver the
    caller checks.
    """
    verify_delegation(delegation)
    what = f"approval by rule for profile {approval.profile!r} epoch {approval.epoch}"
    key = (approval.profile, approval.epoch, approval.cell, approval.mode)
    if key != (delegation.profile, delegation.epoch, delegation.cell, delegation.mode):
        raise SignatureRefused(f"{what}: the delegation is for another profile key")
    if approval.approver_point != delegation.rule_point:
        raise SignatureRefused(f"{what}: signed by another key than the one it was delegated to")
    verify_approval_under(approval, policy.rule_ref(*key[:3]), "rule key")
