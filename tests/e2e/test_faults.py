"""What breaks around the program: TPM, authority, disk. A fault is a fault, never a refusal, and costs nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.crypto.ec import point_from_pem
from sealvm.lab.demo.stage import PROFILE
from tests.e2e.layouts import flip
from tests.e2e.network import GREETING, Network

pytestmark = [pytest.mark.tpm, pytest.mark.slow]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")

AT_THE_TPM = {
    "launch": ("vm", "launch", "oci:package:good", "--host", "host-2", "--name", "guest"),
    "sync": ("host", "sync", "host-2"),
    "explain": ("host", "explain", "host-2"),
    "status": ("host", "status", "host-2"),
    "ek": ("host", "ek", "host-2"),
}


@pytest.mark.parametrize("command", AT_THE_TPM)
def test_a_tpm_that_is_away_is_a_fault(network: Network, command: str) -> None:
    network.lab.host("host-2").tpm.stop()
    with network.nothing_left("host-2"):
        away = network.ask(*AT_THE_TPM[command])
    assert (away.code, away.error["code"]) == (40, "tpm-away")
    assert away.error["hint"]


def test_a_tpm_that_comes_back_works_as_before(network: Network) -> None:
    host = network.lab.host("host-2")
    host.tpm.stop()
    assert network.run("vm", "launch", network.package, "--host", "host-2").code == 40
    network.lab.power_on(host)
    assert network.run("vm", "launch", network.package, "--host", "host-2", "--wait", GREETING).code == 0


def test_a_doctor_sees_the_tpm_that_is_away(network: Network) -> None:
    network.lab.host("host-2").tpm.stop()
    found = network.run("doctor", "--host", "host-2", "--json")
    assert found.code == 45
    missing = [check["name"] for check in json.loads(found.out) if check["status"] == "missing"]
    assert missing == ["tpm"]
    assert network.run("doctor", "--host", "host-1").code == 0


NEED_THE_AUTHORITY = {
    "sync": ("host", "sync", "host-1"),
    "apply": ("profile", "apply", "profile.yaml"),
    "approve": ("profile", "approve", PROFILE, "--host", "host-1"),
    "register": ("host", "register", "host-9", "--ek", "00" * 32),
    "build": ("package", "build", "disk.raw", "oci:nowhere:x", "--profile", PROFILE),
}


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_an_authority_that_is_away_is_a_fault(network: Network, killed: bool) -> None:
    pid = network.lab.authority_pid
    assert pid is not None
    if killed:
        os.kill(pid, 9)
    else:
        network.lab.stop_authority()
    document = network.work / "profile.yaml"
    document.write_text("name: other\ndescription: d\npcrs: [0, 2, 4, 7]\ntrust: [lab]\nrequirements: []\n")
    for command, arguments in NEED_THE_AUTHORITY.items():
        away = network.ask(*arguments)
        assert (away.code, command) in ((43, command), (11, "apply")), away.err
    assert not (network.work / "nowhere").exists()
    network.lab.start_authority()
    assert network.run("host", "sync", "host-1").code == 0


def test_a_package_is_built_without_the_authority_from_a_bundle(network: Network) -> None:
    bundle = str(network.host_dir("host-1") / "bundle.dsse")
    network.lab.stop_authority()
    package = network.build("offline", "--bundle", bundle, "--memory", "64")
    assert network.run("package", "verify", package, "--bundle", bundle).code == 0
    assert network.run("vm", "launch", package, "--host", "host-1", "--wait", GREETING).code == 0


@pytest.fixture
def own(network: Network, tmp_path: Path) -> Path:
    """A host's folder that a test may damage: a copy of host-1's, with the same TPM."""
    return network.copy_host("host-1", tmp_path / "own")


def launch_at(network: Network, host: Path) -> tuple[int, str]:
    done = network.ask("vm", "launch", network.package, "--host", str(host), "--name", "guest")
    assert done.code == 0 or not list((host / "instances").glob("*"))
    return done.code, "" if done.code == 0 else done.error["code"]


def test_the_copy_itself_launches(network: Network, own: Path) -> None:
    assert launch_at(network, own) == (0, "")


@pytest.mark.parametrize("text", [b'"payload":"', b'"sig":"'])
def test_a_bundle_that_was_tampered_with_is_refused(network: Network, own: Path, text: bytes) -> None:
    bundle = own / "bundle.dsse"
    flip(bundle, bundle.read_bytes().index(text) + len(text) + 40)
    assert launch_at(network, own) == (22, "signature-invalid")


def test_an_older_bundle_than_one_seen_is_refused(network: Network, own: Path) -> None:
    anchor = json.loads((own / "anchor.json").read_text())
    (own / "anchor.json").write_text(json.dumps(anchor | {"version": anchor["version"] + 1}))
    assert launch_at(network, own) == (27, "rollback")


def test_a_bundle_of_another_authority_is_refused(network: Network, own: Path) -> None:
    anchor = json.loads((own / "anchor.json").read_text())
    point = point_from_pem((network.lab.provisioner_dir / "provisioner.pub").read_bytes()).hex()
    (own / "anchor.json").write_text(json.dumps(anchor | {"point": point}))
    assert launch_at(network, own) == (23, "signer-not-trusted")


@pytest.mark.parametrize(
    "name", ["host.json", "identity.json", "anchor.json", "bundle.dsse", "keys/measured-kernel.1.json"]
)
def test_a_file_that_is_cut_is_malformed(network: Network, own: Path, name: str) -> None:
    (own / name).write_bytes((own / name).read_bytes()[:-20])
    assert launch_at(network, own) == (11, "malformed")


@pytest.mark.parametrize(("name", "code"), [("identity.json", 13), ("anchor.json", 13), ("bundle.dsse", 13)])
def test_a_host_that_is_not_enrolled_is_told_to(network: Network, own: Path, name: str, code: int) -> None:
    (own / name).unlink()
    done = network.ask("vm", "launch", network.package, "--host", str(own))
    assert done.code == code
    assert "enroll" in done.error["hint"]


def test_a_host_without_the_profiles_key_says_that_it_has_none(network: Network, own: Path) -> None:
    shutil.rmtree(own / "keys")
    done = network.ask("vm", "launch", network.package, "--host", str(own))
    assert (done.code, done.error["code"]) == (21, "no-usable-recipient")
    assert "sync" in done.error["hint"]


def test_the_files_of_another_host_get_nothing(network: Network, tmp_path: Path) -> None:
    own = network.copy_host("host-1", tmp_path / "own")
    config = json.loads((own / "host.json").read_text())
    other = network.lab.host("host-2").tpm.tcti
    (own / "host.json").write_text(json.dumps(config | {"tcti": other}))
    assert launch_at(network, own) == (41, "tpm-fault")


@contextlib.contextmanager
def small_disk(at: Path, kib: int) -> Iterator[Path]:
    at.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(at)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


@needs_root
@pytest.mark.parametrize("kib", [1024, 2120])
def test_a_full_host_disk_is_a_storage_fault_and_nothing_is_left(network: Network, tmp_path: Path, kib: int) -> None:
    with small_disk(tmp_path / "small", kib) as disk:
        own = network.copy_host("host-1", disk / "host")
        with network.nothing_left("host-1"):
            assert launch_at(network, own) == (42, "storage-fault")
        network.folders.remove(own)


@needs_root
@pytest.mark.parametrize("kib", [8, 16, 64])
def test_a_full_package_disk_is_a_storage_fault_and_it_can_be_run_again(
    network: Network, tmp_path: Path, kib: int
) -> None:
    with small_disk(tmp_path / "small", kib) as disk:
        arguments = ("package", "build", str(network.image), f"oci:{disk / 'target'}:x", "--profile", PROFILE)
        full = network.ask(*arguments)
        assert (full.code, full.error["code"]) == (42, "storage-fault")
        assert not [path for path in (disk / "target").rglob("*") if path.parent.name == "sha256"]
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert network.ask(*arguments).code == 0
        assert network.run("package", "verify", f"oci:{disk / 'target'}:x").code == 0
