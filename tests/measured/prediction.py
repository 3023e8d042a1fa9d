"""The PCRs of a start that no host has made yet: firmware as observed, the rest computed from the artefacts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sealvm.lab.measured_host import MEMORY_BYTES, Start
from sealvm.lab.qemu_kernel import as_qemu_loads_it
from sealvm.tcg.authenticode import authenticode_digest
from sealvm.tcg.eventlog import EventLog, extend, initial_pcr
from sealvm.tcg.events_types import EV_EFI_BOOT_SERVICES_APPLICATION

FIRMWARE_PCRS = (0, 2, 7)
PREDICTED_PCRS = (*FIRMWARE_PCRS, 4, 9)


def kernel_digest(start: Start) -> bytes:
    """What the firmware will extend into PCR 4."""
    initrd_bytes = start.initrd.stat().st_size
    kernel = as_qemu_loads_it(start.kernel.read_bytes(), initrd_bytes, MEMORY_BYTES)
    return authenticode_digest(kernel, start.kernel.name)


def predict(observed: EventLog, start: Start) -> Mapping[int, bytes]:
    """PCR 0, 2, 4, 7 and 9 of `start` on the machine and firmware whose log is `observed`."""
    values = {pcr: initial_pcr(observed, pcr) for pcr in PREDICTED_PCRS}
    for event in observed.events:
        digest = event.digests.get("sha256", b"")
        if event.extends and event.pcr == 4 and event.event_type == EV_EFI_BOOT_SERVICES_APPLICATION:
            digest = kernel_digest(start)
        if event.extends and event.pcr in (*FIRMWARE_PCRS, 4):
            values[event.pcr] = extend(values[event.pcr], digest)
    for content in ((start.cmdline + "\0").encode("utf-16-le"), start.initrd.read_bytes()):
        values[9] = extend(values[9], hashlib.sha256(content).digest())
    return values
