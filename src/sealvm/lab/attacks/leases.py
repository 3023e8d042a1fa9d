"""Attacks on leases: using a leased key after its term, without one, with another's, or with the lease key in hand.

They run on a *leased twin* (leased_twin.py), for which the attacker is approver and authority at once, so he has more
than any host ever gets, and what is refused is refused by the TPM. That the twin's honest use works is checked first,
and so is that the two weaker designs that docs/spec/lease-v1.md names are broken by the same (weaker_leases.py).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sealvm.lab.attacks.leased_twin import (
    LONG_SECONDS,
    PROFILE,
    LeasedTwin,
    assert_state,
    make_leased_twin,
    policy_signed,
    present_word,
    twin_session,
    zgen,
)
from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.statements.approval import sign_approval
from sealvm.statements.lease import sign_grant
from sealvm.tcg import policy
from sealvm.tpm import authorization, keys, leases, pcr
from sealvm.tpm.connection import Tpm
from sealvm.tpm.leases import HeldLease, PreparedLease
from sealvm.tpm.profile_key import loaded
from sealvm.tpm.structures import ESYS_TR

SHORT_SECONDS = 1
_LAPSE_SECONDS = SHORT_SECONDS + 0.1
_STATE_PCR = 9


def _prepared(tpm: Tpm, twin: LeasedTwin, lease: HeldLease) -> PreparedLease:
    return leases.prepare(tpm, twin.lease_key, lease)


def _without_lease(tpm: Tpm, view: AttackerView) -> None:
    with twin_session(tpm, view) as (twin, handle, session):
        assert_state(tpm, twin, session)
        zgen(tpm, view, handle, session)


def _standing_words(tpm: Tpm, view: AttackerView) -> None:
    """An approval of the very state, by the very approver, as of a standing epoch: its reference is not the key's."""
    with twin_session(tpm, view) as (twin, handle, session):
        selection = twin.approval.selection
        values = pcr.read(tpm, selection)
        standing = sign_approval(
            twin.approver, profile=PROFILE, epoch=1, cell="", selection=selection, pcr_values=values
        )
        assert_state(tpm, twin, session, standing)
        zgen(tpm, view, handle, session)


def _after_the_end(tpm: Tpm, view: AttackerView) -> None:
    with twin_session(tpm, view) as (twin, handle, session):
        lease = twin.lease(tpm, SHORT_SECONDS)
        time.sleep(_LAPSE_SECONDS)
        _prepared(tpm, twin, lease).present(tpm, session, keys.srk(tpm))
        assert_state(tpm, twin, session)
        zgen(tpm, view, handle, session)


def _hoarded_session(tpm: Tpm, view: AttackerView) -> None:
    twin = make_leased_twin(tpm, view)
    prepared = _prepared(tpm, twin, twin.lease(tpm, SHORT_SECONDS))
    with tpm.policy_session() as session:
        prepared.present(tpm, session, keys.srk(tpm))
        assert_state(tpm, twin, session)
        context = tpm.run("context_save", save_handle=session)
    time.sleep(_LAPSE_SECONDS)
    with (
        loaded(tpm, view.blobs, twin.key) as handle,
        tpm.flushing(tpm.run("context_load", context=context)) as session,
    ):
        zgen(tpm, view, handle, session)


def _restarted_session(tpm: Tpm, view: AttackerView) -> None:
    """The session of the grant, restarted after the end, given the same grant again."""
    twin = make_leased_twin(tpm, view)
    with tpm.policy_session() as session:
        nonce, ref = tpm.nonce(session), twin.lease_key.signed_ref
        grant = sign_grant(twin.lease_signer, twin.lease_key, nonce, SHORT_SECONDS)
        policy_signed(tpm, session, twin, grant, nonce=nonce, expiration=-SHORT_SECONDS, ref=ref)
        time.sleep(_LAPSE_SECONDS)
        tpm.run("policy_restart", session_handle=session)
        policy_signed(tpm, session, twin, grant, nonce=nonce, expiration=-SHORT_SECONDS, ref=ref)


def _grant_in_another_session(tpm: Tpm, view: AttackerView) -> None:
    with twin_session(tpm, view) as (twin, _handle, session):
        grant = sign_grant(twin.lease_signer, twin.lease_key, bytes(32), LONG_SECONDS)
        ref = twin.lease_key.signed_ref
        policy_signed(tpm, session, twin, grant, nonce=bytes(32), expiration=-LONG_SECONDS, ref=ref)


