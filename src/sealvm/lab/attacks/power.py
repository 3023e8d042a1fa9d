"""Attacks over a reset: what was satisfied, granted or loaded in the approved state, used in the next boot's.

A TPM knows three ways to begin (Part 1, section 12.2.3): a *reset*; a *restart*, which is a reset after
TPM2_Shutdown(STATE), keeps resetCount and saved sessions; a *resume*, by TPM2_Startup(STATE), keeps PCRs as well. They
take a TPM that may be switched off, so they are no part of the suite that the demo runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from sealvm.errors import TpmFault
from sealvm.lab.attacks.keeping import PERSISTENT_HANDLE, remove_persisted
from sealvm.lab.attacks.leased_twin import assert_state, make_leased_twin
from sealvm.lab.attacks.sessions import make_twin
from sealvm.lab.attacks.view import Attack, AttackerView, AttackResult, attempt
from sealvm.lab.swtpm import Swtpm
from sealvm.tpm import keys, leases, pcr
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.profile_key import SealedKey, approval_ticket, authorize, loaded
from sealvm.tpm.structures import ESYS_TR, TPM2_CC, TPM2_SU, bank_allocation, ecc_point, pcr_selection

_STATE_PCR = 9
_NEXT_BOOT = hashlib.sha256(b"another boot").digest()

Beginning = Literal["reset", "restart", "resume"]
_Held = Callable[[Tpm], None]


@dataclass(frozen=True, slots=True)
class PowerAttack:
    """`prepare` is run in the approved state, and what it returns after the TPM's new `beginning`."""

    name: str
    says: str
    prepare: Callable[[Tpm, AttackerView], _Held]
    beginning: Beginning
    command: str
    codes: frozenset[str]


def run_power_attack(attack: PowerAttack, view: AttackerView, swtpm: Swtpm) -> AttackResult:
    """One attack on a TPM that is the test's own. Another state is booted after a reset or restart, none on resume.

    Leaves the TPM running, in that other state.
    """
    with open_tpm(swtpm.tcti, swtpm.lock) as tpm:
        use = attack.prepare(tpm, view)
        if attack.beginning != "reset":
            tpm.run("shutdown", shutdown_type=TPM2_SU.STATE)
    swtpm.stop()
    swtpm.start(resume=attack.beginning == "resume")
    with open_tpm(swtpm.tcti, swtpm.lock) as tpm:
        if attack.beginning != "resume":
            pcr.extend(tpm, _STATE_PCR, _NEXT_BOOT)
        try:
            tried = Attack(attack.name, attack.says, lambda tpm, _view: use(tpm), attack.command, attack.codes)
            return attempt(tried, tpm, view)
        finally:
            with suppress(TpmFault):
                remove_persisted(tpm)


def _zgen(tpm: Tpm, view: AttackerView, key: SealedKey, session: Any) -> None:
    with loaded(tpm, view.blobs, key) as handle:
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


def _saved_session(tpm: Tpm, view: AttackerView) -> _Held:
    """A standing twin's session, satisfied and saved."""
    twin = make_twin(tpm, view)
    ticket = approval_ticket(tpm, twin.approval)
    with tpm.policy_session() as session:
        selection = pcr_selection(twin.approval.selection)
        tpm.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=selection)
        authorize(tpm, session, twin.approval.approved_policy, twin.approval, ticket)
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        context = tpm.run("context_save", save_handle=session)

    def use(tpm: Tpm) -> None:
        with tpm.flushing(tpm.run("context_load", context=context)) as session:
            _zgen(tpm, view, twin.key, session)

    return use


def _leased_session(tpm: Tpm, view: AttackerView) -> _Held:
    """A leased twin's session, satisfied and saved."""
    twin = make_leased_twin(tpm, view)
    prepared = leases.prepare(tpm, twin.lease_key, twin.lease(tpm))
    with tpm.policy_session() as session:
        prepared.present(tpm, session, keys.srk(tpm))
        assert_state(tpm, twin, session)
        context = tpm.run("context_save", save_handle=session)

    def use(tpm: Tpm) -> None:
        with tpm.flushing(tpm.run("context_load", context=context)) as session:
            _zgen(tpm, view, twin.key, session)

    return use


def _ticket(tpm: Tpm, view: AttackerView) -> _Held:
    """A lease's ticket, of a term that is far from over."""
    twin = make_leased_twin(tpm, view)
    lease = twin.lease(tpm)

    def use(tpm: Tpm) -> None:
        with tpm.policy_session() as session:
            leases.prepare(tpm, twin.lease_key, lease).present(tpm, session, keys.srk(tpm))
            assert_state(tpm, twin, session)
            _zgen(tpm, view, twin.key, session)

    return use


