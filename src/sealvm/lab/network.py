"""A computing network on one machine: software TPMs that have "booted", and an authority process of its own.

    LAB/lab.json             which hosts there are, and which recorded boot each one carries
    LAB/ca/                  the CA that signs the EK certificates of these TPMs (trust class `lab`)
    LAB/hosts/NAME/          a host's folder, as `host/config.py` describes it, with its recorded event log
    LAB/hosts/NAME/tpm/      its software TPM
    LAB/authority/           the authority's folder; endpoint.json in it names the process that serves it
    LAB/authority-port       where it was first served: enrolled hosts look for it there

Nothing here is a shortcut: hosts enroll, sync and launch through the same commands as real ones. What is replaced is
the firmware, by replaying a recorded boot into the PCRs, and the TPM's silicon, by swtpm.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sealvm.errors import ConflictError, EnvironmentFault, NotFoundError
from sealvm.host.config import HostConfig, save_host
from sealvm.host.hypervisor.qemu import Qemu
from sealvm.host.instances import list_instances, stop_instance
from sealvm.host.process import ProcessRef
from sealvm.lab.recording import RECORDINGS, Recording, load_recording
from sealvm.lab.swtpm import LabCa, Swtpm, make_ca, manufacture, replay_pcrs
from sealvm.store.atomic import write_atomic
from sealvm.tcg.eventlog import extends, parse_event_log

DEFAULT_HOSTS: Mapping[str, str] = {"host-1": "good", "host-2": "good", "host-3": "tampered"}
START_LIMIT_SECONDS = 30.0
STOP_LIMIT_SECONDS = 10.0
_LAST_WORDS = 60


@dataclass(frozen=True, slots=True)
class LabHost:
    """One host of a lab: its folder, its TPM, and the recorded boot its PCRs carry."""

    name: str
    directory: Path
    recording: str

    @property
    def tpm(self) -> Swtpm:
        """The host's software TPM, running or not."""
        return Swtpm(self.directory / "tpm")


