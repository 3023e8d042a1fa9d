"""The first real proof: a host that boots, enrolls from inside, and opens a package in a predicted state only.

Nothing is replayed: OVMF measures into the TPM, and sealvm runs in the host's own Debian. Three boots of one host:

1. with options that nobody approves: it enrolls, and shows which firmware it has. From that, from kernel, initrd and
   the wanted options the next state is predicted, and the prediction is approved: no host was in it yet;
2. with the wanted options: the PCRs are the predicted ones, and the package opens;
3. with the first options again: the TPM refuses, and `host explain` names PCR 9 and the options.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealvm.attest.artefacts import boot_of, load_options
from sealvm.attest.predict import predict
from sealvm.attest.state import MeasuredState, local_state
from sealvm.errors import HypervisorFault
from sealvm.host.explain import BOOT_PCRS
from sealvm.lab.measured_host import MeasuredHost, RunningHost, Start, in_guest
from sealvm.lab.measured_image import ROOT_OPTIONS, measured_system
from sealvm.lab.swtpm import LabCa, make_ca
from sealvm.protocol.messages import JoinTicket
from sealvm.tcg.eventlog import parse_event_log, replay
from tests.measured.network import Network, seal_disk, served
from tests.measured.prediction import approve, artefacts_of, prediction_of

pytestmark = [
    pytest.mark.tpm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="installing a Debian system needs root"),
]

NAME = "measured"
PROFILE = "measured-host"
HOST_DIR = "/var/lib/sealvm/host"
DOCUMENT = """\
name: {name}
description: Debian's kernel, started by the firmware with lockdown.
pcrs: [0, 2, 4, 7, 9]
trust: [lab]
requirements:
  - {{name: kernel, says: the firmware starts the known kernel, fact: kernel.digest, equals: {kernel}}}
  - {{name: only, says: the firmware starts nothing else, fact: bootapps, in: [{kernel}]}}
  - {{name: locked, says: the kernel is locked down, fact: kernel.cmdline, contains: lockdown=integrity}}
  - {{name: exact, says: the options are the known ones, fact: kernel.cmdline, equals: {cmdline}}}
"""


@pytest.fixture(scope="module")
def start(shared_cache: Path) -> Start:
    """How the host is to be started."""
    system = measured_system(shared_cache)
    return Start(system.kernel, system.initrd, f"{ROOT_OPTIONS} lockdown=integrity")


@pytest.fixture(scope="module")
def unlocked(start: Start) -> Start:
    """The same kernel and initrd with other options."""
    return dataclasses.replace(start, options=f"{ROOT_OPTIONS} lockdown=none")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def ca(directory: Path) -> LabCa:
    return make_ca(directory / "ca")


@pytest.fixture(scope="module")
def network(directory: Path, ca: LabCa) -> Iterator[Network]:
    with served(directory, ca) as network:
        yield network


@pytest.fixture(scope="module")
def host(directory: Path, ca: LabCa, shared_cache: Path) -> MeasuredHost:
    host = MeasuredHost(directory / "host", measured_system(shared_cache))
    host.create(ca)
    return host


def program(guest: RunningHost, *arguments: str, code: int = 0) -> Any:
    """What `sealvm ARGUMENTS --json` prints inside the guest."""
    answer = guest.run("sealvm", *arguments, "--json")
    print(f"  {answer.seconds:5.1f} s  sealvm {' '.join(arguments)}  ->  {answer.code}")
    assert answer.code == code, answer.stderr or answer.stdout
    return json.loads(answer.stdout)


def unlock(guest: RunningHost) -> dict[str, Any]:
    """Unwrap the package's key inside the guest and read the whole disk through it."""
    script = ("python3", in_guest("unlock.py"), HOST_DIR, f"oci:{in_guest('packages')}:tenant")
    answer = guest.run("env", f"PYTHONPATH={in_guest('code')}", *script)
    print(f"  {answer.seconds:5.1f} s  unlock  ->  {answer.stdout.strip() or answer.stderr}")
    assert answer.code == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def observed_state(guest: RunningHost) -> MeasuredState:
    """What the guest's firmware and kernel measured, by the guest's own boot log."""
    log = base64.b64decode(guest.run("base64", "/sys/kernel/security/tpm0/binary_bios_measurements").stdout)
    values = {pcr: value for pcr, value in replay(parse_event_log(log)).items() if pcr in BOOT_PCRS}
    return local_state(values, log, [load_options(guest.cmdline)])


