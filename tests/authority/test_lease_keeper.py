"""Leases kept in the background, and what becomes of VMs that run when one ends: with real TPM, authority and QEMU."""

from __future__ import annotations

import dataclasses
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealvm.authority import approve, profiles
from sealvm.host import lease
from sealvm.host.config import HostConfig, load_host, save_host
from sealvm.host.enroll import enroll
from sealvm.host.hypervisor.base import RunState
from sealvm.host.hypervisor.qemu import Qemu
from sealvm.host.instances import show_instance, stop_instance
from sealvm.host.launch_vm import InstanceSpec, Keys, launch_instance
from sealvm.host.lease_end import Standing
from sealvm.host.lease_keeper import Happening, LeaseKeeper
from sealvm.host.leases import LeaseState, lease_statuses
from sealvm.host.sync import sync
from sealvm.host.unlock import open_keys
from sealvm.lab.image import build_grub_image
from sealvm.package.expression import any_of, parse_expression
from sealvm.package.recipients import ProfileKeyRef, build_recipients
from sealvm.protocol.operator import ApplyRequest, ApproveRequest
from sealvm.secret import Secret
from tests.authority.harness import ACTOR, Authority, document, ek_digest_of
from tests.host import guests

pytestmark = pytest.mark.tpm

NAME = "leased"
QEMU = Qemu("tcg")


def apply(network: Authority, term: str, on_end: str) -> None:
    text = document(NAME) + f"lease: {term}\non_lease_end: {on_end}\n"
    profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=text))


def ready(network: Authority, host: HostConfig, term: str = "1h", on_end: str = "keep") -> HostConfig:
    apply(network, term, on_end)
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    approve.approve(network.context, ACTOR, NAME, ApproveRequest(host="host-1"))
    sync(host.directory)
    return load_host(host.directory)


class Watch:
    """A keeper whose clock can be turned, and what it told."""

    def __init__(self, config: HostConfig) -> None:
        self.offset = timedelta()
        self.told: list[Happening] = []
        self.keeper = LeaseKeeper(config, QEMU, self.told.append, lambda: datetime.now(UTC) + self.offset)

    def step(self) -> tuple[list[str], timedelta]:
        self.told.clear()
        wait = self.keeper.step()
        return [happening.what for happening in self.told], wait


def test_renewed_at_once_and_then_at_half_of_the_term(network: Authority, host: HostConfig) -> None:
    watch = Watch(ready(network, host))
    told, wait = watch.step()
    assert (told, wait) == (["renewed"], timedelta(seconds=60))
    assert watch.step()[0] == []
    watch.offset = timedelta(minutes=31)
    assert watch.step()[0] == ["renewed"]


def test_authority_away_is_told_and_tried_again_sooner_near_the_end(network: Authority, host: HostConfig) -> None:
    config = ready(network, host)
    lease.renew(config, NAME, 1, "")
    save_host(dataclasses.replace(config, authority_url="https://127.0.0.1:1"))
    watch = Watch(load_host(config.directory))
    watch.offset = timedelta(minutes=45)
    told, wait = watch.step()
    assert told == ["failed"]
    assert timedelta(seconds=50) < wait <= timedelta(seconds=60)
    assert "does not answer" in watch.told[0].says
    watch.offset = timedelta(minutes=59, seconds=40)
    told, wait = watch.step()
    assert told == ["failed"]
    assert timedelta(seconds=1) <= wait <= timedelta(seconds=3)
    watch.offset = timedelta(minutes=61)
    assert watch.step()[0] == ["failed", "ended"]
    assert watch.step()[0] == []
    save_host(config)
    watch.keeper.config = config
    watch.offset = timedelta(minutes=63)
    assert watch.step()[0][0] == "renewed"


def test_tpm_that_is_off_is_told(network: Authority, host: HostConfig) -> None:
    config = dataclasses.replace(ready(network, host), tcti="swtpm:path=/nonexistent/tpm")
    told, wait = Watch(config).step()
    assert (told, wait) == (["failed"], timedelta(seconds=1))


def test_standing_and_wishes() -> None:
    standing = Standing(frozenset({"a"}), {"b": "pause", "c": "stop"})
    assert standing.satisfies(any_of(["a", "b"]))
    both = parse_expression({"allOf": [{"profile": "a"}, {"profile": "b"}]})
    assert not standing.satisfies(both)
    assert standing.wish(both) == "pause"
    assert standing.wish(any_of(["b", "c"])) == "stop"
    assert standing.wish(any_of(["d"])) == "keep"


@contextmanager
def running(config: HostConfig, tmp_path: Path) -> Iterator[str]:
    """A guest that runs as an instance whose disk is wrapped to the leased profile."""
    image = build_grub_image(tmp_path / "grub.raw", guests.GREETING)
    leaf = ProfileKeyRef(NAME, 1, "", open_keys(config).point(NAME, 1, ""))
    wrap = build_recipients(Secret(secrets.token_bytes(32)), "0" * 64, [leaf], any_of([NAME]))
    spec = InstanceSpec(
        id="guest",
        layout_dir=tmp_path,
        header_digest="0" * 64,
        disk_bytes=image.stat().st_size,
        memory_mib=32,
    )
    keys = Keys(Secret(secrets.token_bytes(32)), Secret(secrets.token_bytes(32)))
    launched = launch_instance(
        config.directory, spec, keys, wrap, start_block_server=guests.PlainServers(image), hypervisor=QEMU
    )
    launched.console.close()
    try:
        yield spec.id
    finally:
        stop_instance(config.directory, spec.id, QEMU, grace_seconds=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on_end", "state"),
    [("keep", RunState.RUNNING), ("pause", RunState.PAUSED), ("stop", RunState.STOPPED)],
)
def test_on_lease_end(network: Authority, host: HostConfig, tmp_path: Path, on_end: str, state: RunState) -> None:
    config = ready(network, host, on_end=on_end)
    watch = Watch(config)
    assert watch.step()[0] == ["renewed"]
    with running(config, tmp_path) as name:

        def now() -> RunState:
            return show_instance(config.directory, name, QEMU).state

        assert watch.step()[0] == []
        assert now() is RunState.RUNNING
        watch.keeper.config = dataclasses.replace(config, authority_url="https://127.0.0.1:1")
        watch.offset = timedelta(minutes=61)
        told = watch.step()[0]
        assert told == ["failed", "ended"] + {"keep": [], "pause": ["paused"], "stop": ["stopped"]}[on_end]
        assert now() is state
        if on_end == "pause":
            again = Watch(config)  # another process: the mark is on disk
            assert again.step()[0] == ["resumed"]
            assert now() is RunState.RUNNING


@pytest.mark.slow
def test_run_in_the_foreground(network: Authority, host: HostConfig) -> None:
    """The command renews a short lease again and again, until it is interrupted."""
    config = ready(network, host, term="4s")
    command = [sys.executable, "-m", "sealvm.cli", "host", "lease", "run", str(config.directory), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        rows = [json.loads(process.stdout.readline()) for _line in range(3)]
        assert [row["what"] for row in rows] == ["renewed"] * 3
        assert lease_statuses(config, datetime.now(UTC))[0].state is LeaseState.GOOD
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    time.sleep(4.1)
    assert lease_statuses(config, datetime.now(UTC))[0].state is LeaseState.ENDED
