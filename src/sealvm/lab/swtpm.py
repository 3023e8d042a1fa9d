"""Software TPMs: a lab's own certificate authority, manufacture, start, stop, and boot states replayed into PCRs.

A TPM made here carries EK certificates (RSA-2048 at NV 01C00002, P-384 at 01C00016) signed by the lab's CA, whose trust
class is `lab`. Its command interface is the genuine one; its state file is readable by root (DESIGN section 11).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sealvm.errors import ConflictError, EnvironmentFault, NotFoundError
from sealvm.tpm import pcr
from sealvm.tpm.connection import open_tpm

STATE_FILE = "tpm2-00.permall"
SOCKET_PATH_LIMIT_BYTES = 100  # sockaddr_un holds 108, and ".ctrl" is appended
SETUP_LIMIT_SECONDS = 60
STOP_LIMIT_SECONDS = 10.0

_CA_CONFIG = """\
statedir = {ca}
signingkey = {ca}/signkey.pem
issuercert = {ca}/issuercert.pem
certserial = {ca}/certserial
"""
_CA_OPTIONS = """\
--platform-manufacturer sealvm
--platform-version 1
--platform-model lab
"""
_SETUP_CONFIG = """\
create_certs_tool = {tool}
create_certs_tool_config = {ca}/localca.conf
create_certs_tool_options = {ca}/localca.options
active_pcr_banks = sha256
"""
# A P-256 point (the curve's base point): its certificate is thrown away, making it makes the CA's two certificates.
_ANY_POINT = (
    "x=6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296,"
    "y=4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


@dataclass(frozen=True, slots=True)
class LabCa:
    """The lab's EK certificate authority: where its files lie. The private keys are files of the same directory."""

    directory: Path

    @property
    def root(self) -> Path:
        """PEM of the self-signed root: what an operator gives to `authority root add`."""
        return self.directory / "swtpm-localca-rootca-cert.pem"

    @property
    def intermediate(self) -> Path:
        """PEM of the intermediate that signs EK certificates; a host sends it along when it enrolls."""
        return self.directory / "issuercert.pem"

    @property
    def setup_config(self) -> Path:
        return self.directory / "setup.conf"


def make_ca(directory: Path) -> LabCa:
    """A certificate authority of this lab's own in `directory` (mode 0700); returns the existing one if it is there.

    Raises EnvironmentFault when swtpm's tools are missing or fail.
    """
    ca = LabCa(directory.absolute())
    if ca.root.exists() and ca.intermediate.exists() and ca.setup_config.exists():
        return ca
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    tool = _program("swtpm_localca")
    (ca.directory / "localca.conf").write_text(_CA_CONFIG.format(ca=ca.directory))
    (ca.directory / "localca.options").write_text(_CA_OPTIONS)
    ca.setup_config.write_text(_SETUP_CONFIG.format(ca=ca.directory, tool=tool))
    with tempfile.TemporaryDirectory() as scratch:
        _run(
            tool,
            ["--type", "ek", "--tpm2", "--ek", _ANY_POINT, "--dir", scratch],
            ["--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "164"],
            ["--tpm-manufacturer", "id:00001014", "--tpm-model", "swtpm", "--tpm-version", "id:20191023"],
            ["--configfile", str(ca.directory / "localca.conf"), "--optsfile", str(ca.directory / "localca.options")],
        )
    return ca


def manufacture(directory: Path, ca: LabCa) -> None:
    """A new TPM in `directory` (mode 0700), with EKs and their certificates, SHA-256 bank only. All of it or nothing.

    Raises ConflictError when a TPM lies there already, EnvironmentFault when swtpm_setup is missing or fails.
    """
    if (directory / STATE_FILE).exists():
        raise ConflictError(f"{directory}: a software TPM was manufactured here already")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix="new-") as fresh:
        _run(
            _program("swtpm_setup"),
            ["--tpm2", "--tpm-state", fresh, "--config", str(ca.setup_config)],
            ["--create-ek-cert", "--lock-nvram", "--pcr-banks", "sha256", "--overwrite"],
        )
        (Path(fresh) / STATE_FILE).rename(directory / STATE_FILE)


