"""Attacks on what a TPM keeps: the wanted key made persistent, its saved context altered, the TPM started again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.profile_key import SealedKey, approval_ticket, authorize, loaded
from sealvm.tpm.raw import run_raw
from sealvm.tpm.structures import ESYS_TR, TPM2_CC, TPM2_SU, altered_context, ecc_point, pcr_selection

PERSISTENT_HANDLE = 0x8101F5EB
"""Where the wanted key is made persistent; removed again."""


@contextmanager
def persisted(tpm: Tpm, view: AttackerView, key: SealedKey) -> Iterator[Any]:
    """A profile key as a persistent object, for the length of a block."""
    with loaded(tpm, view.blobs, key) as handle:
        keys.persist(tpm, handle, PERSISTENT_HANDLE, "the profile key")
    try:
        kept = tpm.persistent(PERSISTENT_HANDLE)
        yield kept
    finally:
        remove_persisted(tpm)


def remove_persisted(tpm: Tpm) -> None:
    """Take the persistent key away again, where there is one."""
    kept = tpm.persistent(PERSISTENT_HANDLE)
    if kept is not None:
        keys.evict(tpm, kept, PERSISTENT_HANDLE, "the profile key")


def use_with_other_approval(tpm: Tpm, view: AttackerView, handle: Any) -> None:
    """ECDH_ZGen in the honest order, with the genuine approval of another state."""
    approval = view.approval_of_another_state()
    ticket = approval_ticket(tpm, approval)
    with tpm.policy_session() as session:
        tpm.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=pcr_selection(approval.selection))
        authorize(tpm, session, approval.approved_policy, approval, ticket)
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


def _persistent(tpm: Tpm, view: AttackerView) -> None:
    with persisted(tpm, view, view.key) as handle:
        use_with_other_approval(tpm, view, handle)


def _persistent_by_password(tpm: Tpm, view: AttackerView) -> None:
    """A persistent object is the owner's to remove; is it the owner's to use?"""
    with persisted(tpm, view, view.key) as handle:
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=ESYS_TR.PASSWORD)


def _altered_context(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, view.blobs, view.key) as handle:
        context = tpm.run("context_save", save_handle=handle)
    tpm.flush(tpm.run("context_load", context=altered_context(context)))


def _external_private(tpm: Tpm, view: AttackerView) -> None:
    """The wanted public area with weaker attributes under the import parent's blob of the same key."""
    public = view.key.public
    weaker = public[:4] + (int.from_bytes(public[4:8], "big") & ~0x80).to_bytes(4, "big") + public[8:]
    with loaded(tpm, view.blobs, replace(view.key, public=weaker)):
        pass


def _started_again(code: Any) -> Any:
    def run(tpm: Tpm, _view: AttackerView) -> None:
        run_raw(tpm, "startup", int(TPM2_CC.Startup), parameters=int(code).to_bytes(2, "big"))

    return run


_INITIALIZE = {"INITIALIZE", "RC1"}  # 0x100 has two names: TPM_RC_INITIALIZE is RC_VER1 + 0

ATTACKS = (
    Attack(
        "persistent-key",
        "the profile key made persistent by TPM2_EvictControl, used with the approval of another state",
        _persistent,
        "policy_authorize",
        {"VALUE"},
    ),
    Attack(
        "persistent-key-password",
        "the profile key made persistent by TPM2_EvictControl, used with the empty password",
        _persistent_by_password,
        "ecdh_zgen",
        {"AUTH_UNAVAILABLE", "AUTH_TYPE"},
    ),
    Attack(
        "context-altered",
        "the profile key's saved context with a bit flipped, loaded again",
        _altered_context,
        "context_load",
        {"INTEGRITY"},
    ),
    Attack(
        "load-without-admin-policy",
        "the profile key's blob loaded with adminWithPolicy clear",
        _external_private,
        "load",
        {"INTEGRITY", "BINDING"},
    ),
    Attack(
        "startup-clear",
        "TPM2_Startup(CLEAR) by the running system, to reset PCRs and replay the approved boot",
        _started_again(TPM2_SU.CLEAR),
        "startup",
        _INITIALIZE,
    ),
    Attack(
        "startup-state",
        "TPM2_Startup(STATE) by the running system, to bring back saved PCRs",
        _started_again(TPM2_SU.STATE),
        "startup",
        _INITIALIZE,
    ),
)
