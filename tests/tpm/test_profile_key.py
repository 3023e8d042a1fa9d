from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sealvm.crypto import hpke
from sealvm.crypto.ec import SoftwareSigner, load_point, private_key
from sealvm.errors import MalformedError, SignatureRefused, StateRefused, TpmFault
from sealvm.lab.swtpm import LabCa, Swtpm
from sealvm.tpm import pcr, profile_key
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.profile_key import USE_TRIES, import_key
from tests.tpm.rig import SELECTION, Host, Owner, make_host, started_tpm

pytestmark = pytest.mark.tpm

POINT = SoftwareSigner.generate().point


@pytest.fixture
def tpm(host: Host) -> Iterator[Tpm]:
    with open_tpm(host.swtpm.tcti, host.swtpm.lock) as opened:
        yield opened


def use(tpm: Tpm, host: Host, *approvals: object, point: bytes = POINT) -> bytes:
    return profile_key.ecdh(tpm, host.blobs, host.blobs.srk_name, host.key, approvals, point=point)  # type: ignore[arg-type]


def present(tpm: Tpm, host: Host) -> Any:
    return host.owner.approve(pcr.read(tpm, SELECTION))


def test_ecdh_is_the_one_of_the_private_key(tpm: Tpm, host: Host) -> None:
    expected = private_key(host.owner.key.scalar()).exchange(ec.ECDH(), load_point(POINT))
    assert use(tpm, host, present(tpm, host)) == expected
    assert tpm.counts["ecdh_zgen"] == 1


def test_hpke_wrap_opens_through_the_tpm(tpm: Tpm, host: Host) -> None:
    key, approval = secrets.token_bytes(32), present(tpm, host)
    wrap = hpke.seal(host.key_point, b"info", key)
    opened = hpke.open_with_dh(wrap, b"info", host.key_point, lambda enc: use(tpm, host, approval, point=enc))
    assert opened.reveal() == key


def test_no_slot_is_lost_over_many_uses(tpm: Tpm, host: Host) -> None:
    approval = present(tpm, host)
    for _use in range(10):
        use(tpm, host, approval)
    assert tpm.handles(0x80000000) == tpm.handles(0x02000000) == []


def test_the_fitting_approval_is_picked(tpm: Tpm, host: Host) -> None:
    values = pcr.read(tpm, SELECTION)
    others = [host.owner.approve({**values, 4: bytes([n]) * 32}) for n in range(3)]
    assert use(tpm, host, *others, host.owner.approve(values))
    assert tpm.counts["verify_signature"] == 1


def test_state_that_is_not_approved(tpm: Tpm, host: Host) -> None:
    values = pcr.read(tpm, SELECTION)
    with pytest.raises(StateRefused, match="none of the approved ones") as caught:
        use(tpm, host, host.owner.approve({**values, 9: b"g" * 32}))
    assert caught.value.fields == {"profile": host.key.profile, "epoch": 1, "cell": ""}
    assert "explain" in caught.value.hint
    assert tpm.counts["ecdh_zgen"] == 0


def test_no_approval_at_all(tpm: Tpm, host: Host) -> None:
    with pytest.raises(StateRefused, match="no state is approved"):
        use(tpm, host)


def test_approvals_of_other_keys_do_not_count(tpm: Tpm, host: Host) -> None:
    values = pcr.read(tpm, SELECTION)
    for other in (Owner("other", approver=host.owner.approver), Owner(epoch=2, approver=host.owner.approver)):
        with pytest.raises(StateRefused):
            use(tpm, host, other.approve(values))


def test_refusal_by_the_tpm_is_a_state_refusal(tpm: Tpm, host: Host) -> None:
    """An approver that the key's policy does not name gets as far as the TPM."""
    stranger = Owner()
    with pytest.raises(StateRefused, match="TPM_RC_POLICY_FAIL"):
        use(tpm, host, stranger.approve(pcr.read(tpm, SELECTION)))


def test_forged_signature_is_refused_by_the_tpm(tpm: Tpm, host: Host) -> None:
    approval = present(tpm, host)
    forged = replace(approval, signature_der=host.owner.approver.sign_digest(bytes(32)))
    with pytest.raises(SignatureRefused, match="does not verify") as caught:
        use(tpm, host, forged)
    assert caught.value.fields["decoded"] == "TPM_RC_SIGNATURE (parameter 2)"