class Swtpm:
    """One software TPM: a daemon on two Unix sockets in its directory, which outlives the process that starts it.

    The state (keys, NV, clock) lies in the directory; PCRs, sessions and transient objects end with the daemon.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.socket = self.directory / "tpm"
        if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT_BYTES:
            raise EnvironmentFault(
                f"{self.socket}: the path of a Unix socket may have {SOCKET_PATH_LIMIT_BYTES} bytes at most",
                hint="choose a directory with a shorter path",
            )

    @property
    def tcti(self) -> str:
        """The TPM's address as tss2 writes it."""
        return f"swtpm:path={self.socket}"

    @property
    def lock(self) -> Path:
        """The lock file for open_tpm: swtpm serves one connection at a time."""
        return self.directory / "lock"

    @property
    def running_pid(self) -> int | None:
        """The daemon's process id, or None if it does not run. A pid that another program has taken over is not it."""
        try:
            pid = int((self.directory / "pid").read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if f"dir={self.directory}".encode() in arguments else None

    def start(self, *, resume: bool = False) -> None:
        """Power on: TPM2_Startup(CLEAR) done, all PCRs at their reset values. Does nothing when it runs already.

        With `resume`, as firmware does when a computer wakes up: TPM2_Startup(STATE), PCRs as TPM2_Shutdown(STATE)
        saved them; without that before, the TPM does not start up.

        Raises NotFoundError when no TPM was manufactured here, EnvironmentFault when swtpm does not start.
        """
        if self.running_pid is not None:
            return
        if not (self.directory / STATE_FILE).exists():
            raise NotFoundError(f"{self.directory}: no software TPM was manufactured here")
        for stale in (self.socket, Path(f"{self.socket}.ctrl"), self.directory / "pid"):
            stale.unlink(missing_ok=True)
        startup = "startup-state" if resume else "startup-clear"
        _run(
            _program("swtpm"),
            ["socket", "--tpm2", "--daemon", "--tpmstate", f"dir={self.directory}"],
            ["--server", f"type=unixio,path={self.socket}", "--ctrl", f"type=unixio,path={self.socket}.ctrl"],
            ["--flags", f"not-need-init,{startup}", "--pid", f"file={self.directory / 'pid'}"],
            ["--log", f"file={self.directory / 'log'},level=1,truncate"],
        )

    def stop(self) -> None:
        """Power off, as by a power cut. Does nothing when it does not run."""
        pid = self.running_pid
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT_SECONDS
        while self.running_pid is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + STOP_LIMIT_SECONDS
            time.sleep(0.005)
        (self.directory / "pid").unlink(missing_ok=True)

    def power_cycle(self) -> None:
        """Off and on again: PCRs at their reset values, resetCount one higher, persistent objects kept."""
        self.stop()
        self.start()


def replay_pcrs(tcti: str, extends: Iterable[tuple[int, bytes]], lock: Path | None = None) -> None:
    """Bring a freshly started TPM into a recorded boot state: (PCR index, SHA-256 digest) in the order of the log."""
    with open_tpm(tcti, lock) as tpm:
        for index, digest in extends:
            pcr.extend(tpm, index, digest)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise EnvironmentFault(f"{name}: program not found", hint="install the packages swtpm and swtpm-tools")
    return found


def _run(program: str, *groups: list[str]) -> None:
    """Run one of swtpm's tools to its end; EnvironmentFault with its last output line if it fails."""
    try:
        subprocess.run(
            [program, *chain.from_iterable(groups)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SETUP_LIMIT_SECONDS,
        )
    except subprocess.CalledProcessError as failure:
        last = (failure.stdout or b"").decode(errors="replace").strip().splitlines()[-1:]
        raise EnvironmentFault(f"{program} failed ({failure.returncode}): {' '.join(last)}") from failure
    except subprocess.TimeoutExpired as late:
        raise EnvironmentFault(f"{program} did not end within {SETUP_LIMIT_SECONDS} s") from late
    except OSError as failure:
        raise EnvironmentFault(f"{program} could not be started: {failure.strerror}") from failure