def _grant_without_session(tpm: Tpm, view: AttackerView) -> None:
    """The nonce left out, so that the grant would fit every session."""
    with twin_session(tpm, view) as (twin, _handle, session):
        grant = sign_grant(twin.lease_signer, twin.lease_key, tpm.nonce(session), LONG_SECONDS)
        ref = twin.lease_key.signed_ref
        policy_signed(tpm, session, twin, grant, nonce=b"", expiration=-LONG_SECONDS, ref=ref)


def _longer_than_granted(tpm: Tpm, view: AttackerView) -> None:
    with twin_session(tpm, view) as (twin, _handle, session):
        nonce, ref = tpm.nonce(session), twin.lease_key.signed_ref
        grant = sign_grant(twin.lease_signer, twin.lease_key, nonce, SHORT_SECONDS)
        policy_signed(tpm, session, twin, grant, nonce=nonce, expiration=-LONG_SECONDS, ref=ref)


def _altered_ticket(change: Callable[[HeldLease], HeldLease]) -> Callable[[Tpm, AttackerView], None]:
    """An attack that presents a lease after `change`."""

    def run(tpm: Tpm, view: AttackerView) -> None:
        with twin_session(tpm, view) as (twin, handle, session):
            lease = change(twin.lease(tpm))
            _prepared(tpm, twin, lease).present(tpm, session, keys.srk(tpm))
            assert_state(tpm, twin, session)
            zgen(tpm, view, handle, session)

    return run


def _later(lease: HeldLease) -> HeldLease:
    ends = int.from_bytes(lease.timeout, "big") + 86_400_000
    return replace(lease, timeout=ends.to_bytes(len(lease.timeout), "big"))


def _another_boot(lease: HeldLease) -> HeldLease:
    return replace(lease, signed=replace(lease.signed, reset_count=lease.signed.reset_count + 1))


def _ticket_of_another_key(tpm: Tpm, view: AttackerView) -> None:
    """A lease of another profile, signed by the same lease key for this very host, used on this profile's key."""
    with twin_session(tpm, view) as (twin, handle, session):
        other = replace(twin, lease_key=replace(twin.lease_key, profile="anything-goes"))
        _prepared(tpm, other, other.lease(tpm)).present(tpm, session, keys.srk(tpm))
        assert_state(tpm, twin, session)
        zgen(tpm, view, handle, session)


def _relayed(tpm: Tpm, view: AttackerView) -> None:
    """This host's lease is not renewed any more. It lets an honest host ask with this host's nonceTPM, gets the grant
    that the authority signs for that host, and has an authorization of its own from earlier in this boot."""
    with twin_session(tpm, view) as (twin, handle, session):
        own, honest = twin.lease_key, replace(twin.lease_key, srk_name=b"\x00\x0b" + bytes(32))
        earlier = twin.lease(tpm).signed
        with tpm.policy_session() as asking:
            nonce = tpm.nonce(asking)
            grant = sign_grant(twin.lease_signer, honest, nonce, LONG_SECONDS)
            timeout, ticket = policy_signed(
                tpm, asking, twin, grant, nonce=nonce, expiration=-LONG_SECONDS, ref=honest.signed_ref
            )
        leases.bind_to_boot(tpm, session, keys.srk(tpm), earlier.reset_count)
        tpm.run(
            "policy_ticket",
            policy_session=session,
            timeout=timeout,
            cp_hash_a=b"",
            policy_ref=honest.signed_ref,
            auth_name=own.lease_name,
            ticket=ticket,
        )
        word = leases.boot_authorization(own, earlier)
        authorization.present(tpm, session, word, authorization.ticket_for(tpm, word))
        assert_state(tpm, twin, session)
        zgen(tpm, view, handle, session)


def _crafted_nonce(tpm: Tpm, view: AttackerView) -> None:
    """A grant over a "nonce" that is a policy digest, read as an authorization of that policy: the empty one here.

    H(nonce || expiration || RS) is H(approved || ref) for ref = expiration || RS, which is never RA.
    """
    with twin_session(tpm, view) as (twin, handle, session):
        grant = sign_grant(twin.lease_signer, twin.lease_key, policy.ZERO, LONG_SECONDS)
        ref = (-LONG_SECONDS).to_bytes(4, "big", signed=True) + twin.lease_key.signed_ref
        present_word(tpm, session, twin, (policy.ZERO, ref), grant)
        assert_state(tpm, twin, session)
        zgen(tpm, view, handle, session)