def _selected(state: MeasuredState) -> dict[int, bytes]:
    """The PCRs of the profile."""
    return {pcr: state.pcr_values[pcr] for pcr in (0, 2, 4, 7, 9)}


def join(guest: RunningHost, ticket: JoinTicket, ek_digest: str) -> None:
    """Enroll from inside, with the kernel's TPM device and its boot log."""
    program(guest, "host", "init", NAME, "--ek-chain", in_guest("ek-chain.pem"))
    assert program(guest, "host", "ek") == {"ek_digest": ek_digest}
    program(guest, "host", "preimages")
    report = program(guest, "host", "enroll", "--ticket", in_guest("join.ticket"))
    assert (report["host"], report["trust_class"]) == (ticket.host, "lab")
    assert [key["profile"] for key in report["new_keys"]] == [PROFILE]


def test_a_host_that_boots_opens_a_package_in_its_predicted_state_and_in_no_other(
    directory: Path, ca: LabCa, network: Network, host: MeasuredHost, start: Start, unlocked: Start
) -> None:
    ek_digest = host.read_ek_digest()
    (kernel,) = boot_of(artefacts_of(start), secure_boot=False).programs
    with network.client() as client:
        ticket = client.register_host(NAME, ek_digest)
        client.apply_profile(DOCUMENT.format(name=PROFILE, kernel=kernel.hex(), cmdline=start.cmdline))
    packages, disk_digest = seal_disk(directory, network, PROFILE)
    files = {
        "ek-chain.pem": ca.intermediate,
        "join.ticket": ticket.model_dump_json().encode(),
        "packages": packages,
        "unlock.py": Path(__file__).with_name("guest_unlock.py"),
    }

    with host.booted(unlocked, files) as guest:
        assert guest.cmdline == unlocked.cmdline
        join(guest, ticket, ek_digest)
        observed = observed_state(guest)
        guest.power_off()
    assert not observed.flaws
    assert _selected(predict(observed, artefacts_of(unlocked))) == _selected(observed)
    predicted = predict(observed, artefacts_of(start))
    assert _selected(predicted) != _selected(observed)
    (view,) = approve(network.authority_dir, PROFILE, prediction_of(predicted, start))
    assert (view.outcome, view.host, view.satisfied_by, view.not_satisfied_by) == ("signed", "", (), (NAME,))

    with host.booted(start, files) as guest:
        program(guest, "host", "preimages")
        program(guest, "host", "sync")
        assert _selected(observed_state(guest)) == _selected(predicted)
        (answer,) = program(guest, "host", "explain")["profiles"]
        assert answer["usable"]
        assert unlock(guest)["sha256"] == disk_digest
        guest.power_off()
    with network.client() as client:
        assert client.host(NAME).satisfies == (PROFILE,)

    with host.booted(unlocked, files) as guest:
        program(guest, "host", "preimages")
        (answer,) = program(guest, "host", "explain", code=20)["profiles"]
        assert not answer["usable"]
        (difference,) = answer["differences"]
        assert (difference["pcr"], difference["what"]) == (9, "kernel command line")
        assert (difference["approved"], difference["found"]) == (start.cmdline, unlocked.cmdline)
        assert [broken["name"] for broken in answer["breaks"]] == ["locked", "exact"]
        refused = unlock(guest)
        assert refused["refused"] == "profile-state-not-approved"
        assert any("PCR 9" in line for line in refused["lines"])


def test_a_host_that_does_not_come_up_is_reported_with_its_console(host: MeasuredHost, start: Start) -> None:
    panics = dataclasses.replace(start, options="console=ttyS0 panic=-1 rdinit=/nothing")
    with pytest.raises(HypervisorFault, match=r"went off; its console: .*kernel_init"), host.booted(panics, {}):
        pass
