"""What a machine lacks for the role it is to play: each check says what was found, and what to do about it.

Checks look; they change nothing, but for a key that is made in the TPM and flushed again.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sealvm.errors import Fault, InputError, SealvmError
from sealvm.host.config import HostConfig, load_host
from sealvm.host.hypervisor.probe import working_accelerator
from sealvm.tpm import doctor as tpm_doctor

Status = Literal["ok", "warn", "missing"]

PROGRAMS = {
    "qemu-system-x86_64": ("qemu-system-x86", "runs the VMs"),
    "qemu-storage-daemon": ("qemu-system-common", "serves writable disks"),
    "qemu-img": ("qemu-utils", "reads disk images"),
    "nbdkit": ("nbdkit, nbdkit-plugin-python", "serves sealed images"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check: `missing` means that sealvm cannot do its work here, `warn` that it can, worse than it should."""

    name: str
    status: Status
    found: str
    hint: str = ""


def examine(host_dir: Path) -> list[Check]:
    """All checks for the host in `host_dir`; a folder without host.json is examined as a machine not yet set up."""
    return [*_platform(), *_programs(), *_swap(), _accelerator(host_dir), *_host(host_dir)]


def _platform() -> Iterator[Check]:
    yield Check("python", "ok", platform.python_version())
    machine = platform.machine()
    if machine == "x86_64":
        yield Check("machine", "ok", machine)
    else:
        yield Check("machine", "missing", machine, "this version runs x86_64 guests on x86_64 hosts only")


def _programs() -> Iterator[Check]:
    for program, (package, purpose) in PROGRAMS.items():
        path = shutil.which(program)
        if path:
            yield Check(program, "ok", path)
        else:
            yield Check(program, "missing", "not found", f"it {purpose}: apt-get install {package}")


def _swap() -> Iterator[Check]:
    areas = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    plain = [area for area in areas if not area.startswith(("/dev/dm-", "/dev/mapper/", "/dev/zram"))]
    if plain:
        yield Check(
            "swap",
            "warn",
            ", ".join(plain),
            "guest memory can reach the disk: swapoff, or encrypt it with a throwaway key",
        )
    else:
        yield Check("swap", "ok", ", ".join(areas) or "none")


def _accelerator(host_dir: Path) -> Check:
    try:
        found = working_accelerator(host_dir if host_dir.is_dir() else None)
    except SealvmError as error:
        return Check("accelerator", "missing", error.message, error.hint)
    if found == "kvm":
        return Check("accelerator", "ok", "kvm: a probe guest ran")
    there = Path("/dev/kvm").exists()
    why = "/dev/kvm is there, but the probe guest did not run" if there else "no /dev/kvm"
    return Check("accelerator", "warn", f"tcg: {why}", "guests run, slowly: switch on virtualization in the firmware")


def _host(host_dir: Path) -> Iterator[Check]:
    try:
        config = load_host(host_dir)
    except InputError as error:
        yield Check("host", "warn", error.message, error.hint)
        return
    yield Check("host", "ok", f"{config.name} in {host_dir}")
    yield _event_log(config)
    try:
        with config.open_tpm() as tpm:
            findings = tpm_doctor.examine(tpm)
    except Fault as error:
        yield Check("tpm", "missing", error.message, error.hint)
        return
    for finding in findings:
        yield Check(f"tpm {finding.name}", "ok" if finding.ok else "missing", finding.found, finding.hint)


def _event_log(config: HostConfig) -> Check:
    try:
        with config.eventlog.open("rb") as log:
            there = bool(log.read(1))
    except OSError as error:
        return Check(
            "event log", "missing", f"{config.eventlog}: {error.strerror}", "boot by UEFI with the TPM switched on"
        )
    if there:
        return Check("event log", "ok", str(config.eventlog))
    return Check("event log", "missing", f"{config.eventlog}: empty", "boot by UEFI with the TPM switched on")
