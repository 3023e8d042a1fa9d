"""The lab: made once, switched on and off, and found again by the hosts that enrolled in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.client.operator import operator_client
from sealvm.errors import AuthorityAwayFault, ConflictError, EnvironmentFault, NotFoundError
from sealvm.host.config import load_host
from sealvm.host.enroll import enroll, read_ek_digest
from sealvm.host.sync import sync
from sealvm.lab.authority import prepare_authority
from sealvm.lab.network import Lab
from sealvm.lab.recording import load_recording
from sealvm.tpm import pcr

pytestmark = pytest.mark.tpm


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab of one host in a folder with a short path, switched on."""
    folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    made = Lab(folder / "lab")
    made.create({"host-1": "good"})
    made.power_on(made.host("host-1"))
    yield made
    made.down(remove=True)
    shutil.rmtree(folder)


def pcrs(lab: Lab) -> dict[int, bytes]:
    with load_host(lab.host("host-1").directory).open_tpm() as tpm:
        return dict(pcr.read(tpm, range(10)))


def test_a_host_carries_its_recorded_boot(lab: Lab) -> None:
    recorded = load_recording("good").pcr_values
    assert pcrs(lab) == {index: recorded[index] for index in range(10)}
    lab.power_on(lab.host("host-1"))  # once more changes nothing
    assert pcrs(lab) == {index: recorded[index] for index in range(10)}
    lab.reboot(lab.host("host-1"), "tampered")
    assert pcrs(lab)[9] == load_recording("tampered").pcr_values[9] != recorded[9]


def test_what_is_on_goes_off_and_on_again(lab: Lab) -> None:
    pid = lab.host("host-1").tpm.running_pid
    lab.down(remove=False)
    assert lab.host("host-1").tpm.running_pid is None
    assert lab.exists
    lab.power_on(lab.host("host-1"))
    assert lab.host("host-1").tpm.running_pid not in (None, pid)


@pytest.mark.slow
def test_an_enrolled_host_finds_the_authority_again_after_a_restart(lab: Lab) -> None:
    host = lab.host("host-1").directory
    prepare_authority(lab)
    with operator_client(lab.authority_dir) as client:
        ticket = client.register_host("host-1", read_ek_digest(load_host(host)))
    enroll(host, ticket)
    pid = lab.stop_authority()
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    assert lab.authority_pid is None
    assert lab.stop_authority() is None
    with pytest.raises(AuthorityAwayFault):
        sync(host)
    assert lab.start_authority() == lab.authority_pid == lab.start_authority()
    assert sync(host).host == "host-1"
    prepare_authority(lab)  # may be repeated
    with operator_client(lab.authority_dir) as client:
        assert len(client.roots()) == 1


@pytest.mark.slow
def test_an_authority_that_was_killed_is_not_taken_for_a_running_one(lab: Lab) -> None:
    prepare_authority(lab)
    pid = lab.authority_pid
    assert pid is not None
    os.kill(pid, 9)
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        pass
    assert lab.authority_pid is None
    assert lab.start_authority() != pid


def test_an_authority_that_cannot_start_says_why(lab: Lab) -> None:
    lab.authority_dir.mkdir()
    with pytest.raises(EnvironmentFault, match=r"the authority did not start: .*no authority"):
        lab.start_authority()


def test_a_lab_is_made_once(lab: Lab) -> None:
    with pytest.raises(ConflictError, match="already"):
        lab.create()


def test_a_lab_with_an_unknown_boot_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no recorded boot 'nope'"):
        Lab(tmp_path / "lab").create({"host-1": "nope"})
    assert not (tmp_path / "lab").exists()


def test_a_lab_that_is_not_there_has_no_hosts(tmp_path: Path, lab: Lab) -> None:
    with pytest.raises(NotFoundError, match="no lab in"):
        Lab(tmp_path / "none").hosts()
    with pytest.raises(NotFoundError, match="no host 'host-2'"):
        lab.host("host-2")
    Lab(tmp_path / "none").down(remove=True)  # nothing to do


def test_a_lab_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with pytest.raises(EnvironmentFault, match="path of a Unix socket"):
        Lab(deep).create({"host-1": "good"})
    assert not Lab(deep).exists
