"""A manufactured swtpm and tpm2-tools on it: the second opinion on what `sealvm.tcg` computes."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

LOADS_NOTHING = ("flushcontext", "startauthsession", "pcr", "policypcr", "policyor", "policycommandcode")
EK_RSA_HANDLE = "0x81010001"
EK_ECC_HANDLE = "0x81010016"
EK_RSA_CERTIFICATE = "0x1c00002"
EK_ECC_CERTIFICATE = "0x1c00016"


def manufacture(directory: Path) -> tuple[Path, Path]:
    """A TPM state with EKs and certificates of a fresh local CA; returns root and issuer certificate (PEM)."""
    ca, state = directory / "ca", directory / "state"
    ca.mkdir()
    state.mkdir()
    localca, setup, options = directory / "localca.conf", directory / "setup.conf", directory / "options"
    localca.write_text(
        f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuer.pem\ncertserial = {ca}/serial\n"
    )
    options.write_text("--platform-manufacturer sealvm\n--platform-version 1\n--platform-model test\n")
    setup.write_text(
        "create_certs_tool = /usr/bin/swtpm_localca\n"
        f"create_certs_tool_config = {localca}\ncreate_certs_tool_options = {options}\n"
    )
    subprocess.run(
        ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--create-ek-cert", "--config", str(setup),
         "--pcr-banks", "sha256", "--lock-nvram"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return ca / "swtpm-localca-rootca-cert.pem", ca / "issuer.pem"


@dataclass
class Tools:
    """Runs tpm2-tools in one directory against one swtpm."""

    directory: Path
    root_pem: Path
    issuer_pem: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, directory: Path) -> Tools:
        root, issuer = manufacture(directory)
        socket = directory / "S"
        process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory / 'state'}",
             "--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl",
             "--flags", "not-need-init,startup-clear"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert process.poll() is None and time.monotonic() < deadline, "swtpm did not start"
            time.sleep(0.01)
        return cls(directory, root, issuer, process)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def try_run(self, command: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        """Run one tool, then flush the transient objects it left: there are three slots and no resource manager."""
        environment = {"PATH": os.environ["PATH"], "TPM2TOOLS_TCTI": f"swtpm:path={self.directory / 'S'}"}
        result = subprocess.run(
            [f"tpm2_{command}", *map(str, arguments)],
            cwd=self.directory, env=environment, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        if not command.startswith(LOADS_NOTHING):
            subprocess.run(["tpm2_flushcontext", "-t"], env=environment, check=True, capture_output=True, timeout=60)
        return result

    def run(self, command: str, *arguments: object) -> bytes:
        result = self.try_run(command, *arguments)
        assert result.returncode == 0, f"tpm2_{command}: {result.stderr.decode()}"
        return result.stdout

    def put(self, name: str, data: bytes) -> str:
        (self.directory / name).write_bytes(data)
        return name

    def get(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def public_of(self, context: str) -> bytes:
        """TPMT_PUBLIC of a loaded or persistent object."""
        self.run("readpublic", "-c", context, "-o", "readpublic.out")
        return self.get("readpublic.out")[2:]

    def start_session(self, *, trial: bool = False) -> str:
        self.end_session()
        self.run("startauthsession", "-S", "s.ctx", *(() if trial else ("--policy-session",)))
        return "s.ctx"

    def end_session(self) -> None:
        """Flush every session, also one that a failed test left."""
        self.run("flushcontext", "-l")
        self.run("flushcontext", "-s")
