"""scripts/record-boot as a module, and Debian's kernels and boot loaders for it, downloaded and unpacked."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from sealvm.attest.state import MeasuredState, verify_measured_state
from sealvm.tcg.attest import ClockInfo, VerifiedQuote
from sealvm.tcg.pcr import PcrSelection, pcr_digest
from tests.attest.logs import BOOT_PCRS

SCRIPT = Path(__file__).parents[2] / "scripts/record-boot"
STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
SNAKEOIL = Path("/usr/share/ovmf")


def load_script() -> ModuleType:
    """The script, which has no .py at its end; leaves no bytecode beside it."""
    loader = importlib.machinery.SourceFileLoader("record_boot", str(SCRIPT))
    spec = importlib.util.spec_from_loader("record_boot", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["record_boot"] = module
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def unpack_debian(directory: Path) -> Path:
    """The newest two cloud kernels' versions, systemd-stub and sbsign, from the machine's own package sources."""
    root = directory / "root"
    if not _apt(directory, [*_kernels(), "systemd-boot-efi", "sbsigntool"]):
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
        assert _apt(directory, [*_kernels(), "systemd-boot-efi", "sbsigntool"])
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    return root


def unpack_kernels(directory: Path, files: Collection[str]) -> dict[str, Path]:
    """Debian's kernels by the names of their files (`vmlinuz-…`); without those that its archive has no more."""
    for file in files:
        _apt(directory, [file.replace("vmlinuz", "linux-image")])
    for package in directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, directory / "root"], check=True)
    return {path.name: path for path in (directory / "root/boot").glob("vmlinuz-*")}


def _kernels() -> list[str]:
    names = subprocess.run(["apt-cache", "pkgnames", "linux-image-6.1.0-"], check=True, capture_output=True, text=True)
    found = re.findall(r"^linux-image-6\.1\.0-(\d+)-cloud-amd64$", names.stdout, re.MULTILINE)
    return [f"linux-image-6.1.0-{number}-cloud-amd64" for number in sorted(map(int, found))[-2:]]


def _apt(directory: Path, packages: list[str]) -> bool:
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["apt-get", "download", *packages], check=False, cwd=directory, capture_output=True)
    return done.returncode == 0


def signer(root: Path, directory: Path) -> tuple[str, ...]:
    """A command that signs by the snakeoil key that Debian's OVMF_VARS_4M.snakeoil.fd accepts."""
    key = directory / "snakeoil.key"
    command = ["openssl", "rsa", "-passin", "pass:snakeoil", "-in", SNAKEOIL / "PkKek-1-snakeoil.key", "-out", key]
    subprocess.run(command, check=True, capture_output=True)
    return (str(root / "usr/bin/sbsign"), "--key", str(key), "--cert", str(SNAKEOIL / "PkKek-1-snakeoil.pem"))


def state_of(recorded: object) -> MeasuredState:
    """The state that a recording proves, PCR by PCR, against what its TPM held."""
    values = {int(pcr): bytes.fromhex(value) for pcr, value in recorded.pcrs.items()}  # type: ignore[attr-defined]
    quote = VerifiedQuote(PcrSelection(BOOT_PCRS), pcr_digest(values, BOOT_PCRS), ClockInfo(1, 1, 0, True), 1)
    return verify_measured_state(quote, recorded.eventlog, recorded.preimages)  # type: ignore[attr-defined]
