"""A host that rebooted with other options proves their text without being told to: at enrollment, sync and renewal."""

from __future__ import annotations

import dataclasses

import pytest

from sealvm.authority import approve, profiles
from sealvm.errors import StateRefused
from sealvm.host import config as config_module
from sealvm.host import lease, preimages
from sealvm.host.config import HostConfig, load_host, save_host
from sealvm.host.enroll import enroll
from sealvm.host.sync import sync
from sealvm.protocol.operator import ApplyRequest, ApproveRequest
from tests.authority.harness import ACTOR, GOOD_CMDLINE, Authority, document, ek_digest_of

pytestmark = pytest.mark.tpm


@pytest.fixture
def running(host: HostConfig, monkeypatch: pytest.MonkeyPatch) -> HostConfig:
    """A host whose log is the running system's, with the preimages of the boot before."""
    (host.directory / "cmdline").write_text(f"{GOOD_CMDLINE}\n")
    monkeypatch.setattr(config_module, "SYSTEM_EVENT_LOG", str(host.eventlog))
    monkeypatch.setattr(preimages, "KERNEL_CMDLINE", host.directory / "cmdline")
    assert host.preimages is not None
    host.preimages.write_text('["b2xk"]')
    return host


def apply(network: Authority, cmdline: str) -> None:
    text = document("leased", cmdline=cmdline) + "lease: 1h\n"
    profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=text))


def test_enrollment_sync_and_renewal_bring_them_up_to_date(network: Authority, running: HostConfig) -> None:
    apply(network, GOOD_CMDLINE)
    assert running.preimages is not None
    enroll(running.directory, network.register("host-1", ek_digest_of(running)))
    approve.approve(network.context, ACTOR, "leased", ApproveRequest(host="host-1"))
    running.preimages.write_text("[]")
    sync(running.directory)
    assert preimages.read_preimages(running)
    running.preimages.write_text("[]")
    lease.renew(load_host(running.directory), "leased", 1, "")
    assert preimages.read_preimages(running)


def test_another_text_than_the_measured_one_is_not_sent(network: Authority, running: HostConfig) -> None:
    apply(network, GOOD_CMDLINE)
    enroll(running.directory, network.register("host-1", ek_digest_of(running)))
    approve.approve(network.context, ACTOR, "leased", ApproveRequest(host="host-1"))
    sync(running.directory)
    assert running.preimages is not None
    running.preimages.write_text("[]")
    (running.directory / "cmdline").write_text(f"{GOOD_CMDLINE} quiet\n")
    with pytest.raises(StateRefused, match="cmdline-exact"):
        lease.renew(load_host(running.directory), "leased", 1, "")
    assert preimages.read_preimages(running) == ()


def test_a_host_without_a_preimages_file_gets_one(network: Authority, running: HostConfig) -> None:
    apply(network, GOOD_CMDLINE)
    save_host(dataclasses.replace(running, preimages=None))
    enroll(running.directory, network.register("host-1", ek_digest_of(running)))
    approve.approve(network.context, ACTOR, "leased", ApproveRequest(host="host-1"))
    config = load_host(running.directory)
    assert config.preimages == running.directory / "preimages.json"
    assert config.authority_url
