"""The launch pipeline from within: what the operator may choose, what is undone, where the time goes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sealvm.errors import HypervisorFault, InputError, NotFoundError, RollbackRefused, StateRefused
from sealvm.host import lineages
from sealvm.host.config import load_host
from sealvm.host.hypervisor.base import Machine, MachineSpec
from sealvm.host.hypervisor.qemu import Qemu
from sealvm.host.instances import show_instance, wait_console
from sealvm.host.launch import LaunchOptions, LaunchReport, StepTimes, launch, start
from sealvm.store.reference import parse_reference
from tests.e2e.network import GREETING, Network

pytestmark = pytest.mark.tpm
QEMU = Qemu("tcg")
MIB = 1 << 20


class Broken(Qemu):
    """A hypervisor whose machine cannot be made."""

    def create(self, spec: MachineSpec) -> Machine:
        raise HypervisorFault("no machine today")


def launched(network: Network, options: LaunchOptions, host: str = "host-1") -> LaunchReport:
    report = launch(load_host(network.host_dir(host)), parse_reference(network.package), options, QEMU)
    report.launched.console.close()
    return report


def test_the_package_says_what_the_operator_does_not(network: Network) -> None:
    report = launched(network, LaunchOptions(name="guest"))
    record = report.launched.record
    assert (record.memory_mib, record.cpus, record.disk_bytes) == (64, 1, network.image.stat().st_size)
    assert record.header_digest == report.package.header_digest
    assert record.labels["provisioner"] == report.package.provisioner_keyid
    assert list(report.steps.seconds) == ["verify", "unwrap", "start"]
    assert 0 < report.tpm_seconds < report.steps.seconds["unwrap"] + 1


def test_the_operator_chooses_memory_processors_and_a_larger_disk(network: Network) -> None:
    options = LaunchOptions("guest", memory_mib=96, cpus=2, disk_bytes=32 * MIB)
    record = launched(network, options).launched.record
    assert (record.memory_mib, record.cpus, record.disk_bytes) == (96, 2, 32 * MIB)
    assert show_instance(network.host_dir("host-1"), "guest", QEMU).record == record


def test_a_name_is_made_up_where_none_is_given(network: Network) -> None:
    first, second = (launched(network, LaunchOptions()).launched.record.id for _ in range(2))
    assert first != second
    assert first.startswith("vm-")


def test_a_disk_smaller_than_the_image_is_refused_before_the_tpm_is_asked(network: Network) -> None:
    with network.nothing_left("host-3"), pytest.raises(InputError, match="smaller than the image"):
        launched(network, LaunchOptions(disk_bytes=MIB), "host-3")  # whose TPM would refuse, were it asked


def test_an_older_version_is_refused_before_the_tpm_is_asked(network: Network, tmp_path: Path) -> None:
    report = launched(network, LaunchOptions())
    config = load_host(network.copy_host("host-3", tmp_path / "host"))
    path = config.directory / lineages.FILE
    path.write_text(f'{{"{report.package.header.lineage.hex()}": 9}}')
    with pytest.raises(RollbackRefused):
        launch(config, parse_reference(network.package), LaunchOptions(), QEMU)


def test_a_refusal_by_the_tpm_carries_its_explanation(network: Network) -> None:
    with network.nothing_left("host-3"), pytest.raises(StateRefused) as refused:
        launched(network, LaunchOptions(), "host-3")
    lines = refused.value.fields["explanation_lines"]
    assert isinstance(lines, list)
    assert lines[0].startswith("PCR 9 differs, from event 21")


def test_a_hypervisor_that_fails_leaves_nothing_but_the_version_that_it_was_to_start(
    network: Network, tmp_path: Path
) -> None:
    config = load_host(network.copy_host("host-1", tmp_path / "host"))
    (config.directory / lineages.FILE).unlink(missing_ok=True)
    with network.nothing_left("host-1"), pytest.raises(HypervisorFault, match="no machine today"):
        launch(config, parse_reference(network.package), LaunchOptions("guest"), Broken("tcg"))
    assert not list((config.directory / "instances").iterdir())
    assert (config.directory / lineages.FILE).exists()


def test_a_stopped_instance_starts_with_its_own_disk_key(network: Network) -> None:
    launched(network, LaunchOptions("guest"))
    network.run("vm", "stop", "guest", "--host", "host-1", "--grace", "0")
    report = start(load_host(network.host_dir("host-1")), "guest", QEMU)
    with report.launched.console:
        assert wait_console(report.launched, GREETING, 20, QEMU).lines[-1] == GREETING
    assert report.tpm_uses == 2  # the package's key, and the disk's


def test_an_instance_that_is_not_there_is_not_found(network: Network) -> None:
    with pytest.raises(NotFoundError):
        start(load_host(network.host_dir("host-1")), "nobody", QEMU)


def test_step_times_are_taken_in_order() -> None:
    steps = StepTimes()
    for name in ("one", "two"):
        with steps.step(name):
            time.sleep(0.01)
    assert list(steps.seconds) == ["one", "two"]
    assert all(seconds >= 0.01 for seconds in steps.seconds.values())