class Lab:
    """A lab in its folder. Its processes outlive the program that starts them; `down` stops exactly those."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    @property
    def exists(self) -> bool:
        """Whether a lab was made here."""
        return (self.directory / "lab.json").exists()

    @property
    def authority_dir(self) -> Path:
        """The authority's folder."""
        return self.directory / "authority"

    @property
    def provisioner_dir(self) -> Path:
        """The provisioner's folder."""
        return self.directory / "provisioner"

    @property
    def ca(self) -> LabCa:
        """The CA of the lab's TPMs."""
        return LabCa(self.directory / "ca")

    def hosts(self) -> tuple[LabHost, ...]:
        """The lab's hosts in order of name. NotFoundError when there is no lab."""
        if not self.exists:
            raise NotFoundError(f"no lab in {self.directory}", hint="make one with: sealvm lab up")
        listed = json.loads((self.directory / "lab.json").read_text())["hosts"]
        return tuple(LabHost(name, self.directory / "hosts" / name, listed[name]) for name in sorted(listed))

    def host(self, name: str) -> LabHost:
        """The host called `name`; NotFoundError if there is none."""
        for host in self.hosts():
            if host.name == name:
                return host
        raise NotFoundError(f"no host {name!r} in the lab at {self.directory}")

    def create(self, hosts: Mapping[str, str] = DEFAULT_HOSTS) -> None:
        """Make the lab's folder, CA and TPMs; a broken attempt leaves no lab.json. ConflictError if there is one."""
        if self.exists:
            raise ConflictError(
                f"a lab is in {self.directory} already", hint="remove it with: sealvm lab down --remove"
            )
        for name, recording in hosts.items():
            if recording not in RECORDINGS:
                raise NotFoundError(f"no recorded boot {recording!r} for {name}")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca = make_ca(self.directory / "ca")
        for name, recording in hosts.items():
            self._make_host(LabHost(name, self.directory / "hosts" / name, recording), ca)
        write_atomic(self.directory / "lab.json", json.dumps({"hosts": dict(hosts)}).encode(), 0o600)

    def _make_host(self, host: LabHost, ca: LabCa) -> None:
        host.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        manufacture(host.directory / "tpm", ca)
        write_recording(host.directory, load_recording(host.recording))
        shutil.copyfile(ca.intermediate, host.directory / "ek-chain.pem")
        save_host(
            HostConfig(
                directory=host.directory,
                name=host.name,
                tcti=host.tpm.tcti,
                eventlog=host.directory / "eventlog.bin",
                preimages=host.directory / "preimages.json",
                ek_chain=host.directory / "ek-chain.pem",
            )
        )

    def power_on(self, host: LabHost) -> None:
        """Start the host's TPM and replay its recorded boot; does nothing to one that is on."""
        if host.tpm.running_pid is not None:
            return
        host.tpm.start()
        log = parse_event_log((host.directory / "eventlog.bin").read_bytes())
        replay_pcrs(host.tpm.tcti, extends(log))

    def reboot(self, host: LabHost, recording: str) -> None:
        """Power-cycle the host into another recorded boot, as after an update or a tampering."""
        host.tpm.stop()
        write_recording(host.directory, load_recording(recording))
        self.power_on(host)

    @property
    def authority_pid(self) -> int | None:
        """Process id of the lab's authority while it is served. A pid that another program has taken over is not it."""
        try:
            pid = int(json.loads((self.authority_dir / "endpoint.json").read_text())["pid"])
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError, KeyError, TypeError):
            return None
        return pid if {b"authority", b"serve"} <= set(arguments) else None

    def start_authority(self) -> int:
        """Start `sealvm authority serve` as a process of its own and wait until it answers; returns its process id.

        It listens where it did before, or else the hosts that enrolled with it would not find it again. Raises
        EnvironmentFault with the end of its log when it does not come up.
        """
        running = self.authority_pid
        if running is not None:
            return running
        endpoint = self.authority_dir / "endpoint.json"
        endpoint.unlink(missing_ok=True)
        port = self.directory / "authority-port"
        command = [sys.executable, "-m", "sealvm.cli", "authority", "serve", "--authority", str(self.authority_dir)]
        if port.exists():
            command += ["--port", port.read_text()]
        with (self.authority_dir / "serve.log").open("ab") as log:
            earlier = log.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while not endpoint.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                words = (self.authority_dir / "serve.log").read_bytes()[earlier:].decode(errors="replace").split()
                raise EnvironmentFault(f"the authority did not start: {' '.join(words[-_LAST_WORDS:])}")
            time.sleep(0.02)
        write_atomic(port, json.loads(endpoint.read_text())["url"].rpartition(":")[2].encode(), 0o600)
        return process.pid

    def stop_authority(self) -> int | None:
        """End the lab's authority and wait until it is gone; returns the process id it had, None for none."""
        pid = self.authority_pid
        if pid is not None:
            ProcessRef.of(pid).end(STOP_LIMIT_SECONDS)
        return pid

    def down(self, *, remove: bool) -> None:
        """Power everything off, VMs included. With `remove` the folder goes as well, and every key in it."""
        if not (self.directory / "hosts").is_dir():
            return
        self.stop_authority()
        hypervisor = Qemu("tcg")  # to stop a machine, how it was accelerated does not matter
        for folder in sorted((self.directory / "hosts").iterdir()):
            for instance in list_instances(folder, hypervisor):
                stop_instance(folder, instance.record.id, hypervisor, grace_seconds=0)
            Swtpm(folder / "tpm").stop()
        if remove:
            shutil.rmtree(self.directory)


def write_recording(directory: Path, recording: Recording) -> None:
    """Lay a recorded boot into a host's folder as eventlog.bin and preimages.json."""
    preimages = [base64.b64encode(preimage).decode() for preimage in recording.preimages]
    write_atomic(directory / "eventlog.bin", recording.eventlog, 0o600)
    write_atomic(directory / "preimages.json", json.dumps(preimages).encode(), 0o600)
