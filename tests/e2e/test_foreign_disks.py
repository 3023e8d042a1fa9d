"""Whoever can write to a host's storage while it is off: another disk in an instance's place is not started from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealvm.crypto.labels import label_digest
from sealvm.host.config import load_host
from sealvm.host.luks import new_header
from sealvm.host.unlock import accepted_provisioners, open_keys
from sealvm.package.open import open_package
from sealvm.package.recipients import build_recipients
from sealvm.provisioner.recipients import profile_key_refs
from sealvm.secret import Secret
from sealvm.store.layout import OciLayout
from sealvm.store.reference import parse_reference
from tests.e2e.network import GREETING, Network

pytestmark = [pytest.mark.tpm, pytest.mark.slow]
AT_HOST = ("--host", "host-1")


@pytest.fixture
def stopped(network: Network) -> tuple[Path, Path]:
    """The folders of two stopped instances of one package."""
    for name in ("guest", "other"):
        started = ("vm", "launch", network.package, *AT_HOST, "--name", name, "--wait", GREETING)
        assert network.ask(*started).code == 0
        assert network.ask("vm", "stop", name, "--grace", "0", *AT_HOST).code == 0
    folder = network.host_dir("host-1") / "instances"
    return folder / "guest", folder / "other"


def start(network: Network) -> tuple[int, str]:
    done = network.ask("vm", "start", "guest", *AT_HOST)
    return done.code, done.error["code"]


def test_the_disk_of_another_instance_is_refused(network: Network, stopped: tuple[Path, Path]) -> None:
    own, other = stopped
    (own / "overlay.luks").write_bytes((other / "overlay.luks").read_bytes())
    assert start(network) == (24, "integrity")
    (own / "overlay.wrap").write_bytes((other / "overlay.wrap").read_bytes())
    assert start(network)[0] == 24


def test_a_disk_with_a_wrap_of_its_own_is_refused(network: Network, stopped: tuple[Path, Path]) -> None:
    """All that a wrap needs is public: the profiles' keys, the package's identity, the instance's name."""
    own, _other = stopped
    config = load_host(network.host_dir("host-1"))
    bundle = open_keys(config).bundle
    place = parse_reference(network.package)
    with OciLayout.open(place.directory) as layout:
        header = open_package(layout, place.tag, accepted_provisioners(bundle)).header
    refs = profile_key_refs(bundle, [profile.name for profile in bundle.profiles])
    known = Secret(os.urandom(32))
    context = label_digest("overlay", bytes.fromhex(header.digest), b"guest").hex()
    (own / "overlay.wrap").write_bytes(build_recipients(known, context, refs, header.expression))
    payload = (own / "overlay.luks").read_bytes()[4040 * 512 :]
    (own / "overlay.luks").write_bytes(new_header(known) + payload)
    assert start(network) == (24, "integrity")


def test_a_record_that_names_another_directory_is_not_acted_upon(network: Network, stopped: tuple[Path, Path]) -> None:
    own, other = stopped
    record = own / "instance.json"
    record.write_text(record.read_text().replace('"runtime_dir": ""', f'"runtime_dir": "{other}"'))
    assert network.ask("vm", "stop", "guest", *AT_HOST).code == 11
    assert (other / "overlay.luks").exists()