def _persistent(tpm: Tpm, view: AttackerView) -> _Held:
    """A standing twin made persistent and its approval's ticket kept."""
    twin = make_twin(tpm, view)
    ticket = approval_ticket(tpm, twin.approval)
    with loaded(tpm, view.blobs, twin.key) as handle:
        keys.persist(tpm, handle, PERSISTENT_HANDLE, "the profile key")

    def use(tpm: Tpm) -> None:
        handle = tpm.persistent(PERSISTENT_HANDLE)
        with tpm.policy_session() as session:
            selection = pcr_selection(twin.approval.selection)
            tpm.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=selection)
            authorize(tpm, session, twin.approval.approved_policy, twin.approval, ticket)
            tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
            tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)

    return use


def _without_bank(tpm: Tpm, view: AttackerView) -> _Held:
    """The SHA-256 bank switched off, so that PolicyPCR selects nothing; on again for the reset after this one."""
    twin = make_twin(tpm, view)
    ticket = approval_ticket(tpm, twin.approval)
    tpm.run("pcr_allocate", pcr_allocation=bank_allocation(sha256=False), session1=ESYS_TR.PASSWORD)

    def use(tpm: Tpm) -> None:
        tpm.run("pcr_allocate", pcr_allocation=bank_allocation(sha256=True), session1=ESYS_TR.PASSWORD)
        with tpm.policy_session() as session:
            selection = pcr_selection(twin.approval.selection)
            tpm.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=selection)
            authorize(tpm, session, twin.approval.approved_policy, twin.approval, ticket)
            tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
            _zgen(tpm, view, twin.key, session)

    return use


def _key_context(tpm: Tpm, view: AttackerView) -> _Held:
    """The twin's own saved context, which needs no import parent to load; used by its empty password."""
    with loaded(tpm, view.blobs, make_twin(tpm, view).key) as handle:
        context = tpm.run("context_save", save_handle=handle)

    def use(tpm: Tpm) -> None:
        with tpm.flushing(tpm.run("context_load", context=context)) as handle, tpm.policy_session() as session:
            tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
            tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)

    return use


def _each(
    name: str,
    says: str,
    prepare: Callable[[Tpm, AttackerView], _Held],
    answers: Mapping[Beginning, tuple[str, str]],
) -> tuple[PowerAttack, ...]:
    """The same attack over several beginnings, each with the command that is refused and the code."""
    return tuple(
        PowerAttack(
            f"{name}-{beginning}", f"{says}, after a {beginning}", prepare, beginning, command, frozenset({code})
        )
        for beginning, (command, code) in answers.items()
    )


POWER_ATTACKS: tuple[PowerAttack, ...] = (
    *_each(
        "saved-session",
        "a standing key's session, satisfied in the approved state and saved",
        _saved_session,
        {
            "reset": ("context_load", "INTEGRITY"),
            "restart": ("ecdh_zgen", "PCR_CHANGED"),
            "resume": ("ecdh_zgen", "PCR_CHANGED"),
        },
    ),
    *_each(
        "saved-leased-session",
        "a leased key's session, satisfied in the approved state and saved",
        _leased_session,
        {
            "reset": ("context_load", "INTEGRITY"),
            "restart": ("ecdh_zgen", "PCR_CHANGED"),
            "resume": ("ecdh_zgen", "PCR_CHANGED"),
        },
    ),
    *_each(
        "lease-ticket",
        "a lease whose term is not over",
        _ticket,
        {
            "reset": ("policy_counter_timer", "POLICY"),
            "restart": ("policy_ticket", "TICKET"),
            "resume": ("policy_ticket", "TICKET"),
        },
    ),
    *_each(
        "persistent-key",
        "a standing key made persistent in the approved state",
        _persistent,
        {
            "reset": ("policy_authorize", "VALUE"),
            "restart": ("policy_authorize", "VALUE"),
        },
    ),
    *_each(
        "no-bank",
        "the SHA-256 bank switched off by TPM2_PCR_Allocate, an approval used that was verified before",
        _without_bank,
        {
            "reset": ("policy_authorize", "VALUE"),
        },
    ),
    *_each(
        "key-context",
        "a key's saved context",
        _key_context,
        {
            "reset": ("context_load", "INTEGRITY"),
            "restart": ("ecdh_zgen", "POLICY_FAIL"),
            "resume": ("ecdh_zgen", "POLICY_FAIL"),
        },
    ),
)
