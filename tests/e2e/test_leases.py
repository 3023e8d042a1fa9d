"""Leased profiles by command: hosts launch for one term at a time, and no longer than the authority lets them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pytest

from sealvm.lab.demo.stage import PROFILE
from tests.e2e.network import GREETING, HOSTS, Done, Network, make_network

pytestmark = [pytest.mark.tpm, pytest.mark.slow]
SHORT, LONG = "leased-short", "leased-long"
TERMS = {SHORT: "8s", LONG: "1h"}


@pytest.fixture(scope="module")
def leased_network() -> Iterator[Network]:
    """A network of this module's own, with two leased profiles and a package for each."""
    with make_network() as made:
        for name in TERMS:
            _apply(made, name)
        profiles = (option for name in (PROFILE, *TERMS) for option in ("--profile", name))
        assert made.ask("provisioner", "trust", "tenant", *profiles).code == 0
        for name in TERMS:
            build = ("package", "build", str(made.image), package(made, name), "--profile", name, "--memory", "64")
            assert made.ask(*build).code == 0
        for host in HOSTS:
            assert made.ask("host", "sync", str(made.host_dir(host))).data["new_keys"]
        yield made


@pytest.fixture
def network(leased_network: Network) -> Iterator[Network]:
    """That network, whose hosts have no instance after the test, and whose authority runs again."""
    yield leased_network
    leased_network.clear()
    leased_network.lab.start_authority()


def _apply(network: Network, name: str) -> None:
    document = (resources.files("sealvm.lab") / "profiles" / f"{PROFILE}.yaml").read_text()
    file = network.work / f"{name}.yaml"
    file.write_text(document.replace(f"name: {PROFILE}", f"name: {name}\nlease: {TERMS[name]}"))
    (epoch,) = network.ask("profile", "apply", str(file)).data["epochs"]
    assert epoch["mode"] == "leased"
    (approval,) = network.ask("profile", "approve", name, "--host", "host-1").data
    assert approval["outcome"] == "signed"


def package(network: Network, profile: str) -> str:
    return f"oci:{network.work / 'package'}:{profile}"


def launch(network: Network, host: str, profile: str, name: str = "guest") -> Done:
    arguments = ("vm", "launch", package(network, profile), "--host", host, "--name", name, "--wait", GREETING)
    return network.ask(*arguments)


def renew(network: Network, host: str, profile: str) -> Done:
    return network.ask("host", "lease", "renew", str(network.host_dir(host)), "--profile", profile)


def lease_of(network: Network, host: str, profile: str) -> dict[str, Any]:
    rows = network.ask("host", "lease", "list", str(network.host_dir(host))).data
    (row,) = (row for row in rows if row["profile"] == profile)
    assert isinstance(row, dict)
    return row


def until_over(network: Network, host: str) -> str:
    """Wait until the short lease of `host` has ended; when that was."""
    ends = str(lease_of(network, host, SHORT)["ends"])
    left = (datetime.fromisoformat(ends) - datetime.now(UTC)).total_seconds()
    time.sleep(max(0.0, left) + 1.5)  # the TPM counts for itself
    assert lease_of(network, host, SHORT)["state"] == "ended"
    return ends


def renewals(network: Network, host: str) -> int:
    rows = network.ask("host", "lease", "granted").data
    return sum(row["renewals"] for row in rows if (row["host"], row["profile"]) == (host, SHORT))


def test_a_host_with_a_lease_starts_the_guest_without_the_authority(network: Network) -> None:
    (renewed,) = renew(network, "host-1", LONG).data
    assert (renewed["state"], renewed["seconds"]) == ("good", 3600)
    network.lab.stop_authority()
    assert launch(network, "host-1", LONG).data["line"] == GREETING


def test_a_tampered_host_gets_no_lease_and_is_refused(network: Network) -> None:
    assert renew(network, "host-3", SHORT).code == 20
    with network.nothing_left("host-3"):
        refused = launch(network, "host-3", SHORT)
    assert (refused.code, refused.error["code"]) == (20, "profile-state-not-approved")
    assert any("PCR 9 differs, from event 21" in line for line in refused.error["explanation_lines"])
    assert lease_of(network, "host-3", SHORT)["state"] == "none"


def test_after_its_end_a_lease_needs_the_authority_and_is_then_renewed_by_the_launch(network: Network) -> None:
    assert renew(network, "host-1", SHORT).code == 0
    network.lab.stop_authority()
    ends = until_over(network, "host-1")
    with network.nothing_left("host-1"):
        refused = network.run("vm", "launch", package(network, SHORT), "--host", "host-1", "--name", "guest")
    assert refused.code == 20
    assert f"lease ended at {ends}" in refused.err
    assert "sealvm host lease renew" in refused.err
    assert renew(network, "host-1", SHORT).code == 43

    network.lab.start_authority()
    before = renewals(network, "host-1")
    assert launch(network, "host-1", SHORT).data["line"] == GREETING
    assert renewals(network, "host-1") == before + 1


def test_a_removed_host_is_shut_out_when_its_lease_ends(network: Network) -> None:
    assert launch(network, "host-2", SHORT).code == 0  # and that renewed it
    assert network.ask("host", "remove", "host-2").data["outcome"] == "removed"
    until_over(network, "host-2")
    assert renew(network, "host-2", SHORT).code == 28
    with network.nothing_left("host-2"):
        refused = launch(network, "host-2", SHORT, "another")
    assert (refused.code, refused.error["lease"]) == (20, "ended")
    assert "renewing it failed" in refused.error["message"]
    network.run("vm", "stop", "guest", "--grace", "0", "--host", "host-2")
    assert network.run("vm", "start", "guest", "--host", "host-2").code == 20
