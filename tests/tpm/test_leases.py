"""Leases on a real TPM: they serve until their end, and what ends them (DESIGN sections 2 and 3, G5)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import ConflictError, MalformedError, SignatureRefused, StateRefused, TpmFault
from sealvm.lab.swtpm import LabCa, Swtpm
from sealvm.statements.lease import sign_lease
from sealvm.tpm import leases, pcr, profile_key
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.leases import HeldLease
from sealvm.tpm.profile_key import approval_ticket, loaded
from sealvm.tpm.structures import TPM2_CC, TPM2_SU, ecc_point, pcr_selection
from tests.tpm.rig import SELECTION, Host, Owner, make_host, started_tpm

pytestmark = pytest.mark.tpm

POINT = SoftwareSigner.generate().point


@pytest.fixture(scope="module")
def leased(tmp_path_factory: pytest.TempPathFactory, ca: LabCa) -> Iterator[Host]:
    """A host with a leased profile key. Tests that cut its power make their own."""
    with started_tpm(tmp_path_factory.mktemp("t") / "leased", ca) as swtpm:
        yield make_host(swtpm, Owner(mode="leased"))


@pytest.fixture
def tpm(leased: Host) -> Iterator[Tpm]:
    with open_tpm(leased.swtpm.tcti, leased.swtpm.lock) as opened:
        yield opened


def use(tpm: Tpm, host: Host, lease: HeldLease | None, point: bytes = POINT) -> bytes:
    approval = host.owner.approve(pcr.read(tpm, SELECTION))
    return profile_key.ecdh(tpm, host.blobs, host.blobs.srk_name, host.key, [approval], point=point, lease=lease)


def refused(tpm: Tpm, host: Host, lease: HeldLease | None) -> StateRefused:
    with pytest.raises(StateRefused) as caught:
        use(tpm, host, lease)
    return caught.value


def test_a_lease_serves_many_uses(tpm: Tpm, leased: Host) -> None:
    lease = leased.owner.lease(tpm, leased.blobs)
    assert len({use(tpm, leased, lease) for _use in range(5)}) == 1
    assert tpm.handles(0x80000000) == tpm.handles(0x02000000) == tpm.handles(0x03000000) == []


def test_without_a_lease_the_approval_is_nothing(tpm: Tpm, leased: Host) -> None:
    refusal = refused(tpm, leased, None)
    assert refusal.fields["lease"] == "none"
    assert "sealvm host lease renew" in refusal.hint


def test_lease_ends(tpm: Tpm, leased: Host) -> None:
    lease = leased.owner.lease(tpm, leased.blobs, seconds=2)
    assert use(tpm, leased, lease)
    time.sleep(2.1)
    refusal = refused(tpm, leased, lease)
    assert refusal.fields["lease"] == "ended"
    assert "it is over" in refusal.message


def test_the_term_counts_from_the_start_of_the_session(tpm: Tpm, leased: Host) -> None:
    """Sitting on the grant does not stretch the lease."""
    session, key = leases.begin(tpm), leased.owner.lease_key_for(leased.blobs)
    signed = sign_lease(
        leased.owner.lease_key, key, reset_count=session.reset_count, nonce_tpm=session.nonce_tpm, seconds=2
    )
    time.sleep(2.2)
    try:
        lease = leases.finish(tpm, session, key, signed)
    except TpmFault as fault:
        assert "EXPIRED" in str(fault.fields["decoded"])
    else:
        assert refused(tpm, leased, lease).fields["lease"] == "ended"


def satisfied_session(tpm: Tpm, host: Host, lease: HeldLease) -> Any:
    """The saved context of a session in which all but the use itself was done."""
    approval = host.owner.approve(pcr.read(tpm, SELECTION))
    ticket = approval_ticket(tpm, approval)
    prepared = leases.prepare(tpm, host.owner.lease_key_for(host.blobs), lease)
    srk = profile_key.keys.srk(tpm)
    with tpm.policy_session() as session:
        prepared.present(tpm, session, srk)
        tpm.run("policy_pcr", policy_session=session, pcr_digest=b"", pcrs=pcr_selection(SELECTION))
        profile_key.authorize(tpm, session, approval.approved_policy, approval, ticket)
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        return tpm.run("context_save", save_handle=session)


def use_saved(tpm: Tpm, host: Host, context: Any) -> None:
    with loaded(tpm, host.blobs, host.key) as handle, tpm.flushing(tpm.run("context_load", context=context)) as session:
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(POINT), session1=session)


def test_sessions_satisfied_before_the_end_are_refused_after_it(tpm: Tpm, leased: Host) -> None:
    lease = leased.owner.lease(tpm, leased.blobs, seconds=2)
    in_time, hoarded = satisfied_session(tpm, leased, lease), satisfied_session(tpm, leased, lease)
    use_saved(tpm, leased, in_time)  # the control: a saved session does work
    time.sleep(2.1)
    with pytest.raises(TpmFault) as caught:
        use_saved(tpm, leased, hoarded)
    assert caught.value.fields["decoded"].startswith("TPM_RC_EXPIRED")


def test_power_cut_ends_a_lease(own_swtpm: Swtpm) -> None:
    host = make_host(own_swtpm, Owner(mode="leased"))
    with open_tpm(own_swtpm.tcti) as tpm:
        lease = host.owner.lease(tpm, host.blobs)
        assert use(tpm, host, lease)
        hoarded, waiting = satisfied_session(tpm, host, lease), leases.begin(tpm)
    own_swtpm.power_cycle()
    with open_tpm(own_swtpm.tcti) as tpm:
        refusal = refused(tpm, host, lease)
        assert refusal.fields["lease"] == "refused"
        for attempt in (lambda: use_saved(tpm, host, hoarded), lambda: leases.abandon(tpm, waiting)):
            with pytest.raises(TpmFault):
                attempt()
        # one more lease, and the key works again: nothing else was lost
        assert use(tpm, host, host.owner.lease(tpm, host.blobs))


def resumed(swtpm: Swtpm) -> None:
    """Suspend to memory and wake: TPM2_Shutdown(STATE), power lost, TPM2_Startup(STATE). resetCount stays."""
    with open_tpm(swtpm.tcti) as tpm:
        tpm.run("shutdown", shutdown_type=TPM2_SU.STATE)
    swtpm.stop()
    for stale in (swtpm.socket, Path(f"{swtpm.socket}.ctrl")):
        stale.unlink(missing_ok=True)
    subprocess.run(
        [
            *("swtpm", "socket", "--tpm2", "--daemon", "--tpmstate", f"dir={swtpm.directory}"),
            *("--server", f"type=unixio,path={swtpm.socket}", "--ctrl", f"type=unixio,path={swtpm.socket}.ctrl"),
            *("--flags", "not-need-init,startup-state", "--pid", f"file={swtpm.directory / 'pid'}"),
        ],
        check=True,
    )


def test_suspend_ends_a_lease(own_swtpm: Swtpm) -> None:
    """The TPM loses power without a reset: PCRs and resetCount are as before, the ticket is void all the same."""
    host = make_host(own_swtpm, Owner(mode="leased"))
    with open_tpm(own_swtpm.tcti) as tpm:
        lease = host.owner.lease(tpm, host.blobs)
        assert use(tpm, host, lease)
        hoarded, before = satisfied_session(tpm, host, lease), pcr.read(tpm, range(16))
    resumed(own_swtpm)
    with open_tpm(own_swtpm.tcti) as tpm:
        assert pcr.read(tpm, range(16)) == before
        assert leases.power_counts(tpm) == (lease.signed.reset_count, lease.restart_count + 1)
        assert refused(tpm, host, lease).fields["lease"] == "refused"
        with pytest.raises(TpmFault):
            use_saved(tpm, host, hoarded)
        assert use(tpm, host, host.owner.lease(tpm, host.blobs))


def test_authorization_for_the_next_boot_does_not_revive_a_ticket(own_swtpm: Swtpm) -> None:
    """The lease key may have authorized many boots: the old ticket is still void in another one."""
    host = make_host(own_swtpm, Owner(mode="leased"))
    with open_tpm(own_swtpm.tcti) as tpm:
        old = host.owner.lease(tpm, host.blobs)
    own_swtpm.power_cycle()
    with open_tpm(own_swtpm.tcti) as tpm:
        new = host.owner.lease(tpm, host.blobs)
        assert new.signed.reset_count == old.signed.reset_count + 1
        refusal = refused(tpm, host, replace(new, timeout=old.timeout, ticket=old.ticket))
        assert refusal.fields["lease"] in {"ended", "refused"}
        assert use(tpm, host, new)


def test_another_hosts_ticket(tpm: Tpm, leased: Host, own_swtpm: Swtpm) -> None:
    other = make_host(own_swtpm, leased.owner)
    with open_tpm(own_swtpm.tcti) as theirs:
        lease = leased.owner.lease(theirs, other.blobs)
        assert use(theirs, other, lease)
    with pytest.raises(SignatureRefused, match="authorization"):
        use(tpm, leased, lease)
    own = leased.owner.lease(tpm, leased.blobs)
    borrowed = replace(own, timeout=lease.timeout, ticket=lease.ticket)
    assert refused(tpm, leased, borrowed).fields["lease"] == "refused"


def test_state_that_is_not_approved_though_leased(own_swtpm: Swtpm) -> None:
    host = make_host(own_swtpm, Owner(mode="leased"))
    approval = host.owner.approve(host.values)
    with open_tpm(own_swtpm.tcti) as tpm:
        lease = host.owner.lease(tpm, host.blobs)
        pcr.extend(tpm, 9, b"o" * 32)
        with pytest.raises(StateRefused, match="none of the approved ones"):
            profile_key.ecdh(tpm, host.blobs, host.blobs.srk_name, host.key, [approval], point=POINT, lease=lease)


@pytest.mark.parametrize("other", [Owner("another"), Owner(epoch=2)], ids=["profile", "epoch"])
def test_lease_of_another_profile_or_epoch(tpm: Tpm, leased: Host, other: Owner) -> None:
    owner = Owner(other.profile, other.epoch, mode="leased", lease_key=leased.owner.lease_key)
    lease, own = owner.lease(tpm, leased.blobs), leased.owner.lease(tpm, leased.blobs)
    with pytest.raises(SignatureRefused, match="authorization"):
        use(tpm, leased, lease)
    refusal = refused(tpm, leased, replace(own, timeout=lease.timeout, ticket=lease.ticket))
    assert refusal.fields["lease"] == "refused"


def test_leases_of_another_lease_key(tpm: Tpm, leased: Host) -> None:
    with pytest.raises(SignatureRefused):
        use(tpm, leased, Owner(mode="leased").lease(tpm, leased.blobs))


def test_grant_for_another_session_is_refused(tpm: Tpm, leased: Host) -> None:
    key, signer = leased.owner.lease_key_for(leased.blobs), leased.owner.lease_key
    first, second = leases.begin(tpm), leases.begin(tpm)
    signed = sign_lease(signer, key, reset_count=first.reset_count, nonce_tpm=first.nonce_tpm, seconds=60)
    with pytest.raises(SignatureRefused, match="grant"):
        leases.finish(tpm, second, key, signed)
    assert leases.finish(tpm, first, key, signed)
    assert tpm.handles(0x02000000) == tpm.handles(0x03000000) == []


def test_the_tpm_itself_refuses_a_grant_for_another_session(
    tpm: Tpm, leased: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "verify_lease", lambda *_: None)
    key, signer, session = leased.owner.lease_key_for(leased.blobs), leased.owner.lease_key, leases.begin(tpm)
    signed = sign_lease(signer, key, reset_count=session.reset_count, nonce_tpm=b"n" * 32, seconds=60)
    with pytest.raises(SignatureRefused, match="the TPM does not take"):
        leases.finish(tpm, session, key, signed)


def test_lease_for_another_boot_is_refused(tpm: Tpm, leased: Host) -> None:
    key, session = leased.owner.lease_key_for(leased.blobs), leases.begin(tpm)
    signed = sign_lease(
        leased.owner.lease_key, key, reset_count=session.reset_count + 1, nonce_tpm=session.nonce_tpm, seconds=60
    )
    with pytest.raises(ConflictError, match="resetCount"):
        leases.finish(tpm, session, key, signed)


def test_longer_term_than_was_signed_is_refused(tpm: Tpm, leased: Host) -> None:
    key, session = leased.owner.lease_key_for(leased.blobs), leases.begin(tpm)
    signed = sign_lease(
        leased.owner.lease_key, key, reset_count=session.reset_count, nonce_tpm=session.nonce_tpm, seconds=2
    )
    with pytest.raises(SignatureRefused):
        leases.finish(tpm, session, key, replace(signed, seconds=3600))


def test_altered_timeout_is_refused(tpm: Tpm, leased: Host) -> None:
    lease = leased.owner.lease(tpm, leased.blobs)
    later = (int.from_bytes(lease.timeout, "big") + 10**9).to_bytes(len(lease.timeout), "big")
    assert refused(tpm, leased, replace(lease, timeout=later)).fields["lease"] == "refused"


def test_abandoned_session_leaves_nothing(tpm: Tpm, leased: Host) -> None:
    leases.abandon(tpm, leases.begin(tpm))
    assert tpm.handles(0x02000000) == tpm.handles(0x03000000) == []


def test_session_survives_another_connection(leased: Host) -> None:
    """While the authority is asked, the TPM is free for others."""
    key, signer = leased.owner.lease_key_for(leased.blobs), leased.owner.lease_key
    with open_tpm(leased.swtpm.tcti, leased.swtpm.lock) as tpm:
        session = leases.begin(tpm)
    signed = sign_lease(signer, key, reset_count=session.reset_count, nonce_tpm=session.nonce_tpm, seconds=60)
    with open_tpm(leased.swtpm.tcti, leased.swtpm.lock) as tpm:
        assert use(tpm, leased, leased.owner.lease(tpm, leased.blobs))
    with open_tpm(leased.swtpm.tcti, leased.swtpm.lock) as tpm:
        assert use(tpm, leased, leases.finish(tpm, session, key, signed))


@pytest.mark.parametrize("field", ["timeout", "ticket"])
def test_lease_file_with_endless_fields_is_malformed(tpm: Tpm, leased: Host, field: str) -> None:
    lease = leased.owner.lease(tpm, leased.blobs)
    with pytest.raises(MalformedError):
        use(tpm, leased, replace(lease, **{field: bytes(100)}))


def test_sessions_of_a_process_that_died_are_swept(tpm: Tpm, leased: Host) -> None:
    leases.begin(tpm)
    assert tpm.handles(0x03000000)
    leases.sweep_abandoned(tpm)
    assert tpm.handles(0x02000000) == tpm.handles(0x03000000) == []