def _lease_key_as_approver(tpm: Tpm, view: AttackerView) -> None:
    """With the lease key stolen: sign the present state as an approval."""
    with twin_session(tpm, view) as (twin, handle, session):
        selection = twin.approval.selection
        own = sign_approval(
            twin.lease_signer,
            profile=PROFILE,
            epoch=1,
            cell="",
            selection=selection,
            pcr_values=pcr.read(tpm, selection),
            mode=policy.MODE_LEASED,
            lease_point=twin.lease_signer.point,
        )
        _prepared(tpm, twin, twin.lease(tpm)).present(tpm, session, keys.srk(tpm))
        assert_state(tpm, twin, session, own)
        zgen(tpm, view, handle, session)


def _lease_key_for_another_state(tpm: Tpm, view: AttackerView) -> None:
    """With the lease key stolen: authorize the empty policy for ever, and use an approval of another state."""
    with twin_session(tpm, view) as (twin, handle, session):
        selection = twin.approval.selection
        approved = {**pcr.read(tpm, selection), _STATE_PCR: hashlib.sha256(b"the approved boot").digest()}
        another = sign_approval(
            twin.approver,
            profile=PROFILE,
            epoch=1,
            cell="",
            selection=selection,
            pcr_values=approved,
            mode=policy.MODE_LEASED,
            lease_point=twin.lease_signer.point,
        )
        endless(tpm, twin, session)
        assert_state(tpm, twin, session, another)
        zgen(tpm, view, handle, session)


def endless(tpm: Tpm, twin: LeasedTwin, session: Any) -> None:
    """What a stolen lease key does give: the lease's part of the policy without any term."""
    ref = twin.lease_key.authorize_ref
    signature = twin.lease_signer.sign_digest(hashlib.sha256(policy.ZERO + ref).digest())
    present_word(tpm, session, twin, (policy.ZERO, ref), signature)


def _clock_back(tpm: Tpm, _view: AttackerView) -> None:
    now = int(tpm.run("read_clock").clockInfo.clock)
    tpm.run("clock_set", new_time=max(now - 1000, 0), auth=ESYS_TR.OWNER, session1=ESYS_TR.PASSWORD)


ATTACKS = (
    Attack(
        "lease-missing",
        "a leased key used with its approval alone",
        _without_lease,
        "policy_authorize",
        {"VALUE"},
    ),
    Attack(
        "lease-standing-approval",
        "a leased key used with a standing approval of the very state",
        _standing_words,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack("lease-over", "a ticket presented after the lease's end", _after_the_end, "policy_ticket", {"EXPIRED"}),
    Attack(
        "lease-hoarded-session",
        "a session satisfied and saved before the lease's end, used after it",
        _hoarded_session,
        "ecdh_zgen",
        {"EXPIRED"},
    ),
    Attack(
        "lease-restarted-session",
        "a grant presented again after its end, in its own session restarted",
        _restarted_session,
        "policy_signed",
        {"EXPIRED"},
    ),
    Attack(
        "lease-another-session",
        "a grant presented in another session than the one that asked",
        _grant_in_another_session,
        "policy_signed",
        {"NONCE"},
    ),
    Attack(
        "lease-no-session",
        "a grant presented without the nonce that ties it to a session",
        _grant_without_session,
        "policy_signed",
        {"SIGNATURE"},
    ),
    Attack(
        "lease-longer",
        "a grant presented with a longer term than was signed",
        _longer_than_granted,
        "policy_signed",
        {"SIGNATURE"},
    ),
    Attack(
        "lease-ticket-altered",
        "a ticket with a later end",
        _altered_ticket(_later),
        "policy_ticket",
        {"TICKET"},
    ),
    Attack(
        "lease-another-boot",
        "a lease whose authorization is for another resetCount",
        _altered_ticket(_another_boot),
        "verify_signature",
        {"SIGNATURE"},
    ),
    Attack(
        "lease-of-another-profile",
        "this host's lease of another profile, used on this profile's key",
        _ticket_of_another_key,
        "policy_authorize",
        {"VALUE"},
    ),
    Attack(
        "lease-relayed",
        "a grant that an honest host asked for with this host's nonce",
        _relayed,
        "policy_authorize",
        {"VALUE"},
    ),
    Attack(
        "lease-crafted-nonce",
        "a grant over a nonce that is a policy digest, presented as an authorization",
        _crafted_nonce,
        "policy_authorize",
        {"VALUE"},
    ),
    Attack(
        "lease-key-approves",
        "an approval signed with the stolen lease key",
        _lease_key_as_approver,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "lease-key-another-state",
        "a lease without end, made with the stolen lease key, in a state that is not approved",
        _lease_key_for_another_state,
        "policy_authorize",
        {"VALUE"},
    ),
    Attack("lease-clock-back", "TPM2_ClockSet to an earlier time", _clock_back, "clock_set", {"VALUE"}),
)
