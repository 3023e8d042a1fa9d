"""Profile keys in a host's TPM: importing one, and the one thing it is for, an ECDH step in an approved state.

Commands and their order: docs/spec/tpm-policy-v1.md, "Using a profile key". The private key never leaves the TPM; what
comes back from `ecdh` is the X coordinate of the shared point, parameter-encrypted on its way to a session that is
salted to the SRK pinned at enrollment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sealvm.errors import SignatureRefused, StateRefused, TpmFault
from sealvm.statements.approval import Approval, digest_to_sign
from sealvm.tcg import templates
from sealvm.tcg.duplicate import DuplicateBlob
from sealvm.tcg.pcr import pcr_digest
from sealvm.tcg.public import name_of
from sealvm.tpm import keys, pcr, responses
from sealvm.tpm.connection import Tpm
from sealvm.tpm.identity import HostIdentityBlobs
from sealvm.tpm.structures import (
    ESYS_TR,
    TPM2_CC,
    ecc_point,
    encrypted_secret,
    no_symmetric,
    pcr_selection,
    private_area,
    public_area,
    signature_area,
)

USE_TRIES = 5
"""How often a use begins again because a PCR, also one outside the selection, was extended meanwhile."""
COORDINATE_BYTES = 32


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A profile key as a host keeps it: what it is for, TPMT_PUBLIC, and the blob only this host's TPM can load."""

    profile: str
    epoch: int
    cell: str
    mode: str
    public: bytes
    private: bytes

    @property
    def what(self) -> str:
        """For messages: profile, epoch and, where there is one, cell."""
        return f"profile '{self.profile}' epoch {self.epoch}" + (f" cell '{self.cell}'" if self.cell else "")


class _StateMoved(Exception):  # noqa: N818 (a signal inside this module, never an error)
    """A PCR was extended between reading and use."""


def import_key(tpm: Tpm, blobs: HostIdentityBlobs, duplicate: DuplicateBlob) -> bytes:
    """TPM2_Import of a profile key duplicated to this host's import parent: its blob (TPM2B_PRIVATE contents).

    The blob loads under this TPM's import parent alone. Raises TpmFault when the duplicate is for another parent or
    was altered. The caller must still check that the public area is the one it expects.
    """
    with _import_parent(tpm, blobs) as parent, keys.import_parent_session(tpm, TPM2_CC.Import) as session:
        private = tpm.run(
            "import_",
            "importing a profile key",
            parent_handle=parent,
            encryption_key=b"",
            object_public=public_area(duplicate.public, "profile key"),
            duplicate=private_area(duplicate.duplicate),
            in_sym_seed=encrypted_secret(duplicate.in_sym_seed),
            symmetric_alg=no_symmetric(),
            session1=session,
        )
    return bytes(private.buffer)


def ecdh(
    tpm: Tpm,
    blobs: HostIdentityBlobs,
    pinned_srk_name: bytes,
    key: SealedKey,
    approvals: Sequence[Approval],
    *,
    point: bytes,
) -> bytes:
    """X coordinate (32 bytes) of the key's private scalar times `point`, if one of the approvals fits the state now.

    1. The SRK is the pinned one; else TpmFault or ConflictError.
    2. An approval for the PCR values as they are is picked; without one StateRefused.
    3. The TPM verifies the approver's signature (hierarchy OWNER) and gives a ticket; else SignatureRefused.
    4. The key is loaded under the import parent; else TpmFault.
    5. In a session salted to the SRK: PolicyPCR, PolicyAuthorize, PolicyCommandCode, ECDH_ZGen; the TPM's no is
       StateRefused. When PCRs change in between, from 2 again, at most USE_TRIES times.

    Step 2 saves commands and gives no protection; the TPM refuses by itself in step 5. `point` is 65 bytes, and the
    caller has checked that it is on the curve.
    """
    srk = keys.pinned_srk(tpm, blobs.srk_public, pinned_srk_name)  # 1
    with loaded(tpm, blobs, key) as handle:  # 4
        for _attempt in range(USE_TRIES):
            approval = matching_approval(tpm, key, approvals)  # 2
            ticket = approval_ticket(tpm, approval)  # 3
            try:
                with tpm.policy_session(salt=srk) as session:
                    return _use(tpm, session, handle, approval, ticket=ticket, point=point)  # 5
            except _StateMoved:
                continue
            except TpmFault as fault:
                if not fault.fields.get("policy"):
                    raise
                raise refusal(key, f"the TPM refuses its use ({fault.fields['decoded']})") from fault
    raise refusal(key, f"PCRs were extended during each of {USE_TRIES} attempts to use it")


