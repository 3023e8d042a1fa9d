"""Hosts with real software TPMs enroll at a real authority over TLS, synchronise, and are refused for each reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.authority import approve
from sealvm.host.config import HostConfig
from sealvm.host.enroll import enroll
from sealvm.host.keyring import Keyring
from sealvm.host.sync import sync
from sealvm.lab.swtpm import LabCa
from sealvm.protocol.operator import ApproveRequest
from sealvm.statements.bundle import verify_stored_bundle
from tests.authority.harness import ACTOR, Authority, ek_digest_of, make_authority, served

pytestmark = pytest.mark.tpm


@pytest.fixture
def network(tmp_path: Path, lab_ca: LabCa) -> Iterator[Authority]:
    """A served authority that accepts the lab's TPMs and has one profile."""
    make_authority(tmp_path / "authority")
    with served(tmp_path / "authority") as authority:
        authority.trust(lab_ca)
        authority.apply()
        yield authority


def test_enroll_approve_sync(network: Authority, host: HostConfig) -> None:
    ticket = network.register("host-1", ek_digest_of(host))
    report = enroll(host.directory, ticket)
    assert report.trust_class == "lab"
    assert report.events > 10
    assert report.new_keys == (("measured", 1, ""),)
    views = approve.approve(network.context, ACTOR, "measured", ApproveRequest(host="host-1"))
    assert [view.outcome for view in views] == ["signed"]
    assert views[0].satisfied_by == ("host-1",)
    again = sync(host.directory)
    assert again.new_keys == ()
    assert again.bundle_version == report.bundle_version + 1
    keyring = Keyring(host.directory)
    bundle = verify_stored_bundle(keyring.bundle(), keyring.anchor().point, keyring.anchor().version)
    assert len(bundle.profiles[0].epochs[0].approvals) == 1
