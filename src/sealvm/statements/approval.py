"""Approvals: the state approver's signature that a profile key may be used in one measured state.

The signature covers `SHA-256(approved policy || policy reference)`, which is the very digest that TPM2_PolicyAuthorize
checks, and nothing else: the TPM enforces it, whatever any software says. For a standing approval the approved policy
is PolicyPCR over the profile's selection. Specification: docs/spec/tpm-policy-v1.md, section "Approvals".

An approval is public and valid on every host, for as long as its epoch lasts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sealvm.crypto import canonical
from sealvm.crypto.ec import P256_POINT_BYTES, Signer, verify_digest
from sealvm.errors import MalformedError, SignatureRefused
from sealvm.tcg import policy
from sealvm.tcg.pcr import PCR_COUNT, PcrSelection, pcr_digest

MAX_NAME_BYTES = 128
MAX_LABEL_BYTES = 256
MAX_REFERENCE_BYTES = 2 * 1024 * 1024
_MAX_SIGNATURE_BYTES = 80
_FIELDS = {
    "profile", "epoch", "cell", "mode", "selection", "pcr_digest", "approved_policy", "policy_ref",
    "approver", "signature", "label", "reference",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Approval:
    """One approved state of one profile key; nothing vouches for it before `verify_approval`.

    selection: PCR indices, ascending. pcr_digest, approved_policy, policy_ref: 32 bytes. approver_point: 65 bytes.
    signature_der: DER ECDSA P-256. label (a name for people) and reference (the approved state's PCR values and events,
    for explanations) are not covered by the approver's signature; within a trust bundle, by the bundle's.
    """

    profile: str
    epoch: int
    cell: str
    mode: str
    selection: tuple[int, ...]
    pcr_digest: bytes
    approved_policy: bytes
    policy_ref: bytes
    approver_point: bytes
    signature_der: bytes
    label: str = ""
    reference: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON object: digests and point in lower-case hex, the signature in base64."""
        return {
            "profile": self.profile,
            "epoch": self.epoch,
            "cell": self.cell,
            "mode": self.mode,
            "selection": list(self.selection),
            "pcr_digest": self.pcr_digest.hex(),
            "approved_policy": self.approved_policy.hex(),
            "policy_ref": self.policy_ref.hex(),
            "approver": self.approver_point.hex(),
            "signature": base64.b64encode(self.signature_der).decode("ascii"),
            "label": self.label,
            "reference": dict(self.reference),
        }

    @classmethod
    def from_json(cls, obj: object, what: str = "approval") -> Approval:
        """Read what `to_json` wrote. MalformedError for another form; verifies nothing, `verify_approval` does."""
        if not isinstance(obj, dict) or set(obj) != _FIELDS:
            raise MalformedError(f"{what}: expected an object with the fields {', '.join(sorted(_FIELDS))}")
        epoch = obj["epoch"]
        if type(epoch) is not int:
            raise MalformedError(f"{what}: epoch must be an integer")
        return cls(
            profile=_text(obj, "profile", MAX_NAME_BYTES, what),
            epoch=epoch,
            cell=_text(obj, "cell", MAX_NAME_BYTES, what),
            mode=_text(obj, "mode", MAX_NAME_BYTES, what),
            selection=_indices(obj["selection"], what),
            pcr_digest=_hex(obj, "pcr_digest", 32, what),
            approved_policy=_hex(obj, "approved_policy", 32, what),
            policy_ref=_hex(obj, "policy_ref", 32, what),
            approver_point=_hex(obj, "approver", P256_POINT_BYTES, what),
            signature_der=_signature(obj["signature"], what),
            label=_text(obj, "label", MAX_LABEL_BYTES, what),
            reference=_reference(obj["reference"], what),
        )


def digest_to_sign(approved_policy: bytes, policy_ref: bytes) -> bytes:
    """SHA-256(approved policy || policyRef), the aHash of TPM2_PolicyAuthorize (Part 3, section 23.16); 32 bytes.

    MalformedError unless both have 32 bytes: with other sizes one digest could mean two things.
    """
    if len(approved_policy) != 32 or len(policy_ref) != 32:
        raise MalformedError("approval: approved policy and policy reference must have 32 bytes each")
    return hashlib.sha256(approved_policy + policy_ref).digest()


