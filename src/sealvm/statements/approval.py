"""Approvals: the state approver's signature that a profile key may be used in one measured state.

The signature covers `SHA-256(approved policy || policy reference)`, which is the very digest that TPM2_PolicyAuthorize
checks, and nothing else: the TPM enforces it, whatever any software says. For a standing approval the approved policy
is PolicyPCR over the profile's selection; for a leased one it is what the lease key authorized, then that PolicyPCR.
Specification: docs/spec/tpm-policy-v1.md, section "Approvals".

An approval is public and valid on every host, for as long as its epoch lasts; a leased one helps only with a lease.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sealvm.crypto import canonical
from sealvm.crypto.ec import P256_POINT_BYTES, Signer, verify_digest
from sealvm.errors import MalformedError, SignatureRefused
from sealvm.tcg import policy
from sealvm.tcg.pcr import PCR_COUNT, PcrSelection, pcr_digest
from sealvm.tcg.public import name_of
from sealvm.tcg.templates import verifier_public

MAX_NAME_BYTES = 128
MAX_LABEL_BYTES = 256
MAX_REFERENCE_BYTES = 2 * 1024 * 1024
_MAX_SIGNATURE_BYTES = 80
_FIELDS = {
    "profile", "epoch", "cell", "mode", "selection", "pcr_digest", "approved_policy", "policy_ref",
    "approver", "signature", "label", "reference",
}  # fmt: skip
_LEASED_FIELDS = _FIELDS | {"lease_key"}


@dataclass(frozen=True, slots=True)
class Approval:
    """One approved state of one profile key; nothing vouches for it before `verify_approval`.

    selection: PCR indices, ascending. pcr_digest, approved_policy, policy_ref: 32 bytes. approver_point: 65 bytes.
    signature_der: DER ECDSA P-256. label (a name for people) and reference (the approved state's PCR values and events,
    for explanations) are not covered by the approver's signature; within a trust bundle, by the bundle's. lease_point:
    the lease key of a leased approval (65 bytes), which its approved policy names; else empty.
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
    lease_point: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """JSON object: digests and points in lower-case hex, the signature in base64."""
        leased = {"lease_key": self.lease_point.hex()} if self.mode == policy.MODE_LEASED else {}
        return leased | {
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
        leased = isinstance(obj, dict) and obj.get("mode") == policy.MODE_LEASED
        fields = _LEASED_FIELDS if leased else _FIELDS
        if not isinstance(obj, dict) or set(obj) != fields:
            raise MalformedError(f"{what}: expected an object with the fields {', '.join(sorted(fields))}")
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
            lease_point=_hex(obj, "lease_key", P256_POINT_BYTES, what) if leased else b"",
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
    lease_point: bytes = b"",
    label: str = "",
    reference: Mapping[str, Any] | None = None,
) -> Approval:
    """Approve the state with these PCR values for one profile key; `lease_point` is the lease key of a leased one.

    MalformedError for another mode than standing and leased, a lease key where none belongs or none where one does, a
    bad epoch, an empty selection, or a selected PCR without a value. The caller must have verified that the values
    come from a quote and satisfy the profile.
    """
    unsigned = unsigned_approval(
        signer.point,
        policy.profile_ref(profile, epoch, cell, mode),
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
    return replace(unsigned, signature_der=signer.sign_digest(digest))


def unsigned_approval(
    signer_point: bytes,
    policy_ref: bytes,
    *,
    profile: str,
    epoch: int,
    cell: str,
    selection: Iterable[int],
    pcr_values: Mapping[int, bytes],
    mode: str,
    lease_point: bytes,
    label: str,
    reference: Mapping[str, Any] | None,
) -> Approval:
    """What `sign_approval` and `rule.sign_approval_by_rule` sign: an Approval whose signature is still empty."""
    chosen = _check_claims(mode, selection, lease_point)
    values_digest = pcr_digest(pcr_values, chosen)
    return Approval(
        profile=profile,
        epoch=epoch,
        cell=cell,
        mode=mode,
        selection=tuple(chosen),
        pcr_digest=values_digest,
        approved_policy=_approved((profile, epoch, cell), mode, lease_point, chosen, values_digest),
        policy_ref=policy_ref,
        approver_point=signer_point,
        signature_der=b"",
        label=label,
        reference=dict(reference or {}),
        lease_point=lease_point,
    )


def verify_approval(approval: Approval) -> None:
    """Return only if the approver at `approver_point` approved exactly this state for exactly this profile key.

    1. The policy reference is the one of profile, epoch, cell and mode.
    2. The approved policy is PolicyPCR over selection and PCR digest; in leased mode, after what `lease_point`
       authorizes for this profile key.
    3. The signature over both verifies.

    SignatureRefused naming the field that does not fit; MalformedError for values outside their ranges. The caller must
    still check that `approver_point` is the approver of this profile: its Name is in the profile key's authPolicy; and
    that `lease_point` is the authority's lease key.
    """
    ref = policy.profile_ref(approval.profile, approval.epoch, approval.cell, approval.mode)
    verify_approval_under(approval, ref, "approver")


def verify_approval_under(approval: Approval, ref: bytes, who: str) -> None:
    """`verify_approval` with the policy reference `ref`: R for the approver, RU for a rule key."""
    what = f"approval for profile {approval.profile!r} epoch {approval.epoch}"
    chosen = _check_claims(approval.mode, approval.selection, approval.lease_point)
    if approval.policy_ref != ref:  # 1
        raise SignatureRefused(f"{what}: policy reference is {approval.policy_ref.hex()}, expected {ref.hex()}")
    key = (approval.profile, approval.epoch, approval.cell)
    approved = _approved(key, approval.mode, approval.lease_point, chosen, approval.pcr_digest)
    if approval.approved_policy != approved:  # 2
        raise SignatureRefused(
            f"{what}: approved policy is {approval.approved_policy.hex()}, expected {approved.hex()}"
        )
    try:
        verify_digest(approval.approver_point, digest_to_sign(approved, ref), approval.signature_der)  # 3
    except SignatureRefused as error:
        raise SignatureRefused(f"{what}: signature of the {who} does not verify") from error


def _check_claims(mode: str, selection: Iterable[int], lease_point: bytes) -> PcrSelection:
    if mode not in (policy.MODE_STANDING, policy.MODE_LEASED):
        raise MalformedError(
            f"approval: mode {mode!r} is not supported by this version, expected 'standing' or 'leased'"
        )
    if (mode == policy.MODE_LEASED) != (len(lease_point) == P256_POINT_BYTES):
        raise MalformedError(f"approval: a lease key of {len(lease_point)} bytes does not go with mode {mode!r}")
    chosen = PcrSelection(selection)
    if not chosen:
        raise MalformedError("approval: the PCR selection is empty")
    return chosen


def _approved(
    key: tuple[str, int, str], mode: str, lease_point: bytes, selection: PcrSelection, values_digest: bytes
) -> bytes:
    """The policy that an approval in this mode approves. `key` is profile, epoch and cell."""
    if mode == policy.MODE_STANDING:
        return policy.approved_standing(selection, values_digest)
    lease_name = name_of(verifier_public(lease_point))
    return policy.approved_leased(lease_name, policy.lease_authorize_ref(*key), selection, values_digest)


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
