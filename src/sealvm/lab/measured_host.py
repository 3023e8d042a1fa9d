"""One host that really boots: OVMF measures it into a software TPM, and its own system runs sealvm's host parts.

    DIR/tpm/           the host's software TPM, with EK certificates of the lab's CA
    DIR/disk.qcow2     what the host wrote; the system below it lies in the cache and is never written
    DIR/variables.fd   the firmware's variables
    DIR/console.log    what the kernel said at the last boot

Nothing is replayed here. QEMU hands kernel, initrd and options to OVMF (`-kernel`), OVMF measures the kernel into PCR 4
and its EFI stub measures options and initrd into PCR 9; the guest reads the log from its own kernel. What is not
measured: the root file system and what the lab lays beside it (the second disk). That a state is good says here which
kernel ran with which options, and no more (docs/tutorial-measured-host.md).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import sealvm
from sealvm.errors import EnvironmentFault, Fault, HypervisorFault
from sealvm.host.sockets import make_runtime_dir, remove_runtime_dir
from sealvm.lab import measured_agent
from sealvm.lab.image_boot import run_tool
from sealvm.lab.measured_image import CODE_DIR, MeasuredSystem
from sealvm.lab.swtpm import LabCa, Swtpm, manufacture
from sealvm.tcg.ekcert import ek_digest
from sealvm.tpm import identity
from sealvm.tpm.connection import open_tpm

FIRMWARE_CODE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
FIRMWARE_VARIABLES: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
MEMORY_BYTES: Final = 1 << 30
AUTHORITY_ADDRESS: Final = "10.0.2.2"
"""Where the guest finds this machine's own 127.0.0.1."""
BOOT_LIMIT_SECONDS: Final = 180.0
COMMAND_LIMIT_SECONDS: Final = 120.0
POWER_OFF_LIMIT_SECONDS: Final = 60.0
_ANSWER_LIMIT_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command inside the guest ended."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Start:
    """What the firmware is handed. `options` are given to QEMU, which adds ` initrd=initrd` to them."""

    kernel: Path
    initrd: Path
    options: str

    @property
    def cmdline(self) -> str:
        """The kernel's command line as its stub measures it and /proc/cmdline shows it."""
        return f"{self.options} initrd=initrd"


class RunningHost:
    """A booted host, as one who sits at its second serial line."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket, console: Path) -> None:
        self._process = process
        self._line = line
        self._console = console
        self._received = b""
        self.cmdline = ""
        """The kernel's command line, as the guest said when it was ready."""

    def wait_ready(self) -> None:
        """Until the guest's system is up. HypervisorFault with the console's last lines when it does not come."""
        deadline = time.monotonic() + BOOT_LIMIT_SECONDS
        ready = b""
        while not ready:  # the firmware and the kernel's EFI stub speak on this line before the guest does
            _before, start, rest = self._line_until(deadline).partition(b'{"ready": ')
            ready = start + rest if start else b""
        self.cmdline = str(self._parsed(ready)["ready"])

    def run(self, *argv: str, limit_seconds: float = COMMAND_LIMIT_SECONDS) -> Answer:
        """Run a program inside the guest, as root, to its end. HypervisorFault when the guest does not answer."""
        started = time.monotonic()
        request = {"argv": argv, "limit_seconds": limit_seconds}
        self._line.sendall(json.dumps(request).encode() + b"\n")
        said = self._receive(limit_seconds + 10)
        return Answer(argv, said["code"], said["stdout"], said["stderr"], time.monotonic() - started)

    def power_off(self) -> None:
        """Shut the guest's system down and wait for the machine to go off, so that what it wrote is kept."""
        self.run("systemctl", "--no-block", "poweroff")
        try:
            self._process.wait(POWER_OFF_LIMIT_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise self._fault("did not power off") from late

    def _receive(self, limit_seconds: float) -> dict[str, Any]:
        return self._parsed(self._line_until(time.monotonic() + limit_seconds))

    def _line_until(self, deadline: float) -> bytes:
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or len(self._received) > _ANSWER_LIMIT_BYTES:
                raise self._fault("did not answer in time")
            self._line.settimeout(left)
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise self._fault("went off")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError) as problem:
            raise self._fault(f"said {line[:80]!r}") from problem

    def _fault(self, what: str) -> Fault:
        last = self._console.read_text(errors="replace").strip().splitlines()[-8:] if self._console.exists() else []
        return HypervisorFault(f"the measured host {what}; its console: {' | '.join(last) or 'nothing'}")