def sign_approval(
    signer: Signer,
    *,
    profile: str,
    epoch: int,
    cell: str,
    selection: Iterable[int],
    pcr_values: Mapping[int, bytes],
    mode: str = policy.MODE_STANDING,
    label: str = "",
    reference: Mapping[str, Any] | None = None,
) -> Approval:
    """Approve the state with these PCR values for one profile key.

    MalformedError for a mode other than standing, a bad epoch, an empty selection, or a selected PCR without a value.
    The caller must have verified that the values come from a quote and satisfy the profile.
    """
    chosen = _check_claims(mode, selection)
    values_digest = pcr_digest(pcr_values, chosen)
    approved = policy.approved_standing(chosen, values_digest)
    ref = policy.profile_ref(profile, epoch, cell, mode)
    return Approval(
        profile=profile,
        epoch=epoch,
        cell=cell,
        mode=mode,
        selection=tuple(chosen),
        pcr_digest=values_digest,
        approved_policy=approved,
        policy_ref=ref,
        approver_point=signer.point,
        signature_der=signer.sign_digest(digest_to_sign(approved, ref)),
        label=label,
        reference=dict(reference or {}),
    )


def verify_approval(approval: Approval) -> None:
    """Return only if the approver at `approver_point` approved exactly this state for exactly this profile key.

    1. The policy reference is the one of profile, epoch, cell and mode.
    2. The approved policy is PolicyPCR over selection and PCR digest.
    3. The signature over both verifies.

    SignatureRefused naming the field that does not fit; MalformedError for values outside their ranges. The caller must
    still check that `approver_point` is the approver of this profile: its Name is in the profile key's authPolicy.
    """
    what = f"approval for profile {approval.profile!r} epoch {approval.epoch}"
    chosen = _check_claims(approval.mode, approval.selection)
    ref = policy.profile_ref(approval.profile, approval.epoch, approval.cell, approval.mode)
    if approval.policy_ref != ref:  # 1
        raise SignatureRefused(f"{what}: policy reference is {approval.policy_ref.hex()}, expected {ref.hex()}")
    approved = policy.approved_standing(chosen, approval.pcr_digest)
    if approval.approved_policy != approved:  # 2
        raise SignatureRefused(
            f"{what}: approved policy is {approval.approved_policy.hex()}, expected {approved.hex()}"
        )
    try:
        verify_digest(approval.approver_point, digest_to_sign(approved, ref), approval.signature_der)  # 3
    except SignatureRefused as error:
        raise SignatureRefused(f"{what}: signature of the approver does not verify") from error


def _check_claims(mode: str, selection: Iterable[int]) -> PcrSelection:
    if mode != policy.MODE_STANDING:
        raise MalformedError(f"approval: mode {mode!r} is not supported by this version, expected 'standing'")
    chosen = PcrSelection(selection)
    if not chosen:
        raise MalformedError("approval: the PCR selection is empty")
    return chosen


def _text(obj: Mapping[str, Any], key: str, limit: int, what: str) -> str:
    value = obj[key]
    if not isinstance(value, str) or not _fits(value, limit):
        raise MalformedError(f"{what}: {key} must be a string of at most {limit} bytes of UTF-8")
    return value


def _fits(text: str, limit: int) -> bool:
    try:
        return len(text.encode("utf-8")) <= limit
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _hex(obj: Mapping[str, Any], key: str, size: int, what: str) -> bytes:
    value = obj[key]
    if not isinstance(value, str) or len(value) != 2 * size or not set(value) <= set("0123456789abcdef"):
        raise MalformedError(f"{what}: {key} must be {2 * size} lower-case hex digits")
    return bytes.fromhex(value)


def _indices(value: object, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(index) is int for index in value):
        raise MalformedError(f"{what}: selection must be a list of PCR indices")
    if value != sorted(set(value)) or not all(0 <= index < PCR_COUNT for index in value):
        raise MalformedError(f"{what}: selection must be PCR indices below {PCR_COUNT}, ascending, each once")
    return tuple(value)


def _reference(value: object, what: str) -> dict[str, Any]:
    try:
        if isinstance(value, dict) and len(canonical.dumps(value)) <= MAX_REFERENCE_BYTES:
            return value
    except (ValueError, TypeError, RecursionError):
        pass
    raise MalformedError(f"{what}: reference must be a JSON object of at most {MAX_REFERENCE_BYTES} bytes")


def _signature(value: object, what: str) -> bytes:
    try:
        signature = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        signature = b""
    if not 0 < len(signature) <= _MAX_SIGNATURE_BYTES:
        raise MalformedError(f"{what}: signature must be base64 of at most {_MAX_SIGNATURE_BYTES} bytes")
    return signature