def test_approved_policy_that_is_not_the_state(tpm: Tpm, host: Host) -> None:
    """An approval whose pcr_digest was edited: the signature still stands for the old policy, and the TPM says no."""
    values = pcr.read(tpm, SELECTION)
    old = host.owner.approve({**values, 9: b"g" * 32})
    with pytest.raises(StateRefused, match="TPM_RC_VALUE"):
        use(tpm, host, replace(old, pcr_digest=host.owner.approve(values).pcr_digest))


def test_another_srk_than_the_pinned_one_is_a_fault(tpm: Tpm, host: Host) -> None:
    with pytest.raises(TpmFault, match="pinned"):
        profile_key.ecdh(tpm, host.blobs, b"\x00\x0b" + bytes(32), host.key, [present(tpm, host)], point=POINT)


def test_blob_of_another_tpm_is_a_fault_not_a_refusal(host: Host, own_swtpm: Swtpm) -> None:
    other = make_host(own_swtpm, host.owner)
    with open_tpm(own_swtpm.tcti) as tpm, pytest.raises(TpmFault, match="TPM_RC_INTEGRITY") as caught:
        use(tpm, replace(other, key=host.key), present(tpm, other))
    assert "enroll" in caught.value.hint


def test_duplicate_for_another_host_does_not_import(host: Host, own_swtpm: Swtpm) -> None:
    other = make_host(own_swtpm, host.owner)
    with open_tpm(own_swtpm.tcti) as tpm, pytest.raises(TpmFault, match="importing"):
        import_key(tpm, other.blobs, host.owner.duplicate_to(host.blobs))


def test_public_area_with_bytes_after_it(tpm: Tpm, host: Host) -> None:
    duplicate = host.owner.duplicate_to(host.blobs)
    with pytest.raises(MalformedError, match="profile key"):
        import_key(tpm, host.blobs, replace(duplicate, public=duplicate.public + b"\0"))


class Restless:
    """The TPM with somebody else at work: before the first `times` ECDH steps a PCR is extended."""

    def __init__(self, tpm: Tpm, times: int, index: int) -> None:
        self._tpm, self._times, self._index = tpm, times, index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tpm, name)

    def run(self, command: str, doing: str = "", /, **arguments: Any) -> Any:
        if command == "ecdh_zgen" and self._times:
            self._times -= 1
            pcr.extend(self._tpm, self._index, b"x" * 32)
        return self._tpm.run(command, doing, **arguments)


def test_pcr_extended_meanwhile_begins_again(tpm: Tpm, host: Host) -> None:
    assert use(Restless(tpm, USE_TRIES - 1, 10), host, present(tpm, host))  # type: ignore[arg-type]
    assert tpm.counts["ecdh_zgen"] == USE_TRIES


def test_pcrs_that_never_rest_are_refused_in_the_end(tpm: Tpm, host: Host) -> None:
    with pytest.raises(StateRefused, match="were extended during each"):
        use(Restless(tpm, USE_TRIES, 10), host, present(tpm, host))  # type: ignore[arg-type]
    assert tpm.counts["ecdh_zgen"] == USE_TRIES


def test_selected_pcr_extended_meanwhile_is_refused(tmp_path_factory: pytest.TempPathFactory, ca: LabCa) -> None:
    with started_tpm(tmp_path_factory.mktemp("t") / "own", ca) as swtpm:
        host = make_host(swtpm, Owner())
        with open_tpm(swtpm.tcti) as tpm:
            with pytest.raises(StateRefused, match="none of the approved ones"):
                use(Restless(tpm, 1, 9), host, present(tpm, host))  # type: ignore[arg-type]
            assert tpm.counts["ecdh_zgen"] == 1


def test_key_and_approval_survive_a_power_cut(own_swtpm: Swtpm) -> None:
    host = make_host(own_swtpm, Owner())
    approval = host.owner.approve(host.values)
    own_swtpm.power_cycle()
    with open_tpm(own_swtpm.tcti) as tpm:
        assert use(tpm, host, approval)
