"""Attacks that have the right approval and use it in the wrong way: what the policy holds even on an approved host.

Root of an unapproved host never gets that far with the wanted key. So these run on a *twin*: a key of the attacker's
own making, imported under the same import parent, whose policy is of the same make and whose approver he owns. That the
twin's honest use works is checked first; what is refused after that is refused for the one thing done wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sealvm.crypto.ec import SoftwareSigner
from sealvm.lab.attacks.duplication import duplicate_to_software
from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.statements.approval import Approval, sign_approval
from sealvm.tcg import policy, templates
from sealvm.tcg.duplicate import duplicate
from sealvm.tcg.public import name_of
from sealvm.tpm import keys, pcr, profile_key
from sealvm.tpm.connection import Tpm
from sealvm.tpm.profile_key import SealedKey, approval_ticket, authorize, import_key, loaded
from sealvm.tpm.structures import ESYS_TR, TPM2_CC, TPM2_SE, ecc_point, pcr_selection

EXTENDED_PCR = 10
"""What `pcr-extended` extends: a PCR that no firmware event and no quote of an enrollment touches."""
_PROFILE = "twin"


@dataclass(frozen=True, slots=True)
class Twin:
    """A key like the wanted one, with an approval that fits this host's state."""

    key: SealedKey
    approval: Approval


def make_twin(tpm: Tpm, view: AttackerView) -> Twin:
    """Import a twin whose approver is the attacker, and approve the present state for it."""
    approver, private = SoftwareSigner.generate(), SoftwareSigner.generate()
    reference = policy.profile_ref(_PROFILE, 1, "", policy.MODE_STANDING)
    approver_name = name_of(templates.verifier_public(approver.point))
    public = templates.profile_key_public(private.point, policy.profile_key_policy(approver_name, reference))
    blob = import_key(tpm, view.blobs, duplicate(private.scalar(), public, view.blobs.import_parent_public))
    selection = view.approval_of_another_state().selection
    values = pcr.read(tpm, selection)
    approval = sign_approval(approver, profile=_PROFILE, epoch=1, cell="", selection=selection, pcr_values=values)
    return Twin(SealedKey(_PROFILE, 1, "", policy.MODE_STANDING, public, blob), approval)


def honest_use(tpm: Tpm, view: AttackerView) -> None:
    """The control: the twin used as a host uses its key. Raises what `profile_key.ecdh` raises if that fails."""
    twin = make_twin(tpm, view)
    profile_key.ecdh(tpm, view.blobs, view.blobs.srk_name, twin.key, [twin.approval], point=view.wrap_point)


@contextmanager
def approved(
    tpm: Tpm, view: AttackerView, *, hierarchy: Any = ESYS_TR.OWNER, kind: Any = TPM2_SE.POLICY
) -> Iterator[Any]:
    """The twin loaded, and a session in which PolicyPCR and PolicyAuthorize have been done: (handle, session)."""
    twin = make_twin(tpm, view)
    ticket = approval_ticket(tpm, twin.approval, hierarchy)
    with loaded(tpm, view.blobs, twin.key) as handle, tpm.policy_session(kind=kind) as session:
        tpm.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=pcr_selection(twin.approval.selection))
        authorize(tpm, session, twin.approval.approved_policy, twin.approval, ticket)
        yield handle, session


def limit(tpm: Tpm, session: Any, code: Any) -> None:
    """PolicyCommandCode: with ECDH_ZGen, the honest end of an approved session."""
    tpm.run("policy_command_code", policy_session=session, code=code)


def _zgen(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


def _no_command_code(tpm: Tpm, view: AttackerView) -> None:
    with approved(tpm, view) as (handle, session):
        _zgen(tpm, view, handle, session)


def _other_command_code(tpm: Tpm, view: AttackerView) -> None:
    with approved(tpm, view) as (handle, session):
        limit(tpm, session, TPM2_CC.Duplicate)
        duplicate_to_software(tpm, handle, session)


def _honest_session_for(use: Callable[[Tpm, AttackerView, Any, Any], None]) -> Callable[[Tpm, AttackerView], None]:
    """An attack that does `use` in a session that is good for ECDH_ZGen."""

    def run(tpm: Tpm, view: AttackerView) -> None:
        with approved(tpm, view) as (handle, session):
            limit(tpm, session, TPM2_CC.ECDH_ZGen)
            use(tpm, view, handle, session)

    return run


def _duplicating(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
    duplicate_to_software(tpm, handle, session)


def _changing_auth(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    with keys.import_parent(tpm, view.blobs.import_parent_public, view.blobs.import_parent_private) as parent:
        tpm.run("object_change_auth", object_handle=handle, parent_handle=parent, new_auth=b"known", session1=session)


def _after_extending(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    pcr.extend(tpm, EXTENDED_PCR, bytes(31) + b"\x01")
    _zgen(tpm, view, handle, session)


def _used_twice(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    """One authorization used again: after a use the session is at its beginning."""
    _zgen(tpm, view, handle, session)
    _zgen(tpm, view, handle, session)


def _on_the_wanted_key(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    """The twin's approved session, used on the wanted key."""
    tpm.flush(handle)
    with loaded(tpm, view.blobs, view.key) as wanted:
        _zgen(tpm, view, wanted, session)


def _null_hierarchy(tpm: Tpm, view: AttackerView) -> None:
    with approved(tpm, view, hierarchy=ESYS_TR.NULL) as (handle, session):
        limit(tpm, session, TPM2_CC.ECDH_ZGen)
        _zgen(tpm, view, handle, session)


def _trial(tpm: Tpm, view: AttackerView) -> None:
    with approved(tpm, view, kind=TPM2_SE.TRIAL) as (handle, session):
        limit(tpm, session, TPM2_CC.ECDH_ZGen)
        _zgen(tpm, view, handle, session)


ATTACKS = (
    Attack(
        "no-command-code",
        "ECDH_ZGen after PolicyAuthorize alone, without PolicyCommandCode",
        _no_command_code,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "another-command-code",
        "TPM2_Duplicate in an approved session limited to Duplicate",
        _other_command_code,
        "duplicate",
        {"POLICY_FAIL"},
    ),
    Attack(
        "duplicate-approved",
        "TPM2_Duplicate in a session that is good for ECDH_ZGen",
        _honest_session_for(_duplicating),
        "duplicate",
        {"POLICY_CC"},
    ),
    Attack(
        "change-auth-approved",
        "TPM2_ObjectChangeAuth in a session that is good for ECDH_ZGen",
        _honest_session_for(_changing_auth),
        "object_change_auth",
        {"POLICY_CC"},
    ),
    Attack(
        "pcr-extended",
        f"PCR {EXTENDED_PCR} extended between PolicyPCR and use",
        _honest_session_for(_after_extending),
        "ecdh_zgen",
        {"PCR_CHANGED"},
    ),
    Attack(
        "session-used-twice",
        "a second ECDH_ZGen in a session that was good for one",
        _honest_session_for(_used_twice),
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "session-of-another-key",
        "ECDH_ZGen with the wanted key in a session approved for another",
        _honest_session_for(_on_the_wanted_key),
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "ticket-of-null-hierarchy",
        "an approval verified in the NULL hierarchy, whose tickets anybody can make",
        _null_hierarchy,
        "policy_authorize",
        {"VALUE", "TICKET", "HIERARCHY"},
    ),
    Attack(
        "trial-session",
        "ECDH_ZGen in a trial session, in which every assertion succeeds",
        _trial,
        "ecdh_zgen",
        {"ATTRIBUTES", "AUTH_TYPE", "HANDLE", "VALUE"},
    ),
)