def _use(tpm: Tpm, session: Any, handle: Any, approval: Approval, *, ticket: Any, point: bytes) -> bytes:
    """PolicyPCR to ECDH_ZGen without pause. Raises _StateMoved when a PCR changed since the approval was picked."""
    try:
        tpm.run(
            "policy_pcr",
            "binding a session to PCRs",
            policy_session=session,
            pcr_digest=approval.pcr_digest,
            pcrs=pcr_selection(approval.selection),
        )
    except TpmFault as fault:
        if fault.fields.get("code") == responses.VALUE:
            raise _StateMoved from fault
        raise
    try:
        authorize(tpm, session, approval.approved_policy, approval, ticket)
        tpm.run("policy_command_code", "limiting a session", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        shared = tpm.run(
            "ecdh_zgen", "using the profile key", key_handle=handle, in_point=ecc_point(point), session1=session
        )
    except TpmFault as fault:
        if fault.fields.get("code") == responses.PCR_CHANGED:
            raise _StateMoved from fault
        raise
    return bytes(shared.point.x).rjust(COORDINATE_BYTES, b"\0")


def authorize(tpm: Tpm, session: Any, approved: bytes, approval: Approval, ticket: Any) -> None:
    """TPM2_PolicyAuthorize by the approver of `approval` under its policyRef, for the digest `approved`."""
    tpm.run(
        "policy_authorize",
        "presenting an approval",
        policy_session=session,
        approved_policy=approved,
        policy_ref=approval.policy_ref,
        key_sign=name_of(templates.verifier_public(approval.approver_point)),
        check_ticket=ticket,
    )


def matching_approval(tpm: Tpm, key: SealedKey, approvals: Iterable[Approval]) -> Approval:
    """The first approval for this key whose PCR digest is the TPM's present one. StateRefused if there is none."""
    own = [
        approval
        for approval in approvals
        if (approval.profile, approval.epoch, approval.cell, approval.mode)
        == (key.profile, key.epoch, key.cell, key.mode)
    ]
    values = pcr.read(tpm, frozenset().union(*(approval.selection for approval in own))) if own else {}
    for approval in own:
        if pcr_digest(values, approval.selection) == approval.pcr_digest:
            return approval
    raise refusal(key, "it is none of the approved ones" if own else "no state is approved for it")


def approval_ticket(tpm: Tpm, approval: Approval, hierarchy: Any = ESYS_TR.OWNER) -> Any:
    """TPM2_VerifySignature of the approval: the ticket that PolicyAuthorize wants, good until TPM2_Clear.

    SignatureRefused when the approver's signature does not verify. In the NULL hierarchy tickets are empty.
    """
    handle = tpm.run(
        "load_external",
        "loading the approver's public key",
        in_public=public_area(templates.verifier_public(approval.approver_point), "approver key"),
        hierarchy=hierarchy,
    )
    with tpm.flushing(handle):
        try:
            return tpm.run(
                "verify_signature",
                "verifying an approval",
                key_handle=handle,
                digest=digest_to_sign(approval.approved_policy, approval.policy_ref),
                signature=signature_area(approval.signature_der),
            )
        except TpmFault as fault:
            if fault.fields.get("code") == responses.SIGNATURE:
                raise SignatureRefused(
                    f"approval for profile '{approval.profile}' epoch {approval.epoch}: its signature does not verify",
                    hint="fetch the trust bundle again with: sealvm host sync",
                    decoded=fault.fields["decoded"],
                ) from fault
            raise


@contextmanager
def loaded(tpm: Tpm, blobs: HostIdentityBlobs, key: SealedKey) -> Iterator[Any]:
    """The profile key loaded under the import parent for the length of a block. TpmFault if it is not this TPM's."""
    with _import_parent(tpm, blobs) as parent, keys.import_parent_session(tpm, TPM2_CC.Load) as session:
        handle = tpm.run(
            "load",
            f"loading the key of {key.what}",
            parent_handle=parent,
            in_private=private_area(key.private),
            in_public=public_area(key.public, "profile key"),
            session1=session,
        )
    with tpm.flushing(handle):
        yield handle


def refusal(key: SealedKey, why: str) -> StateRefused:
    """StateRefused that names the profile; what differs, `host explain` says."""
    return StateRefused(
        f"the key of {key.what} cannot be used in this host's state: {why}",
        hint="see what differs with: sealvm host explain",
        profile=key.profile,
        epoch=key.epoch,
        cell=key.cell,
    )


def _import_parent(tpm: Tpm, blobs: HostIdentityBlobs) -> Any:
    return keys.import_parent(tpm, blobs.import_parent_public, blobs.import_parent_private)
