"""Attacks that use the loaded profile key with approvals that are not for this state and this key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sealvm.crypto.ec import SoftwareSigner
from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.statements.approval import Approval, sign_approval
from sealvm.tpm import keys, pcr
from sealvm.tpm.connection import Tpm
from sealvm.tpm.profile_key import approval_ticket, authorize, loaded
from sealvm.tpm.structures import ESYS_TR, TPM2_CC, TPM2_RH, TPM2_SE, ecc_point, pcr_selection, verified_ticket


def _use(tpm: Tpm, view: AttackerView, approval: Approval, ticket: Any, *, claimed_digest: bytes = b"") -> None:
    """The honest order of commands, with the attacker's approval and ticket. Empty digest: PCRs as they are."""
    srk = keys.srk(tpm)
    with loaded(tpm, view.blobs, view.key) as handle, tpm.policy_session(salt=srk) as session:
        tpm.run("policy_pcr", policy_session=session, pcr_digest=claimed_digest, pcrs=pcr_selection(approval.selection))
        authorize(tpm, session, approval.approved_policy, approval, ticket)
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


def _other_state(tpm: Tpm, view: AttackerView) -> None:
    approval = view.approval_of_another_state()
    _use(tpm, view, approval, approval_ticket(tpm, approval))


def _claimed_pcrs(tpm: Tpm, view: AttackerView) -> None:
    approval = view.approval_of_another_state()
    _use(tpm, view, approval, approval_ticket(tpm, approval), claimed_digest=approval.pcr_digest)


def _no_pcrs(tpm: Tpm, view: AttackerView) -> None:
    """PolicyAuthorize without PolicyPCR before it."""
    approval = view.approval_of_another_state()
    ticket = approval_ticket(tpm, approval)
    with tpm.policy_session() as session:
        authorize(tpm, session, approval.approved_policy, approval, ticket)


def _other_profile(tpm: Tpm, view: AttackerView) -> None:
    approval = view.approval_of_another_profile()
    _use(tpm, view, approval, approval_ticket(tpm, approval))


def _other_epoch(tpm: Tpm, view: AttackerView) -> None:
    approval = view.approval_of_another_epoch()
    _use(tpm, view, approval, approval_ticket(tpm, approval))


def _relabelled(tpm: Tpm, view: AttackerView) -> None:
    """The other profile's approval and ticket, with the reference of the wanted key."""
    wanted, other = view.approval_of_another_state(), view.approval_of_another_profile()
    _use(tpm, view, replace(other, policy_ref=wanted.policy_ref), approval_ticket(tpm, other))


def _own_approval(tpm: Tpm, view: AttackerView) -> Approval:
    """This host's state approved for the wanted key, by a key of the attacker's."""
    key, selection = view.key, view.approval_of_another_state().selection
    values = pcr.read(tpm, selection)
    signer = SoftwareSigner.generate()
    return sign_approval(
        signer, profile=key.profile, epoch=key.epoch, cell=key.cell, selection=selection, pcr_values=values
    )


def _other_approver(tpm: Tpm, view: AttackerView) -> None:
    approval = _own_approval(tpm, view)
    _use(tpm, view, approval, approval_ticket(tpm, approval))


def _other_approver_renamed(tpm: Tpm, view: AttackerView) -> None:
    """The attacker's ticket, presented as the genuine approver's."""
    own, genuine = _own_approval(tpm, view), view.approval_of_another_state()
    _use(tpm, view, replace(own, approver_point=genuine.approver_point), approval_ticket(tpm, own))


def _forged_signature(tpm: Tpm, view: AttackerView) -> None:
    """The attacker's signature given to TPM2_VerifySignature with the genuine approver's key."""
    own, genuine = _own_approval(tpm, view), view.approval_of_another_state()
    forged = replace(own, approver_point=genuine.approver_point)
    _use(tpm, view, forged, approval_ticket(tpm, forged))


def _zero_ticket(tpm: Tpm, view: AttackerView) -> None:
    approval = view.approval_of_another_state()
    approved = _own_approval(tpm, view).approved_policy
    _use(tpm, view, replace(approval, approved_policy=approved), verified_ticket(TPM2_RH.OWNER, bytes(32)))


def _null_ticket(tpm: Tpm, view: AttackerView) -> None:
    approval = view.approval_of_another_state()
    approved = _own_approval(tpm, view).approved_policy
    _use(tpm, view, replace(approval, approved_policy=approved), verified_ticket(TPM2_RH.NULL, b""))


