"""What a user gets wrong: a clear error, a documented exit code, and nothing half written."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sealvm.lab.demo.stage import PROFILE
from tests.e2e.network import GREETING, Network

pytestmark = pytest.mark.tpm
FOR_PROFILE = ("--profile", PROFILE)


def tags(layout: Path) -> list[str]:
    entries = json.loads((layout / "index.json").read_text())["manifests"] if layout.exists() else []
    return [entry.get("annotations", {}).get("org.opencontainers.image.ref.name", "") for entry in entries]


def blobs(layout: Path) -> list[str]:
    return sorted(path.name for path in (layout / "blobs").rglob("*") if path.is_file())


def bad_image(kind: str, path: Path) -> Path:
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "odd":
            path.write_bytes(b"x" * 1000)
        case "qcow2":
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "unreadable":
            path.symlink_to("/proc/self/mem")  # even root can only open it
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "odd", "qcow2", "folder", "pipe", "unreadable"])
def test_an_image_that_cannot_be_read_makes_no_package(network: Network, tmp_path: Path, kind: str) -> None:
    image = bad_image(kind, tmp_path / "disk.raw")
    target = tmp_path / "target"
    refused = network.ask("package", "build", str(image), f"oci:{target}:x", *FOR_PROFILE)
    assert (refused.code, refused.error["code"]) == (12, "image-unreadable")
    assert str(image) in refused.error["message"]
    assert tags(target) == []
    assert not target.exists() or blobs(target) == []


@pytest.mark.slow
def test_a_failed_build_leaves_the_packages_that_are_there(network: Network, tmp_path: Path) -> None:
    layout = Path(network.package.removeprefix("oci:").rsplit(":", 1)[0])
    before = tags(layout), blobs(layout)
    image = bad_image("odd", tmp_path / "disk.raw")
    assert network.run("package", "build", str(image), network.package, *FOR_PROFILE).code == 12
    assert (tags(layout), blobs(layout)) == before


UNKNOWN_PROFILE = {
    "build": ("package", "build", "disk.raw", "oci:nowhere:x", "--profile", "nope"),
    "show": ("profile", "show", "nope"),
    "approve": ("profile", "approve", "nope", "--host", "host-1"),
    "explain": ("host", "explain", "host-1", "--profile", "nope"),
    "trust": ("provisioner", "trust", "somebody", "--profile", "nope"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", UNKNOWN_PROFILE)
def test_a_profile_that_does_not_exist_is_not_found(network: Network, command: str) -> None:
    refused = network.ask(*UNKNOWN_PROFILE[command])
    assert (refused.code, refused.error["code"]) == (13, "not-found"), refused.err
    assert "nope" in refused.error["message"]
    assert not (network.work / "nowhere").exists()


NOT_THERE = {
    "host": ("vm", "list", "--host", "host-9"),
    "instance": ("vm", "show", "nobody", "--host", "host-1"),
    "layout": ("vm", "launch", "oci:nowhere:x", "--host", "host-1"),
    "tag": ("vm", "launch", "oci:package:nope", "--host", "host-1"),
    "host to approve": ("profile", "approve", PROFILE, "--host", "host-9"),
    "profile's file": ("profile", "apply", "nowhere.yaml"),
    "ticket": ("host", "enroll", "host-1", "--ticket", "nowhere.ticket"),
    "authority": ("profile", "list", "--authority", "nowhere"),
    "provisioner's key": ("package", "build", "disk.raw", "oci:n:x", *FOR_PROFILE, "--provisioner", "nowhere"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", NOT_THERE)
def test_what_is_not_there_is_not_found_and_hinted_at(network: Network, what: str) -> None:
    refused = network.ask(*NOT_THERE[what])
    assert (refused.code, refused.error["code"]) == (13, "not-found"), refused.err
    assert refused.error["hint"]


UNUSABLE = {
    "reference": (("vm", "launch", "package", "--host", "host-1"), 10),
    "tag": (("vm", "launch", "oci:package:_/", "--host", "host-1"), 10),
    "instance name": (("vm", "launch", "oci:package:good", "--host", "host-1", "--name", "../x"), 10),
    "small disk": (("vm", "launch", "oci:package:good", "--host", "host-1", "--disk-size", "1"), 10),
    "lineage": (("package", "build", "disk.raw", "oci:n:x", *FOR_PROFILE, "--lineage", "xyz"), 10),
    "compression": (("package", "build", "disk.raw", "oci:n:x", *FOR_PROFILE, "--compression", "rar"), 10),
    "chunk size": (("package", "build", "disk.raw", "oci:n:x", *FOR_PROFILE, "--chunk-size", "5"), 11),
    "profile's YAML": (("profile", "apply", "disk.raw"), 11),
    "root": (("authority", "root", "add", "disk.raw", "--class", "lab"), 11),
    "no layout": (("package", "build", "disk.raw", "oci:lab:x", *FOR_PROFILE), 11),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", UNUSABLE)
def test_what_cannot_be_used_is_said_to_be(network: Network, what: str) -> None:
    arguments, exit_code = UNUSABLE[what]
    with network.nothing_left("host-1"):
        refused = network.ask(*arguments)
    assert refused.code == exit_code, refused.err
    assert not (network.work / "n" / "index.json").exists() or tags(network.work / "n") == []


def test_a_provisioner_nobody_trusts_is_refused_by_hosts_and_verifiers(network: Network, tmp_path: Path) -> None:
    assert network.run("provisioner", "init", "--provisioner", str(tmp_path / "own")).code == 0
    package = network.build("foreign", "--provisioner", str(tmp_path / "own"))
    with network.nothing_left("host-1"):
        refused = network.ask("vm", "launch", package, "--host", "host-1", "--name", "guest")
    assert (refused.code, refused.error["code"]) == (23, "signer-not-trusted")
    assert network.ask("package", "verify", package).code == 23
    assert network.ask("package", "inspect", package).code == 0  # which looks, and says that it checks nothing


@pytest.mark.slow
def test_making_again_what_is_there_is_a_conflict(network: Network) -> None:
    for arguments in (
        ("provisioner", "init"),
        ("authority", "init"),
        ("host", "init", "x", "--directory", "lab/hosts/host-1"),
    ):
        refused = network.ask(*arguments)
        assert (refused.code, refused.error["code"]) == (14, "conflict"), refused.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_build_leaves_no_package_and_can_be_run_again(
    network: Network, tmp_path: Path, number: signal.Signals
) -> None:
    image, target = tmp_path / "disk.raw", tmp_path / "target"
    with image.open("wb") as disk:
        piece = secrets.token_bytes(1 << 20)
        for _ in range(64):
            disk.write(piece)
    slowly = ("--compression", "zstd:19")  # so that the signal comes in time
    arguments = ("package", "build", str(image), f"oci:{target}:x", *FOR_PROFILE, *slowly)
    # tests that run in the background of a shell inherit a SIGINT that is ignored
    process = network.start(*arguments, prefix=("env", "--default-signal=INT"))
    deadline = time.monotonic() + 30
    while sum(path.stat().st_size for path in target.rglob(".partial-*")) < 4 << 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _out, err = process.communicate(timeout=30)
    if number is signal.SIGINT:
        assert (process.returncode, err.strip()) == (130, "sealvm: interrupted")
    assert process.returncode != 0
    assert tags(target) == []
    assert all(name.startswith(".partial-") for name in blobs(target))
    assert number is not signal.SIGINT or blobs(target) == []
    assert network.run("vm", "launch", f"oci:{target}:x", "--host", "host-1").code == 13

    with image.open("r+b") as disk:
        disk.truncate(1 << 20)
    assert network.ask(*arguments).code == 0
    assert tags(target) == ["x"]
    assert not any(name.startswith(".partial-") for name in blobs(target))


@pytest.mark.slow
def test_waiting_in_vain_says_so_and_leaves_the_guest_running(network: Network) -> None:
    waiting = ("--wait", "what is never said", "--timeout", "2")
    late = network.ask("vm", "launch", network.package, "--host", "host-1", "--name", "guest", *waiting)
    assert (late.code, late.error["code"]) == (44, "hypervisor-fault")
    assert GREETING in late.error["lines"]
    assert network.ask("vm", "show", "guest", "--host", "host-1").data["state"] == "running"
