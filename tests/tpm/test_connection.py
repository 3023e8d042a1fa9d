from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from sealvm.errors import InputError, StorageFault, TpmAwayFault, TpmFault
from sealvm.lab.swtpm import Swtpm
from sealvm.tcg import templates
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.structures import ESYS_TR, TPM2_CC, pcr_selection, public_area
from tests.tpm.rig import Owner

pytestmark = pytest.mark.tpm

TRANSIENT, LOADED_SESSIONS = 0x80000000, 0x02000000


def load_something(tpm: Tpm) -> object:
    public = templates.verifier_public(Owner().approver.point)
    return tpm.run("load_external", in_public=public_area(public, "key"), hierarchy=ESYS_TR.OWNER)


@pytest.mark.parametrize("tcti", ["swtpm:path=/nonexistent/tpm", "device:/nonexistent"])
def test_no_tpm_is_away(tcti: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TpmAwayFault) as caught, open_tpm(tcti):
        pass
    assert tcti in caught.value.message
    assert caught.value.hint
    assert capfd.readouterr().err == "", "raw TPM errors never reach a person"


@pytest.mark.parametrize("kind", ["cmd:touch {}", "nothing:like={}", "{}.so", "libtss2-tcti-cmd.so.0:touch {}", ""])
def test_an_address_that_runs_or_loads_something_is_refused(kind: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(InputError, match="TPM address"), open_tpm(kind.format(ran)):
        pass
    assert not ran.exists()


def test_tpm_that_dies_is_away(own_swtpm: Swtpm) -> None:
    with pytest.raises(TpmAwayFault, match="does not answer"), open_tpm(own_swtpm.tcti) as tpm:
        tpm.run("get_random", bytes_requested=8)
        own_swtpm.stop()
        tpm.run("get_random", "drawing randomness", bytes_requested=8)


def test_lock_that_is_held_is_a_clear_fault(swtpm: Swtpm, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TpmAwayFault, match="in use"), open_tpm(swtpm.tcti, tmp_path / "lock", lock_seconds=0.05):
            pass


def test_lock_is_released(swtpm: Swtpm, tmp_path: Path) -> None:
    for _time in range(2):
        with open_tpm(swtpm.tcti, tmp_path / "lock", lock_seconds=0.05):
            pass
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_lock_that_cannot_be_made(swtpm: Swtpm, tmp_path: Path) -> None:
    with pytest.raises(StorageFault, match="lock"), open_tpm(swtpm.tcti, tmp_path / "missing" / "lock"):
        pass


def test_block_flushes_what_it_made(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm:
        with pytest.raises(ZeroDivisionError), tpm.flushing(load_something(tpm)), tpm.policy_session():
            assert tpm.handles(TRANSIENT)
            assert tpm.handles(LOADED_SESSIONS)
            raise ZeroDivisionError
        assert tpm.handles(TRANSIENT) == []
        assert tpm.handles(LOADED_SESSIONS) == []


def test_slots_left_by_another_process_are_swept(swtpm: Swtpm) -> None:
    for _process in range(3):
        with open_tpm(swtpm.tcti) as tpm:
            for _slot in range(3):
                load_something(tpm)
                tpm.policy_session().__enter__()
            assert len(tpm.handles(TRANSIENT)) == 3


def test_full_slots_are_a_fault_with_a_hint(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm, pytest.raises(TpmFault) as caught:
        for _slot in range(4):
            load_something(tpm)
    assert caught.value.fields["decoded"] == "TPM_RC_OBJECT_MEMORY"
    assert "tpmrm0" in caught.value.hint


def test_fault_names_command_code_and_place(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm, tpm.policy_session() as session, pytest.raises(TpmFault) as caught:
        tpm.run("policy_pcr", "binding", policy_session=session, pcr_digest=bytes(32), pcrs=pcr_selection([0]))
    fields = caught.value.fields
    assert (fields["command"], fields["decoded"], fields["policy"]) == (
        "policy_pcr",
        "TPM_RC_VALUE (parameter 1)",
        True,
    )
    assert caught.value.message == "binding: the TPM answered TPM_RC_VALUE (parameter 1)"


def test_bad_argument_of_a_plain_command_is_no_policy_refusal(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm, pytest.raises(TpmFault) as caught:
        tpm.run("evict_control", auth=ESYS_TR.OWNER, object_handle=load_something(tpm), persistent_handle=0x81000002)
    assert caught.value.fields["policy"] is False


def test_persistent_handle_that_is_empty(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm:
        assert tpm.persistent(0x81000777) is None


def test_commands_are_counted(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm, tpm.policy_session() as session:
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.Load)
        assert tpm.counts["policy_command_code"] == 1
        assert tpm.counts["ecdh_zgen"] == 0