class MeasuredHost:
    """A host with a TPM of its own, on or off. Its files outlive each boot, its processes only live for a block."""

    def __init__(self, directory: Path, system: MeasuredSystem) -> None:
        self.directory = directory.absolute()
        self.system = system

    @property
    def console(self) -> Path:
        """What the kernel and init said at the last boot."""
        return self.directory / "console.log"

    def create(self, ca: LabCa) -> None:
        """Make the TPM, the disk and the firmware's variables. ConflictError when they were made before."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        manufacture(self.directory / "tpm", ca)
        backing = ["-b", os.fspath(self.system.disk.absolute()), "-F", "raw"]
        run_tool(
            ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(self.directory / "disk.qcow2")], "measured host"
        )
        shutil.copyfile(FIRMWARE_VARIABLES, self.directory / "variables.fd")

    def read_ek_digest(self) -> str:
        """What an operator registers, read from the TPM before it was ever built into a machine, as its maker does."""
        with tempfile.TemporaryDirectory(prefix="sealvm-ek-", dir="/tmp") as short:
            state = Path(short) / "tpm"
            shutil.copytree(self.directory / "tpm", state)
            tpm = Swtpm(state)
            tpm.start()
            try:
                with open_tpm(tpm.tcti) as connection:
                    nv_index, _certificate = identity.read_ek_certificate(connection)
                    return ek_digest(identity.create_ek(connection, nv_index))
            finally:
                tpm.stop()

    @contextmanager
    def booted(self, start: Start, files: Mapping[str, bytes | Path]) -> Iterator[RunningHost]:
        """The host, started with `start` and ready, for the length of a block; switched off hard at its end.

        sealvm's code as it is now and `files` (name to content, or to a file or folder) lie in CODE_DIR. Raises
        EnvironmentFault when a program is missing, HypervisorFault when the guest does not come up.
        """
        write_payload(self.directory / "payload.tar", files)
        runtime = make_runtime_dir()
        try:
            with (
                _process(_tpm_command(self.directory / "tpm", runtime), (runtime / "tpm").exists),
                _process(self._machine(start, runtime), (runtime / "line").exists) as machine,
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line,
            ):
                line.connect(os.fspath(runtime / "line"))
                host = RunningHost(machine, line, self.console)
                host.wait_ready()
                yield host
        finally:
            remove_runtime_dir(runtime)

    def _machine(self, start: Start, runtime: Path) -> list[str]:
        disks = [("disk.qcow2", "qcow2,if=none", "root"), ("payload.tar", "raw,if=none,readonly=on", "payload")]
        command = machine_command(self.directory / "variables.fd", runtime / "tpm")
        command += ["-serial", f"file:{self.console}", "-serial", f"unix:{runtime / 'line'},server=on,wait=off"]
        for name, how, drive in disks:
            command += ["-drive", f"file={self.directory / name},format={how},id={drive}"]
            command += ["-device", f"virtio-blk-pci,drive={drive}"]
        # without an option ROM, which the firmware would load as a driver and measure into PCR 2
        command += ["-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="]
        return [*command, "-kernel", str(start.kernel), "-initrd", str(start.initrd), "-append", start.options]


def machine_command(variables: Path, tpm_socket: Path) -> list[str]:
    """QEMU's arguments for the machine itself: processor, memory, firmware and TPM, without disks, network, lines."""
    # fmt: off
    return [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", str(MEMORY_BYTES >> 20),
        "-nodefaults", "-display", "none", "-no-reboot", "-sandbox", "on",
        "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE_CODE}",
        "-drive", f"if=pflash,format=raw,unit=1,file={variables}",
        "-chardev", f"socket,id=tpm,path={tpm_socket}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
        "-device", "tpm-crb,tpmdev=tpm0",
    ]
    # fmt: on


def write_payload(path: Path, files: Mapping[str, bytes | Path]) -> None:
    """The second disk: a tar file with sealvm's code below `code/`, the agent, and `files`."""
    with tarfile.open(path, "w") as archive:
        archive.add(Path(sealvm.__file__).parent, "code/sealvm")
        archive.add(measured_agent.__file__, "agent.py")
        for name, content in files.items():
            if isinstance(content, Path):
                archive.add(content, name)
                continue
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, BytesIO(content))


def in_guest(name: str) -> str:
    """Where the guest has the file that the boot was given as `name`."""
    return f"{CODE_DIR}/{name}"


def _tpm_command(state: Path, runtime: Path) -> list[str]:
    options = ["--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={runtime / 'tpm'}", "--terminate"]
    return ["swtpm", "socket", "--tpm2", *options]


@contextmanager
def _process(command: list[str], ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the length of a block, which begins when it is ready. Killed at the end if it still runs."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError as problem:
        raise EnvironmentFault(f"{command[0]} is not installed", hint="run scripts/setup") from problem
    try:
        deadline = time.monotonic() + 10
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                said = process.communicate()[0].decode(errors="replace").strip().splitlines()[-1:]
                raise HypervisorFault(f"{command[0]} did not start: {' '.join(said) or 'no message'}")
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
