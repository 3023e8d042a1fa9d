"""An instance's days: listed, shown, joined, stopped, started with its own disk, crashed, erased."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.e2e.console import Terminal
from tests.e2e.network import GREETING, PROMPT, Network

pytestmark = [pytest.mark.tpm, pytest.mark.slow]
AT_HOST = ("--host", "host-1")


def launch(network: Network, *options: str) -> None:
    arguments = ("vm", "launch", network.package, *AT_HOST, "--name", "guest", "--wait", PROMPT)
    assert network.ask(*arguments, *options).code == 0


def test_stop_and_start_keep_the_disk_and_rm_erases_it(network: Network) -> None:
    with network.nothing_left("host-1"):
        launch(network)
        with Terminal(network, "host-1", "guest") as terminal:
            terminal.type("\r")
            terminal.expect(PROMPT)
            assert "note=nothing" in terminal.command("list_env")
            terminal.command("set note=kept")
            terminal.command("save_env note")
            assert terminal.leave() == 0
        assert network.ask("vm", "stop", "guest", "--grace", "0", *AT_HOST).data["state"] == "stopped"
        assert network.helpers() == []
        assert network.ask("vm", "show", "guest", *AT_HOST).data["state"] == "stopped"

        assert network.ask("vm", "start", "guest", *AT_HOST, "--wait", PROMPT).code == 0
        with Terminal(network, "host-1", "guest") as terminal:
            terminal.type("\r")
            terminal.expect(PROMPT)
            assert "note=kept" in terminal.command("list_env")

        running = network.ask("vm", "rm", "guest", *AT_HOST)
        assert (running.code, running.error["code"]) == (14, "conflict")
        folder = network.host_dir("host-1") / "instances" / "guest"
        with (folder / "overlay.luks").open("rb") as disk:  # the file, which its name will not lead to any more
            assert network.ask("vm", "rm", "guest", "--force", *AT_HOST).data == {"name": "guest", "removed": True}
            assert not any(disk.read(4040 * 512))  # all key slots
        assert not folder.exists()
    assert network.ask("vm", "show", "guest", *AT_HOST).error["code"] == "not-found"


def test_the_package_is_as_it_was_after_a_guest_wrote(network: Network) -> None:
    layout = Path(network.package.removeprefix("oci:").rsplit(":", 1)[0])
    before = {path: path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    launch(network)
    with Terminal(network, "host-1", "guest") as terminal:
        terminal.type("\r")
        terminal.expect(PROMPT)
        terminal.command("set note=changed")
        terminal.command("save_env note")
    network.run("vm", "stop", "guest", "--grace", "0", *AT_HOST)
    assert {path: path.read_bytes() for path in layout.rglob("*") if path.is_file()} == before


def test_two_guests_of_one_package_have_disks_of_their_own(network: Network) -> None:
    launch(network)
    again = ("vm", "launch", network.package, *AT_HOST, "--name", "other", "--wait", GREETING)
    assert network.ask(*again).code == 0
    assert [row["name"] for row in network.ask("vm", "list", *AT_HOST).data] == ["guest", "other"]
    assert len(network.helpers()) == 6


@pytest.mark.parametrize("part", ["machine", "storage", "blockserver"])
def test_a_killed_process_is_noticed_and_the_rest_cleaned_up(network: Network, part: str) -> None:
    launch(network)
    os.kill(network.pids("host-1", "guest")[part], 9)
    if part == "machine":
        deadline = time.monotonic() + 5
        while network.ask("vm", "show", "guest", *AT_HOST).data["state"] != "stopped":
            assert time.monotonic() < deadline
    assert network.run("vm", "stop", "guest", "--grace", "0", *AT_HOST).code == 0
    assert network.helpers() == []
    assert network.ask("vm", "start", "guest", *AT_HOST, "--wait", GREETING).code == 0


def test_a_stopped_instance_has_no_console_and_a_running_one_no_start(network: Network) -> None:
    launch(network)
    assert network.ask("vm", "start", "guest", *AT_HOST).error["code"] == "conflict"
    network.run("vm", "stop", "guest", "--grace", "0", *AT_HOST)
    assert network.run("vm", "console", "guest", *AT_HOST).code == 14


def test_an_instance_whose_package_is_gone_is_not_started(network: Network) -> None:
    copy, reference = network.copy_package(network.package, "moved")
    network.ask("vm", "launch", reference, *AT_HOST, "--name", "guest")
    network.run("vm", "stop", "guest", "--grace", "0", *AT_HOST)
    copy.rename(network.work / "elsewhere")
    missing = network.ask("vm", "start", "guest", *AT_HOST)
    assert (missing.code, missing.error["code"]) == (13, "not-found")
    (network.work / "elsewhere").rename(copy)
    assert network.ask("vm", "start", "guest", *AT_HOST, "--wait", GREETING).code == 0


def test_an_instance_of_a_host_that_was_tampered_with_meanwhile_stays_shut(network: Network) -> None:
    launch(network)
    network.run("vm", "stop", "guest", "--grace", "0", *AT_HOST)
    host = network.lab.host("host-1")
    try:
        network.lab.reboot(host, "tampered")
        refused = network.ask("vm", "start", "guest", *AT_HOST)
        assert (refused.code, network.helpers()) == (20, [])
    finally:
        network.lab.reboot(host, "good")
    assert network.ask("vm", "start", "guest", *AT_HOST, "--wait", GREETING).code == 0
