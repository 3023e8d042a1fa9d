"""Profile keys in a host's TPM: importing one, and the one thing it is for, an ECDH step in an approved state.

Commands and their order: docs/spec/tpm-policy-v1.md, "Using a profile key". The private key never leaves the TPM; what
comes back from `ecdh` is the X coordinate of the shared point, parameter-encrypted on its way to a session that is
salted to the SRK pinned at enrollment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sealvm.errors import StateRefused, TpmFault
from sealvm.statements.approval import Approval
from sealvm.statements.lease import LeaseKey
from sealvm.statements.rule import Delegation
from sealvm.tcg.duplicate import DuplicateBlob
from sealvm.tcg.pcr import pcr_digest
from sealvm.tcg.policy import MODE_LEASED, profile_ref
from sealvm.tpm import authorization, keys, leases, pcr, responses
from sealvm.tpm.authorization import Authorization, of_approval, of_delegation, ticket_for
from sealvm.tpm.connection import Tpm
from sealvm.tpm.identity import HostIdentityBlobs
from sealvm.tpm.leases import HeldLease, PreparedLease
from sealvm.tpm.structures import (
    ESYS_TR,
    TPM2_CC,
    ecc_point,
    encrypted_secret,
    no_symmetric,
    pcr_selection,
    private_area,
    public_area,
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
    delegations: Sequence[Delegation] = (),
    lease: HeldLease | None = None,
) -> bytes:
    """X coordinate (32 bytes) of the key's private scalar times `point`, if one of the approvals fits the state now.

    1. The SRK is the pinned one; else TpmFault or ConflictError.
    2. An approval for the PCR values as they are is picked; without one StateRefused. One by a rule key counts with the
       delegation to that key.
    3. The TPM verifies the signatures (hierarchy OWNER) and gives tickets; else SignatureRefused.
    4. The key is loaded under the import parent; else TpmFault.
    5. In a session salted to the SRK: for a leased key PolicySecret, PolicyCounterTimer, PolicyTicket and
       PolicyAuthorize of the lease; PolicyPCR; PolicyAuthorize, for an approval by rule twice; PolicyCommandCode;
       ECDH_ZGen. The TPM's no is StateRefused, with the field `lease` when the lease is what it refuses. When PCRs
       change in between, from 2 again, at most USE_TRIES times.

    Step 2 saves commands and gives no protection; the TPM refuses by itself in step 5. `point` is 65 bytes, and the
    caller has checked that it is on the curve.
    """
    srk = keys.pinned_srk(tpm, blobs.srk_public, pinned_srk_name)  # 1
    with loaded(tpm, blobs, key) as handle:  # 4
        for _attempt in range(USE_TRIES):
            approval = matching_approval(tpm, key, approvals)  # 2
            chain = [(word, ticket_for(tpm, word)) for word in authorizations(key, approval, delegations)]  # 3
            held = _prepared(tpm, key, approval, pinned_srk_name, lease)
            try:
                with tpm.policy_session(salt=srk) as session:  # 5
                    if held is not None:
                        _present(tpm, session, srk, key, held)
                    return _use(tpm, session, handle, approval, chain=chain, point=point)
            except _StateMoved:
                continue
            except TpmFault as fault:
                if not fault.fields.get("policy"):
                    raise
                if held is not None and fault.fields["code"] == responses.EXPIRED:
                    raise lease_refusal(key, "ended", "it is over") from fault
                raise refusal(key, f"the TPM refuses its use ({fault.fields['decoded']})") from fault
    raise refusal(key, f"PCRs were extended during each of {USE_TRIES} attempts to use it")


def authorizations(key: SealedKey, approval: Approval, delegations: Iterable[Delegation]) -> list[Authorization]:
    """Who authorizes after PolicyPCR, in order: the approver; or a rule key, and the approver who delegated to it.

    StateRefused when the approval is by a rule key that nobody delegated to.
    """
    if approval.policy_ref == profile_ref(key.profile, key.epoch, key.cell, key.mode):
        return [of_approval(approval)]
    own = (key.profile, key.epoch, key.cell, key.mode, approval.approver_point)
    for delegation in delegations:
        if (delegation.profile, delegation.epoch, delegation.cell, delegation.mode, delegation.rule_point) == own:
            return [of_approval(approval), of_delegation(delegation)]
    raise refusal(key, "its state is approved by a rule key to which the approver did not delegate")


def _prepared(
    tpm: Tpm, key: SealedKey, approval: Approval, srk_name: bytes, lease: HeldLease | None
) -> PreparedLease | None:
    """What a leased key needs beside its approval; None for a standing one. StateRefused without a lease."""
    if key.mode != MODE_LEASED:
        return None
    if lease is None:
        raise lease_refusal(key, "none", "this host has none")
    return leases.prepare(tpm, LeaseKey(key.profile, key.epoch, key.cell, srk_name, approval.lease_point), lease)


def _present(tpm: Tpm, session: Any, srk: Any, key: SealedKey, lease: PreparedLease) -> None:
    """The lease's part of the policy. StateRefused with the field `lease` when the TPM refuses it."""
    try:
        lease.present(tpm, session, srk)
    except TpmFault as fault:
        if not fault.fields.get("policy"):
            raise
        ended = fault.fields["code"] == responses.EXPIRED
        why = "it is over" if ended else f"the TPM refuses it ({fault.fields['decoded']})"
        raise lease_refusal(key, "ended" if ended else "refused", why) from fault


def _use(
    tpm: Tpm,
    session: Any,
    handle: Any,
    approval: Approval,
    *,
    chain: Sequence[tuple[Authorization, Any]],
    point: bytes,
) -> bytes:
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
        for word, ticket in chain:
            authorization.present(tpm, session, word, ticket)
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
    authorization.present(tpm, session, replace(of_approval(approval), approved=approved), ticket)


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
    return ticket_for(tpm, of_approval(approval), hierarchy)


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


def lease_refusal(key: SealedKey, lease: str, why: str) -> StateRefused:
    """StateRefused because of the lease: `lease` in its fields is `none`, `ended` or `refused`."""
    return StateRefused(
        f"the key of {key.what} cannot be used without a lease: {why}",
        hint="renew it, in an approved state and with the authority in reach, with: sealvm host lease renew",
        profile=key.profile,
        epoch=key.epoch,
        cell=key.cell,
        lease=lease,
    )


def _import_parent(tpm: Tpm, blobs: HostIdentityBlobs) -> Any:
    return keys.import_parent(tpm, blobs.import_parent_public, blobs.import_parent_private)
