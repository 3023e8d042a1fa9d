"""A lab that is enrolled, approved and trusted, the program that is run in it, and what must never be seen of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealvm.client.operator import operator_client
from sealvm.host.hypervisor.probe import working_accelerator
from sealvm.host.hypervisor.qemu import Qemu
from sealvm.host.instance_record import all_folders
from sealvm.host.instances import remove_instance
from sealvm.host.sync import sync
from sealvm.lab.authority import prepare_authority
from sealvm.lab.demo import trust
from sealvm.lab.demo.stage import PROFILE, Stage
from sealvm.lab.image import build_grub_image
from sealvm.lab.network import Lab
from sealvm.provisioner.keys import create_provisioner_key

SEALVM = Path(sys.executable).with_name("sealvm")
GREETING = "hello from a sealed disk"
PROMPT = "grub>"
HOSTS = ("host-1", "host-2", "host-3")
LIMIT_SECONDS = 90
_PLANTED_AT = 768 * 1024  # between boot loader and partition
_RUNTIME = Path("/run/sealvm")


@dataclass(frozen=True)
class Done:
    """A run of the program that has ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed under --json; the run must have succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error it reported under --json."""
        assert self.code, self.out
        error: dict[str, Any] = json.loads(self.err.strip().splitlines()[-1])["error"]
        assert error["exit"] == self.code
        return error


@dataclass
class Network:
    """Three enrolled hosts, the third in another state than the approved one, and a package that all may fetch.

    Every run of the program is checked: no secret is on its command line or in what it prints.
    """

    work: Path
    marker: str = field(default_factory=lambda: f"TENANT-SECRET-{secrets.token_hex(8)}")
    secrets: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    @property
    def lab(self) -> Lab:
        return Lab(self.work / "lab")

    @property
    def image(self) -> Path:
        return self.work / "disk.raw"

    @property
    def package(self) -> str:
        return f"oci:{self.work / 'package'}:good"

    def host_dir(self, name: str) -> Path:
        return self.lab.directory / "hosts" / name

    # --- running the program

    def start(self, *arguments: str, prefix: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[str]:
        """`sealvm ARGUMENTS`, not waited for."""
        self._check(" ".join(arguments))
        env = {"PATH": os.environ["PATH"], "SEALVM_LAB": str(self.lab.directory), "LC_ALL": "C.UTF-8"}
        command = [*prefix, str(SEALVM), *arguments]
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, cwd=self.work, env=env, text=True, **piped)

    def run(self, *arguments: str, prefix: tuple[str, ...] = ()) -> Done:
        """`sealvm ARGUMENTS` to its end. A traceback is never an answer."""
        with self.start(*arguments, prefix=prefix) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        self._check(out + err)
        assert "Traceback" not in err, err
        return Done(process.returncode, out, err)

    def ask(self, *arguments: str, prefix: tuple[str, ...] = ()) -> Done:
        """The same with --json."""
        return self.run(*arguments, "--json", prefix=prefix)

    def _check(self, text: str) -> None:
        shown = [number for number, secret in enumerate(self.secrets) if secret in text]
        assert not shown, f"the text shows secrets {shown}"

    # --- making things

    def build(self, tag: str, *options: str, image: Path | None = None) -> str:
        """A package of the network's disk, or of `image`; gives back its reference."""
        reference = f"oci:{self.work / 'package'}:{tag}"
        arguments = ("package", "build", str(image or self.image), reference, "--profile", PROFILE, *options)
        assert self.ask(*arguments).data["reference"] == reference
        return reference

    def copy_package(self, reference: str, name: str) -> tuple[Path, str]:
        """The layout of a package copied elsewhere: its folder, and the reference to the copy."""
        source, tag = reference.removeprefix("oci:").rsplit(":", 1)
        copy = self.work / name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        return copy, f"oci:{copy}:{tag}"

    def copy_host(self, name: str, into: Path) -> Path:
        """The folder of a host elsewhere, without instances; it has the same TPM."""
        skipped = shutil.ignore_patterns("tpm", "instances", "*.lock")
        shutil.copytree(self.host_dir(name), into, ignore=skipped, dirs_exist_ok=True)
        self.folders.append(into)
        return into

    def ticket(self, name: str, *options: str) -> Path:
        """A join ticket for a registered host; its token is a secret."""
        path = self.work / f"{secrets.token_hex(4)}.ticket"
        digest = self.run("host", "ek", name).out.strip()
        arguments = ("host", "register", name, "--ek", digest, "--again", "--ticket", str(path), *options)
        done = self.run(*arguments)
        assert done.code == 0, done.err
        self.secrets.append(json.loads(path.read_text())["token"])
        return path

    # --- looking for what is left

    def instances(self, host: str) -> list[str]:
        return [folder.path.name for folder in all_folders(self.host_dir(host))]

    def record(self, host: str, name: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.host_dir(host) / "instances" / name / "instance.json").read_text())
        return record

    def pids(self, host: str, name: str) -> dict[str, int]:
        """Process ids of an instance: blockserver, storage, machine."""
        return {part: process["pid"] for part, process in self.record(host, name)["processes"].items() if process}

    def helpers(self) -> list[str]:
        """Command lines of block servers, storage daemons and machines that serve this network, by what they use."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                program = line.split(" ", 1)[0].rpartition("/")[2]
                if program in ("nbdkit", "qemu-storage-daemon", "qemu-system-x86_64") and self._uses(entry, line):
                    found.append(line)
        return found

    def _uses(self, entry: Path, line: str) -> bool:
        place = str(self.work)
        return place in line or any(
            place in link for fd in (entry / "fd").iterdir() for link in (os.readlink(fd),) if link.startswith("/")
        )

    @contextlib.contextmanager
    def nothing_left(self, host: str) -> Iterator[None]:
        """Check that the block leaves no instance, no process and no runtime directory behind."""
        before, helpers, instances = runtime_dirs(), self.helpers(), self.instances(host)
        yield
        assert self.instances(host) == instances
        assert self.helpers() == helpers
        deadline = time.monotonic() + 5  # another test's may come and go meanwhile
        while orphans := [path for path in runtime_dirs() - before if not _in_use(path)]:
            assert time.monotonic() < deadline, orphans
            time.sleep(0.1)

    def clear(self) -> None:
        """Remove all instances of all hosts."""
        hypervisor = Qemu("tcg")
        for directory in (*map(self.host_dir, HOSTS), *self.folders):
            for folder in all_folders(directory):
                remove_instance(directory, folder.path.name, hypervisor, force=True)


def runtime_dirs() -> set[Path]:
    """Directories for sockets, whoever they belong to."""
    return set(_RUNTIME.iterdir()) if _RUNTIME.is_dir() else set()


def _in_use(path: Path) -> bool:
    if not path.exists():
        return True
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.fsencode(path) in (entry / "cmdline").read_bytes():
                    return True
    return False


@contextlib.contextmanager
def make_network() -> Iterator[Network]:
    """A new network, in a folder with a path short enough for sockets; gone afterwards."""
    work = Path(tempfile.mkdtemp(prefix="e2e-", dir="/tmp"))
    network = Network(work)
    try:
        _set_up(network)
        yield network
    finally:
        network.clear()
        network.lab.down(remove=True)
        shutil.rmtree(work)


def _set_up(network: Network) -> None:
    lab = network.lab
    lab.create()
    for host in lab.hosts():
        lab.power_on(host)
    prepare_authority(lab)
    stage = Stage(lab, network.work, lambda _line: None)
    trust.enroll_hosts(stage)
    trust.apply_profile(stage)
    trust.approve_state(stage)
    signer = create_provisioner_key(lab.provisioner_dir)
    with operator_client(lab.authority_dir) as client:
        client.trust_provisioner("tenant", signer.point, (PROFILE,))
    working_accelerator(network.host_dir("host-1"))
    for host in lab.hosts():
        sync(host.directory)
        if host.name != "host-1":
            shutil.copy(network.host_dir("host-1") / "accelerator.json", host.directory)
    plant(build_grub_image(network.image, GREETING), network.marker)
    network.secrets += [network.marker, *_files_with_secrets(lab)]
    network.build("good", "--memory", "64")


def _files_with_secrets(lab: Lab) -> list[str]:
    """What an operator must keep to himself, as it stands in its files."""
    files = [lab.authority_dir / "operator-token", lab.authority_dir / "credential", lab.provisioner_dir / "credential"]
    found: list[str] = []
    for file in files:
        content = file.read_bytes()
        with contextlib.suppress(UnicodeDecodeError):
            found.append(content.decode().strip())
        found.append(content.hex())
    assert all(len(secret) >= 20 for secret in found)
    return found


def plant(image: Path, marker: str) -> Path:
    """Write the marker onto a disk where booting does not need the room; gives the disk back."""
    with image.open("r+b") as disk:
        disk.seek(_PLANTED_AT)
        assert not any(disk.read(len(marker)))
        disk.seek(_PLANTED_AT)
        disk.write(marker.encode())
    return image
