"""What an approved host could lend: its policy session and its ticket, carried to a host that is not approved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sealvm.lab.attacks.sessions import make_twin
from sealvm.lab.attacks.view import Attack, AttackerView, AttackResult, attempt
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.profile_key import approval_ticket, authorize, loaded
from sealvm.tpm.structures import TPM2_CC, ecc_point, pcr_selection


@contextmanager
def _saved_session(lender: Tpm, view: AttackerView) -> Iterator[Any]:
    """The context of a session on the lender in which everything that the wanted key's policy wants was done."""
    approval = view.approval_of_another_state()
    ticket = approval_ticket(lender, approval)
    with lender.policy_session() as session:
        lender.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=pcr_selection(approval.selection))
        authorize(lender, session, approval.approved_policy, approval, ticket)
        lender.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        context = lender.run("context_save", save_handle=session)
    try:
        yield context
    finally:
        lender.flush(lender.run("context_load", context=context))


def run_borrowed_attacks(view: AttackerView, lender_tcti: str, lender_lock: Path | None = None) -> list[AttackResult]:
    """Run them from the view of an unapproved host, with the TPM of a host whose state is approved as the lender.

    Raises TpmFault when the lender's own state is not approved, as there is nothing to borrow then.
    """
    with open_tpm(lender_tcti, lender_lock) as lender, open_tpm(view.tcti, view.lock) as tpm:

        def session(tpm: Tpm, view: AttackerView) -> None:
            with _saved_session(lender, view) as context:
                tpm.flush(tpm.run("context_load", context=context))

        def ticket(tpm: Tpm, view: AttackerView) -> None:
            twin = make_twin(tpm, view)
            borrowed = approval_ticket(lender, twin.approval)
            selection = pcr_selection(twin.approval.selection)
            with loaded(tpm, view.blobs, twin.key) as handle, tpm.policy_session() as own:
                tpm.run("policy_pcr", policy_session=own, pcr_digest=b"", pcrs=selection)
                authorize(tpm, own, twin.approval.approved_policy, twin.approval, borrowed)
                tpm.run("policy_command_code", policy_session=own, code=TPM2_CC.ECDH_ZGen)
                tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=own)

        attacks = (
            Attack(
                "session-of-another-host",
                "the saved policy session of an approved host, loaded here",
                session,
                "context_load",
                {"INTEGRITY"},
            ),
            Attack(
                "ticket-of-another-host",
                "an approval verified by another host's TPM, its ticket presented here",
                ticket,
                "policy_authorize",
                {"VALUE", "TICKET"},
            ),
        )
        return [attempt(attack, tpm, view) for attack in attacks]
