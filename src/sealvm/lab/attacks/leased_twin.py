"""A leased key of the attacker's own making, and the steps that attacks on leases are made of.

Its policy is that of a leased profile key, imported under the host's own import parent; its approver and its lease key
are the attacker's, who signs with them what an approver and an authority would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sealvm.crypto.ec import SoftwareSigner
from sealvm.lab.attacks.view import AttackerView
from sealvm.statements.approval import Approval, sign_approval
from sealvm.statements.lease import LeaseKey, sign_lease
from sealvm.tcg import policy, templates
from sealvm.tcg.duplicate import duplicate
from sealvm.tcg.public import name_of
from sealvm.tpm import authorization, leases, pcr, profile_key
from sealvm.tpm.connection import Tpm
from sealvm.tpm.leases import HeldLease
from sealvm.tpm.profile_key import SealedKey, approval_ticket, import_key, loaded
from sealvm.tpm.structures import TPM2_CC, ecc_point, pcr_selection, signature_area

LONG_SECONDS = 3600
PROFILE = "leased-twin"


@dataclass(frozen=True, slots=True)
class LeasedTwin:
    """A leased key, and those who sign for it."""

    key: SealedKey
    approver: SoftwareSigner
    lease_signer: SoftwareSigner
    approval: Approval
    lease_key: LeaseKey

    def lease(self, tpm: Tpm, seconds: int = LONG_SECONDS) -> HeldLease:
        """A genuine lease of this host."""
        session = leases.begin(tpm)
        signed = sign_lease(
            self.lease_signer,
            self.lease_key,
            reset_count=session.reset_count,
            nonce_tpm=session.nonce_tpm,
            seconds=seconds,
        )
        return leases.finish(tpm, session, self.lease_key, signed)


def make_leased_twin(tpm: Tpm, view: AttackerView) -> LeasedTwin:
    """Import a leased twin, and approve the present state for it."""
    approver, lease_signer, private = (SoftwareSigner.generate() for _each in range(3))
    reference = policy.profile_ref(PROFILE, 1, "", policy.MODE_LEASED)
    approver_name = name_of(templates.verifier_public(approver.point))
    public = templates.profile_key_public(private.point, policy.profile_key_policy(approver_name, reference))
    blob = import_key(tpm, view.blobs, duplicate(private.scalar(), public, view.blobs.import_parent_public))
    selection = view.approval_of_another_state().selection
    approval = sign_approval(
        approver,
        profile=PROFILE,
        epoch=1,
        cell="",
        selection=selection,
        pcr_values=pcr.read(tpm, selection),
        mode=policy.MODE_LEASED,
        lease_point=lease_signer.point,
    )
    return LeasedTwin(
        SealedKey(PROFILE, 1, "", policy.MODE_LEASED, public, blob),
        approver,
        lease_signer,
        approval,
        LeaseKey(PROFILE, 1, "", view.blobs.srk_name, lease_signer.point),
    )


def honest_lease(tpm: Tpm, view: AttackerView) -> None:
    """The control: the twin used with its lease. Raises what `profile_key.ecdh` raises if that fails."""
    twin = make_leased_twin(tpm, view)
    lease = twin.lease(tpm)
    srk_name = view.blobs.srk_name
    profile_key.ecdh(tpm, view.blobs, srk_name, twin.key, [twin.approval], point=view.wrap_point, lease=lease)


@contextmanager
def twin_session(tpm: Tpm, view: AttackerView) -> Iterator[tuple[LeasedTwin, Any, Any]]:
    """A leased twin, loaded, and a policy session: (twin, handle, session)."""
    twin = make_leased_twin(tpm, view)
    with loaded(tpm, view.blobs, twin.key) as handle, tpm.policy_session() as session:
        yield twin, handle, session


def assert_state(tpm: Tpm, twin: LeasedTwin, session: Any, approval: Approval | None = None) -> None:
    """PolicyPCR, PolicyAuthorize by the approver, PolicyCommandCode: what follows the lease in an honest use."""
    word = approval or twin.approval
    ticket = approval_ticket(tpm, word)
    tpm.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=pcr_selection(word.selection))
    profile_key.authorize(tpm, session, word.approved_policy, word, ticket)
    tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)


def zgen(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    """TPM2_ECDH_ZGen with the loaded twin."""
    tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


def policy_signed(
    tpm: Tpm, session: Any, twin: LeasedTwin, grant: bytes, *, nonce: bytes, expiration: int, ref: bytes
) -> tuple[Any, Any]:
    """TPM2_PolicySigned by the lease key: timeout and ticket."""
    with authorization.signer_key(tpm, twin.lease_signer.point, "lease key") as signer:
        timeout, ticket = tpm.run(
            "policy_signed",
            auth_object=signer,
            policy_session=session,
            auth=signature_area(grant),
            nonce_tpm=nonce,
            cp_hash_a=b"",
            policy_ref=ref,
            expiration=expiration,
        )
    return timeout, ticket


def present_word(tpm: Tpm, session: Any, twin: LeasedTwin, signed: tuple[bytes, bytes], signature: bytes) -> None:
    """PolicyAuthorize by the lease key, of a policy digest and reference (`signed`) of any size that it signed."""
    approved, ref = signed
    with authorization.signer_key(tpm, twin.lease_signer.point, "lease key") as signer:
        ticket = tpm.run(
            "verify_signature",
            key_handle=signer,
            digest=hashlib.sha256(approved + ref).digest(),
            signature=signature_area(signature),
        )
    name = twin.lease_key.lease_name
    tpm.run(
        "policy_authorize",
        policy_session=session,
        approved_policy=approved,
        policy_ref=ref,
        key_sign=name,
        check_ticket=ticket,
    )
