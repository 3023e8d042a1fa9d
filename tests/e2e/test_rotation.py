"""An epoch's end by command: rotation, re-wrapping, retirement, with packages and instances from before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sealvm.lab.demo.stage import PROFILE
from tests.e2e.network import GREETING, HOSTS, Network, make_network

pytestmark = [pytest.mark.tpm, pytest.mark.slow]
RETIRE = ("profile", "retire", PROFILE, "--epoch", "1")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A network of this module's own: its profile's first epoch ends here."""
    with make_network() as made:
        yield made


def sync(network: Network, host: str) -> dict[str, object]:
    report = network.ask("host", "sync", str(network.host_dir(host))).data
    assert isinstance(report, dict)
    return report


def launches(network: Network, host: str, name: str, *, keep: bool = False) -> None:
    """The package starts on `host`; the instance is removed again unless it is to be kept."""
    arguments = ("vm", "launch", network.package, "--host", host, "--name", name, "--wait", GREETING)
    assert network.ask(*arguments).data["line"] == GREETING
    if not keep:
        assert network.run("vm", "rm", name, "--force", "--host", host).code == 0


def blocked_by(network: Network) -> list[str]:
    """What keeps the first epoch from being retired, which is refused for it."""
    refused = network.ask(*RETIRE)
    assert (refused.code, refused.error["code"]) == (14, "conflict")
    foreseen = network.ask(*RETIRE, "--dry-run").data["blocking"]
    assert foreseen == refused.error["blocking"]
    assert isinstance(foreseen, list)
    return foreseen


def test_an_epoch_from_its_successor_to_its_end(network: Network) -> None:
    assert network.ask(*RETIRE).code == 14  # the only one
    launches(network, "host-2", "kept", keep=True)
    sync(network, "host-2")  # reports the disk
    _layout, old = network.copy_package(network.package, "before")

    (epoch,) = network.ask("profile", "rotate", PROFILE).data["epochs"]
    assert (epoch["epoch"], len(epoch["carried"])) == (2, 1)
    assert sync(network, "host-1")["new_keys"] == [{"profile": PROFILE, "epoch": 2, "cell": ""}]
    launches(network, "host-1", "guest")
    launches(network, "host-2", "guest")  # which does not know of it yet

    assert blocked_by(network) == ["host-2/kept (disk)", "host-2/kept (package)"]
    wrapped = network.ask("package", "rewrap", network.package).data
    assert wrapped["after"] == [f"{PROFILE} epoch 1", f"{PROFILE} epoch 2"]
    launches(network, "host-1", "guest")
    launches(network, "host-2", "guest")
    assert blocked_by(network) == ["host-2/kept (disk)", "host-2/kept (package)"]  # as the host last said
    assert sync(network, "host-2")["rewrapped"] == ["kept"]

    assert network.ask(*RETIRE).data["behind"] == ["host-3"]
    for host in HOSTS:
        assert sync(network, host)["removed_keys"] == [{"profile": PROFILE, "epoch": 1, "cell": ""}]
    again = network.ask("profile", "approve", PROFILE, "--host", "host-1", "--epoch", "1")
    assert (again.code, again.error["code"]) == (14, "conflict")
    assert "epoch 1" in again.error["message"]
    assert "retired" in again.error["message"]

    assert network.run("vm", "stop", "kept", "--grace", "0", "--host", "host-2").code == 0
    assert network.ask("vm", "start", "kept", "--host", "host-2", "--wait", GREETING).code == 0
    launches(network, "host-1", "guest")
    with network.nothing_left("host-1"):
        gone = network.ask("vm", "launch", old, "--host", "host-1", "--name", "guest")
    assert (gone.code, gone.error["code"]) == (21, "no-usable-recipient"), gone.err
    assert "re-wrapped" in gone.error["hint"]
    refused = network.ask("vm", "launch", network.package, "--host", "host-3", "--name", "guest")
    assert refused.code == 20
