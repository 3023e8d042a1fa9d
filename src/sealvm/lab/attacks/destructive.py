"""Attacks by the owner and the platform on their own hierarchies: each costs the TPM keys or settings, and opens none.

A lab host's TPM has no platform password, so its root is platform too; on silicon firmware sets one that nobody knows.
Each needs a TPM of its own: none is part of the suite that the demo runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sealvm.lab.attacks.duplication import rewrap
from sealvm.lab.attacks.sessions import make_twin
from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.tcg import policy
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.identity import provision
from sealvm.tpm.profile_key import approval_ticket, authorize, import_key, loaded
from sealvm.tpm.structures import ESYS_TR, TPM2_ALG, TPM2_CC, ecc_point, pcr_selection

_KNOWN = b"known"


def _clear(tpm: Tpm) -> None:
    tpm.run("clear", auth_handle=ESYS_TR.LOCKOUT, session1=ESYS_TR.PASSWORD)


def _load_after(destroy: Callable[[Tpm], Any]) -> Callable[[Tpm, AttackerView], None]:
    """The profile key's blob and the import parent's, loaded under the SRK made anew."""

    def run(tpm: Tpm, view: AttackerView) -> None:
        destroy(tpm)
        keys.ensure_srk(tpm)
        with loaded(tpm, view.blobs, view.key):
            pass

    return run


def _import_after_clear(tpm: Tpm, view: AttackerView) -> None:
    """The duplicate, imported under an import parent made anew."""
    _clear(tpm)
    import_key(tpm, provision(tpm), view.duplicate)


def _ticket_after_clear(tpm: Tpm, view: AttackerView) -> None:
    """An approval that fits, verified before TPM2_Clear."""
    approval = make_twin(tpm, view).approval
    ticket = approval_ticket(tpm, approval)
    _clear(tpm)
    with tpm.policy_session() as session:
        tpm.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=pcr_selection(approval.selection))
        authorize(tpm, session, approval.approved_policy, approval, ticket)


def _rewrap_by_owner(tpm: Tpm, view: AttackerView) -> None:
    """The owner's password is the attacker's: does the import parent, which lies in his hierarchy, obey?"""
    tpm.run("hierarchy_change_auth", auth_handle=ESYS_TR.OWNER, new_auth=_KNOWN, session1=ESYS_TR.PASSWORD)
    with keys.import_parent(tpm, view.blobs.import_parent_public, view.blobs.import_parent_private) as parent:
        rewrap(tpm, view, parent, ESYS_TR.PASSWORD)


def _use_by_hierarchy_policy(tpm: Tpm, view: AttackerView) -> None:
    """The owner hierarchy's policy is PolicyCommandCode(ECDH_ZGen): does a key in that hierarchy obey?"""
    tpm.run(
        "set_primary_policy",
        auth_handle=ESYS_TR.OWNER,
        auth_policy=policy.cmd(policy.ZERO, int(TPM2_CC.ECDH_ZGen)),
        hash_alg=TPM2_ALG.SHA256,
        session1=ESYS_TR.PASSWORD,
    )
    with loaded(tpm, view.blobs, view.key) as handle, tpm.policy_session() as session:
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


DESTRUCTIVE_ATTACKS: tuple[Attack, ...] = (
    Attack(
        "clear-load",
        "TPM2_Clear, then the blobs of before loaded under the SRK made anew",
        _load_after(_clear),
        "load",
        {"INTEGRITY"},
    ),
    Attack(
        "clear-import",
        "TPM2_Clear, then the duplicate imported under an import parent made anew",
        _import_after_clear,
        "import_",
        {"INTEGRITY"},
    ),
    Attack(
        "clear-ticket",
        "TPM2_Clear, then an approval's ticket of before",
        _ticket_after_clear,
        "policy_authorize",
        {"VALUE", "TICKET"},
    ),
    Attack(
        "owner-password-rewrap",
        "TPM2_HierarchyChangeAuth of the owner, then TPM2_Rewrap with the import parent",
        _rewrap_by_owner,
        "rewrap",
        {"AUTH_UNAVAILABLE"},
    ),
    Attack(
        "owner-policy-use",
        "TPM2_SetPrimaryPolicy of the owner hierarchy, then the profile key used by that policy",
        _use_by_hierarchy_policy,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
)
