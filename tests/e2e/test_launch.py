"""The main job: the same package starts on hosts in the approved state, on no other, and needs nobody for it."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.e2e.network import GREETING, Network

pytestmark = pytest.mark.tpm
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="an empty network namespace needs root")


@pytest.mark.parametrize("host", ["host-1", "host-2"])
def test_a_host_in_the_approved_state_starts_the_guest(network: Network, host: str) -> None:
    started = network.ask("vm", "launch", network.package, "--host", host, "--name", "guest", "--wait", GREETING)
    assert started.data["line"] == GREETING
    assert started.data["tpm_uses"] == 1
    (listed,) = network.ask("vm", "list", "--host", host).data
    assert (listed["name"], listed["state"], listed["reference"]) == ("guest", "running", network.package)


@pytest.mark.slow
def test_people_are_told_as_well(network: Network) -> None:
    started = network.run("vm", "launch", network.package, "--host", "host-1", "--wait", GREETING, "--report")
    assert started.code == 0
    assert f"  guest> {GREETING}" in started.out.splitlines()
    assert all(step in started.out for step in ("verify", "unwrap", "start"))


def test_a_tampered_host_is_refused_and_told_why(network: Network) -> None:
    with network.nothing_left("host-3"):
        refused = network.run("vm", "launch", network.package, "--host", "host-3", "--name", "guest")
    assert refused.code == 20
    assert refused.out == ""
    assert "(profile-state-not-approved, exit 20)" in refused.err
    lines = [line.strip() for line in refused.err.splitlines()]
    assert "PCR 9 differs, from event 21: kernel command line" in lines
    assert "approved: root=/dev/vda ro lockdown=integrity initrd=initrd" in lines
    assert "found:    root=/dev/vda ro init=/bin/sh initrd=initrd" in lines
    assert not (network.host_dir("host-3") / "lineages.json").exists()


@pytest.mark.slow
def test_the_refusal_is_machine_readable(network: Network) -> None:
    refused = network.ask("vm", "launch", network.package, "--host", "host-3", "--name", "guest")
    assert refused.error["code"] == "profile-state-not-approved"
    assert any("PCR 9 differs, from event 21" in line for line in refused.error["explanation_lines"])


def test_explain_says_the_same_before_anybody_launches(network: Network) -> None:
    explained = network.run("host", "explain", "host-3", "--json")
    assert explained.code == 20
    (answer,) = json.loads(explained.out)["profiles"]
    assert (answer["usable"], answer["holds_key"]) == (False, True)
    assert [(d["pcr"], d["event_index"]) for d in answer["differences"]] == [(9, 21)]
    assert "PCR 9 differs, from event 21: kernel command line" in network.run("host", "explain", "host-3").out
    assert network.run("host", "explain", "host-1").code == 0


@needs_root
def test_with_the_authority_dead_and_the_network_cut_a_host_launches(network: Network) -> None:
    assert network.lab.stop_authority() is not None
    empty = ("unshare", "--net")
    away = network.ask("host", "sync", "host-2", prefix=empty)
    assert (away.code, away.error["code"]) == (43, "authority-away")
    arguments = ("vm", "launch", network.package, "--host", "host-2", "--name", "guest", "--wait", GREETING)
    assert network.ask(*arguments, prefix=empty).data["line"] == GREETING
    refused = network.ask("vm", "launch", network.package, "--host", "host-3", "--name", "guest", prefix=empty)
    assert refused.code == 20


@pytest.mark.slow
def test_an_older_version_of_a_lineage_is_refused(network: Network) -> None:
    lineage = "0123456789abcdef" * 2
    old = network.build("old", "--lineage", lineage, "--version", "3", "--memory", "64")
    new = network.build("new", "--lineage", lineage, "--version", "7", "--memory", "64")
    assert network.ask("vm", "launch", new, "--host", "host-1", "--name", "newer").data["version"] == 7
    with network.nothing_left("host-1"):
        refused = network.ask("vm", "launch", old, "--host", "host-1", "--name", "older")
    assert (refused.code, refused.error["code"]) == (27, "rollback")
    assert "3" in refused.error["message"]
    assert "7" in refused.error["message"]
    # a host that has not seen the newer one starts it
    assert network.ask("vm", "launch", old, "--host", "host-2", "--name", "older").data["version"] == 3


@pytest.mark.slow
def test_a_taken_name_is_a_conflict_and_the_running_guest_stays(network: Network) -> None:
    first = ("vm", "launch", network.package, "--host", "host-1", "--name", "guest", "--wait", GREETING)
    assert network.ask(*first).code == 0
    with network.nothing_left("host-1"):
        assert network.ask(*first[:-2]).error["code"] == "conflict"
    assert network.ask("vm", "show", "guest", "--host", "host-1").data["state"] == "running"


@pytest.mark.slow
@pytest.mark.parametrize("moment_seconds", [0.0, 0.1, 0.4])
def test_a_launch_killed_in_between_leaves_nothing_that_cannot_be_removed(
    network: Network, moment_seconds: float
) -> None:
    with network.nothing_left("host-1"):
        process = network.start("vm", "launch", network.package, "--host", "host-1", "--name", "guest")
        record = network.host_dir("host-1") / "instances" / "guest" / "instance.json"
        while not record.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.005)
        time.sleep(moment_seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (listed,) = network.ask("vm", "list", "--host", "host-1").data
        assert listed["state"] in ("stopped", "running", "paused", "starting")
        assert network.run("vm", "rm", "guest", "--host", "host-1", "--force").code == 0
