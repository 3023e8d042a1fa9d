"""What stands around the measured host: an authority process that it reaches at 10.0.2.2, and a sealed package."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sealvm.authority.local import create
from sealvm.client.authority import AuthorityClient
from sealvm.client.operator import operator_client, trusted_bundle
from sealvm.lab.measured_host import AUTHORITY_ADDRESS
from sealvm.lab.swtpm import LabCa
from sealvm.package.expression import any_of
from sealvm.provisioner.build import build_package
from sealvm.provisioner.keys import create_provisioner_key
from sealvm.provisioner.recipients import profile_key_refs
from sealvm.store.reference import parse_reference

DISK_BYTES = 8 << 20


@dataclass(frozen=True)
class Network:
    """The authority as its operator sees it, from a folder of the operator's own; and its own folder."""

    operator_dir: Path
    authority_dir: Path

    def client(self) -> AuthorityClient:
        return operator_client(self.operator_dir)


@contextmanager
def served(directory: Path, ca: LabCa) -> Iterator[Network]:
    """An authority served by a process of its own, which accepts the lab's TPMs."""
    authority = directory / "authority"
    create(authority)
    command = [sys.executable, "-m", "sealvm.cli", "authority", "serve"]
    with (directory / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--authority", str(authority), "--name", AUTHORITY_ADDRESS], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while not (authority / "endpoint.json").exists():
            assert process.poll() is None and time.monotonic() < deadline, (directory / "serve.log").read_text()
            time.sleep(0.05)
        network = Network(_operator_dir(directory, authority), authority)
        with network.client() as client:
            client.add_root(ca.root.read_text(), "lab")
        yield network
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _operator_dir(directory: Path, authority: Path) -> Path:
    """The four files of an operator on another machine; here, one that does not know the guest's name for this one."""
    operator = directory / "operator"
    (operator / "tls").mkdir(parents=True)
    for name in ("tls/ca.pem", "operator-token", "anchor.pub"):
        shutil.copy(authority / name, operator / name)
    url = json.loads((authority / "endpoint.json").read_text())["url"]
    (operator / "endpoint.json").write_text(json.dumps({"url": url.replace(AUTHORITY_ADDRESS, "127.0.0.1")}))
    return operator


def seal_disk(directory: Path, network: Network, profile: str) -> tuple[Path, str]:
    """A tenant's disk as a package for `profile`: the OCI layout (tag `tenant`), and the disk's SHA-256."""
    disk = directory / "tenant.raw"
    disk.write_bytes(os.urandom(DISK_BYTES // 2) + bytes(DISK_BYTES // 2))
    signer = create_provisioner_key(directory / "provisioner")
    with network.client() as client:
        client.trust_provisioner("tenant", signer.point, (profile,))
    layout = directory / "packages"
    keys = profile_key_refs(trusted_bundle(network.operator_dir), [profile])
    reference = parse_reference(f"oci:{layout}:tenant")
    build_package(disk, reference, expression=any_of([profile]), profile_keys=keys, signer=signer)
    return layout, hashlib.sha256(disk.read_bytes()).hexdigest()
