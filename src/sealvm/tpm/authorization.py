"""TPM2_PolicyAuthorize: a policy that a key signed, verified by the TPM once and presented in a session.

Approvals, delegations to a rule key and lease authorizations are all of this form. Specification:
docs/spec/tpm-policy-v1.md, "Using a profile key".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sealvm.errors import SignatureRefused, TpmFault
from sealvm.statements.approval import Approval, digest_to_sign
from sealvm.statements.rule import Delegation
from sealvm.tcg import templates
from sealvm.tcg.public import name_of
from sealvm.tpm import responses
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import ESYS_TR, public_area, signature_area


@dataclass(frozen=True, slots=True)
class Authorization:
    """`point` signed, DER, that the policy digest `approved` is good under `policy_ref`; `what` says it for people."""

    approved: bytes
    policy_ref: bytes
    point: bytes
    signature_der: bytes
    what: str
    hint: str = ""


def of_approval(approval: Approval) -> Authorization:
    """The approver's word, or a rule key's."""
    return Authorization(
        approval.approved_policy,
        approval.policy_ref,
        approval.approver_point,
        approval.signature_der,
        f"approval for profile '{approval.profile}' epoch {approval.epoch}",
        "fetch the trust bundle again with: sealvm host sync",
    )


def of_delegation(delegation: Delegation) -> Authorization:
    """The approver's word for a rule key."""
    return Authorization(
        delegation.approved_policy,
        delegation.policy_ref,
        delegation.approver_point,
        delegation.signature,
        f"delegation of profile '{delegation.profile}' epoch {delegation.epoch}",
        "fetch the trust bundle again with: sealvm host sync",
    )


@contextmanager
def signer_key(tpm: Tpm, point: bytes, what: str, hierarchy: Any = ESYS_TR.OWNER) -> Iterator[Any]:
    """A signer's public key, loaded for the length of a block. In the NULL hierarchy the tickets it makes are empty."""
    handle = tpm.run(
        "load_external",
        f"loading the public key of the {what}",
        in_public=public_area(templates.verifier_public(point), what),
        hierarchy=hierarchy,
    )
    with tpm.flushing(handle):
        yield handle


def ticket_for(tpm: Tpm, authorization: Authorization, hierarchy: Any = ESYS_TR.OWNER) -> Any:
    """TPM2_VerifySignature: the ticket that PolicyAuthorize wants, good until TPM2_Clear.

    SignatureRefused when the signature does not verify.
    """
    with signer_key(tpm, authorization.point, "signer", hierarchy) as handle:
        try:
            return tpm.run(
                "verify_signature",
                f"verifying the {authorization.what}",
                key_handle=handle,
                digest=digest_to_sign(authorization.approved, authorization.policy_ref),
                signature=signature_area(authorization.signature_der),
            )
        except TpmFault as fault:
            if fault.fields.get("code") == responses.SIGNATURE:
                raise SignatureRefused(
                    f"{authorization.what}: its signature does not verify",
                    hint=authorization.hint,
                    decoded=fault.fields["decoded"],
                ) from fault
            raise


def present(tpm: Tpm, session: Any, authorization: Authorization, ticket: Any) -> None:
    """TPM2_PolicyAuthorize. A TpmFault with `policy` when the session has not reached what was approved."""
    tpm.run(
        "policy_authorize",
        f"presenting the {authorization.what}",
        policy_session=session,
        approved_policy=authorization.approved,
        policy_ref=authorization.policy_ref,
        key_sign=name_of(templates.verifier_public(authorization.point)),
        check_ticket=ticket,
    )
