"""Finds out whether KVM runs guests here, rather than whether /dev/kvm exists.

A present /dev/kvm can still fail or hang (nested virtualization, a missing right, a broken kernel), so a guest of 512
bytes is started: the BIOS loads it from a disk and it writes one value to QEMU's exit port. Only that exit status
counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from sealvm.errors import EnvironmentFault
from sealvm.host.process import current_boot_id
from sealvm.store.atomic import write_atomic

Accelerator = Literal["kvm", "tcg"]
CACHE_NAME = "accelerator.json"
PROBE_SECONDS = 3.0

_CACHE_LIMIT_BYTES = 4096
_EXIT_PORT, _EXIT_VALUE = 0xF4, 0x2A
_EXIT_STATUS = _EXIT_VALUE << 1 | 1  # what isa-debug-exit makes of the value
# mov al, value; out port, al; hlt; jump back to hlt
_CODE = bytes([0xB0, _EXIT_VALUE, 0xE6, _EXIT_PORT, 0xF4, 0xEB, 0xFD])
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"


def working_accelerator(cache_dir: Path | None = None, timeout_seconds: float = PROBE_SECONDS) -> Accelerator:
    """ "kvm" when a probe guest ran to its end under KVM within the time, else "tcg", which always works.

    With `cache_dir` the answer is kept there until the next boot; an unreadable answer is asked anew. Raises
    EnvironmentFault when QEMU is not installed.
    """
    cache = cache_dir / CACHE_NAME if cache_dir is not None else None
    known = _cached(cache) if cache is not None else None
    if known is not None:
        return known
    found: Accelerator = "kvm" if Path("/dev/kvm").exists() and runs_guest("kvm", timeout_seconds) else "tcg"
    if cache is not None:
        answer = {"accelerator": found, "boot_id": current_boot_id()}
        write_atomic(cache, json.dumps(answer).encode())
    return found


def runs_guest(accelerator: Accelerator, timeout_seconds: float) -> bool:
    """Whether the probe guest runs to its end under this accelerator. Raises EnvironmentFault when QEMU is missing."""
    with tempfile.NamedTemporaryFile(prefix="sealvm-probe-") as disk:
        disk.write(BOOT_SECTOR)
        disk.flush()
        argv = [
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-vga",
            "none",
            "-nic",
            "none",
        ]
        argv += ["-machine", f"pc,accel={accelerator}", "-m", "16", "-no-reboot"]
        argv += ["-device", f"isa-debug-exit,iobase={_EXIT_PORT},iosize=1"]
        argv += ["-drive", f"file={disk.name},format=raw,if=ide,readonly=off,snapshot=on"]
        try:
            ended = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_seconds, check=False
            )
        except FileNotFoundError as error:
            raise EnvironmentFault(f"{argv[0]} is not installed", hint="apt-get install qemu-system-x86") from error
        except subprocess.TimeoutExpired:
            return False
    return ended.returncode == _EXIT_STATUS


def _cached(cache: Path) -> Accelerator | None:
    try:
        with cache.open("rb") as file:
            answer = json.loads(file.read(_CACHE_LIMIT_BYTES))
    except (OSError, ValueError):
        return None
    if not isinstance(answer, dict) or answer.get("boot_id") != current_boot_id():
        return None
    found = answer.get("accelerator")
    if found == "kvm" and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "kvm"
    return "tcg" if found == "tcg" else None
