"""The controls of the lease attacks: two weaker designs, broken by the very attacks that fail on the specified one.

docs/spec/lease-v1.md says why a grant's reference differs from the authorization's and names the host, and why a nonce
of another size than 32 bytes is never signed. Here is what happens otherwise.
"""

from __future__ import annotations

import hashlib

from sealvm.crypto.labels import label_digest, u32
from sealvm.lab.attacks.leased_twin import LONG_SECONDS, assert_state, policy_signed, present_word, twin_session, zgen
from sealvm.lab.attacks.view import AttackerView
from sealvm.tcg import policy
from sealvm.tpm import keys, leases
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import TPM2_CC


def weaker_designs_are_broken(tpm: Tpm, view: AttackerView) -> None:
    """The other controls: what `lease-crafted-nonce` and `lease-relayed` do works where one reference serves both, and
    where the grant's reference names no host. TpmFault when it does not."""
    _permanent_lease_by_crafted_nonce(tpm, view)
    _relayed_grant_without_host(tpm, view)


def _permanent_lease_by_crafted_nonce(tpm: Tpm, view: AttackerView) -> None:
    """One reference for both, and a nonce of any size: a 28-byte "nonce", the head of a policy digest, makes the grant
    an authorization of that policy, without term, host or boot.

    The digest must end as the expiration does: 2^32 tries for a given term, so here the term is what the digest says.
    """
    with twin_session(tpm, view) as (twin, handle, session):
        target = policy.cmd(policy.ZERO, int(TPM2_CC.ECDH_ZGen))
        nonce, expiration, ref = target[:28], target[28:], twin.lease_key.authorize_ref
        grant = twin.lease_signer.sign_digest(hashlib.sha256(nonce + expiration + ref).digest())
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        present_word(tpm, session, twin, (target, ref), grant)
        assert_state(tpm, twin, session)
        zgen(tpm, view, handle, session)


def _relayed_grant_without_host(tpm: Tpm, view: AttackerView) -> None:
    """A grant's reference without the SRK: the grant that another host asked for serves this one."""
    with twin_session(tpm, view) as (twin, handle, session):
        key, boot = twin.lease_key, int(tpm.run("read_clock").clockInfo.resetCount)
        ref = label_digest("lease-signed", key.profile.encode(), u32(key.epoch), key.cell.encode())
        weak = policy.host_policy(key.srk_name, boot, key.lease_name, ref)
        earlier = twin.lease_signer.sign_digest(hashlib.sha256(weak + key.authorize_ref).digest())
        leases.bind_to_boot(tpm, session, keys.srk(tpm), boot)
        nonce, expiration = tpm.nonce(session), -LONG_SECONDS
        signed = nonce + expiration.to_bytes(4, "big", signed=True) + ref
        asked_by_another = twin.lease_signer.sign_digest(hashlib.sha256(signed).digest())
        policy_signed(tpm, session, twin, asked_by_another, nonce=nonce, expiration=expiration, ref=ref)
        present_word(tpm, session, twin, (weak, key.authorize_ref), earlier)
        assert_state(tpm, twin, session)
        zgen(tpm, view, handle, session)
