"""What a TPM does not refuse (docs/tpm-commands.md), with its bounds: these tests fail when a bound does not hold."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tpm2_pytss.constants import TPM2_CLOCK

from sealvm.crypto.ec import verify_digest
from sealvm.errors import MalformedError, TpmFault
from sealvm.lab.attacks import attestation
from sealvm.lab.attacks.power import POWER_ATTACKS
from sealvm.lab.attacks.salts import end_session, salted_session
from sealvm.lab.attacks.view import AttackerView
from sealvm.lab.swtpm import Swtpm, replay_pcrs
from sealvm.tcg.attest import parse_attest
from sealvm.tcg.public import parse_public
from sealvm.tpm import pcr
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.profile_key import loaded
from sealvm.tpm.structures import ESYS_TR
from tests.tpm.rig import Owner, make_host, started_tpm, view_of

pytestmark = pytest.mark.tpm

COARSE_STEPS = 17
SLOWEST = 30_000 / 35_000
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    with started_tpm(tmp_path_factory.mktemp("limits") / "tpm") as started:
        replay_pcrs(started.tcti, [(9, b"init=/bin/sh".ljust(32))], started.lock)
        yield started


@pytest.fixture(scope="module")
def view(swtpm: Swtpm) -> AttackerView:
    host = make_host(swtpm, Owner())
    return view_of(host, {**host.values, 9: b"g" * 32})


@pytest.fixture
def tpm(view: AttackerView) -> Iterator[Tpm]:
    with open_tpm(view.tcti, view.lock) as opened:
        yield opened


def rate(tpm: Tpm) -> float:
    """Seconds of the TPM's Time in one of this computer's."""
    began, time_before = time.monotonic(), int(tpm.run("read_clock").time)
    time.sleep(1)
    passed = int(tpm.run("read_clock").time) - time_before
    return passed / 1000 / (time.monotonic() - began)


def adjust(tpm: Tpm, step: int, times: int) -> None:
    for _each in range(times):
        tpm.run("clock_rate_adjust", rate_adjust=step, auth=ESYS_TR.OWNER, session1=ESYS_TR.PASSWORD)


def test_owner_slows_the_clock_by_a_seventh_and_no_more(tpm: Tpm) -> None:
    try:
        adjust(tpm, TPM2_CLOCK.COARSE_SLOWER, COARSE_STEPS)
        assert rate(tpm) == pytest.approx(SLOWEST, abs=TOLERANCE)
        adjust(tpm, TPM2_CLOCK.COARSE_SLOWER, COARSE_STEPS)
        assert rate(tpm) == pytest.approx(SLOWEST, abs=TOLERANCE)
    finally:
        adjust(tpm, TPM2_CLOCK.COARSE_FASTER, COARSE_STEPS)
        adjust(tpm, TPM2_CLOCK.MEDIUM_SLOWER, 1)


def test_a_session_is_salted_to_the_profile_key_in_any_state(tpm: Tpm, view: AttackerView) -> None:
    """No policy is asked. What the session is good for, the attacks `salt-of-the-wrap` and `salted-to-the-key` say."""
    with loaded(tpm, view.blobs, view.key) as key:
        end_session(tpm, salted_session(tpm, key, (view.wrap_point[1:33], view.wrap_point[33:])))


def test_what_the_ak_signs_as_a_certificate_is_no_attestation(tpm: Tpm, view: AttackerView) -> None:
    digest, signature = attestation.x509_by_ak(tpm, view)
    verify_digest(parse_public(view.blobs.ak_public, "AK").point, digest, signature)
    with pytest.raises(MalformedError, match="magic"):
        parse_attest(b"\x30\x82\x01\x00" + bytes(256))


def test_the_bank_is_off_where_its_absence_is_attacked(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The control of `no-bank-reset`: after it the TPM has no SHA-256 PCRs."""
    attack = next(attack for attack in POWER_ATTACKS if attack.name == "no-bank-reset")
    with started_tpm(tmp_path_factory.mktemp("bank") / "tpm") as own:
        replay_pcrs(own.tcti, [(9, b"the approved boot".ljust(32))], own.lock)
        host = make_host(own, Owner())
        with open_tpm(own.tcti, own.lock) as tpm:
            attack.prepare(tpm, view_of(host, host.values))
        own.power_cycle()
        with open_tpm(own.tcti, own.lock) as tpm, pytest.raises(TpmFault, match="SHA-256 values"):
            pcr.read(tpm, (9,))