def _transplanted_ticket(tpm: Tpm, view: AttackerView) -> None:
    """The genuine ticket of the approved state, with this host's policy in its place."""
    approval = view.approval_of_another_state()
    own = _own_approval(tpm, view)
    ticket = approval_ticket(tpm, approval)
    _use(tpm, view, replace(approval, approved_policy=own.approved_policy), ticket)


def _password(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, view.blobs, view.key) as handle:
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=ESYS_TR.PASSWORD)


def _hmac_session(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, view.blobs, view.key) as handle, tpm.policy_session(kind=TPM2_SE.HMAC) as session:
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


def _empty_session(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, view.blobs, view.key) as handle, tpm.policy_session() as session:
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


def _change_auth(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, view.blobs, view.key) as handle, _parent(tpm, view) as parent:
        tpm.run(
            "object_change_auth",
            object_handle=handle,
            parent_handle=parent,
            new_auth=b"known",
            session1=ESYS_TR.PASSWORD,
        )


def _parent(tpm: Tpm, view: AttackerView) -> Any:
    return keys.import_parent(tpm, view.blobs.import_parent_public, view.blobs.import_parent_private)


ATTACKS = (
    Attack(
        "approval-of-another-state",
        "ECDH_ZGen with the genuine approval of another state, PCRs as they are",
        _other_state,
        "policy_authorize",
        {"VALUE"},
    ),
    Attack(
        "claimed-pcrs",
        "PolicyPCR with the digest of the approved state instead of the present one",
        _claimed_pcrs,
        "policy_pcr",
        {"VALUE"},
    ),
    Attack(
        "approval-without-pcrs",
        "PolicyAuthorize of the approved state without PolicyPCR before it",
        _no_pcrs,
        "policy_authorize",
        {"VALUE"},
    ),
    Attack(
        "approval-of-another-profile",
        "ECDH_ZGen with the genuine approval of this state for another profile",
        _other_profile,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "approval-of-another-epoch",
        "ECDH_ZGen with the genuine approval of this state for another epoch",
        _other_epoch,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "relabelled-approval",
        "another profile's approval of this state, presented under the wanted key's reference",
        _relabelled,
        "policy_authorize",
        {"VALUE", "TICKET"},
    ),
    Attack(
        "approval-by-another-key",
        "this state approved for the wanted key by a key of the attacker's",
        _other_approver,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "renamed-approver",
        "the attacker's approval and ticket, presented under the approver's Name",
        _other_approver_renamed,
        "policy_authorize",
        {"VALUE", "TICKET"},
    ),
    Attack(
        "forged-signature",
        "TPM2_VerifySignature of the attacker's signature with the approver's key",
        _forged_signature,
        "verify_signature",
        {"SIGNATURE"},
    ),
    Attack(
        "zero-ticket",
        "PolicyAuthorize of this state with a ticket of zeroes",
        _zero_ticket,
        "policy_authorize",
        {"VALUE", "TICKET"},
    ),
    Attack(
        "null-ticket",
        "PolicyAuthorize of this state with the empty ticket of the NULL hierarchy",
        _null_ticket,
        "policy_authorize",
        {"VALUE", "TICKET", "HIERARCHY"},
    ),
    Attack(
        "transplanted-ticket",
        "the genuine ticket of the approved state, presented for this state",
        _transplanted_ticket,
        "policy_authorize",
        {"VALUE", "TICKET"},
    ),
    Attack(
        "password-session",
        "ECDH_ZGen with the empty password",
        _password,
        "ecdh_zgen",
        {"AUTH_UNAVAILABLE", "AUTH_TYPE"},
    ),
    Attack(
        "hmac-session",
        "ECDH_ZGen in an HMAC session with the empty password",
        _hmac_session,
        "ecdh_zgen",
        {"AUTH_UNAVAILABLE", "AUTH_TYPE"},
    ),
    Attack(
        "empty-session",
        "ECDH_ZGen in a policy session in which nothing was asserted",
        _empty_session,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "object-change-auth",
        "TPM2_ObjectChangeAuth, to give the key a password",
        _change_auth,
        "object_change_auth",
        {"AUTH_UNAVAILABLE", "AUTH_TYPE"},
    ),
)
