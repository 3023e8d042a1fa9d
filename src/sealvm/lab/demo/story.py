"""The seven steps in order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sealvm.host.hypervisor.probe import working_accelerator
from sealvm.lab.authority import prepare_authority
from sealvm.lab.demo import attack, trust, vms
from sealvm.lab.demo.stage import Stage
from sealvm.lab.network import Lab


def tell(lab_dir: Path, cache: Path, say: Callable[[str], None]) -> None:
    """Run the demo in a new lab at `lab_dir`, in place of one that is there; switch the lab off at the end.

    Raises the error of the step that did not come out as it must.
    """
    started = time.monotonic()
    lab = Lab(lab_dir)
    stage = Stage(lab, cache, say)
    lab.down(remove=True)
    try:
        say(f"sealvm demo: one VM, three hosts, one tampered. TPMs: swtpm; VMs: QEMU ({_accelerator()})")
        with ThreadPoolExecutor(1) as aside:
            disk = aside.submit(vms.make_disk, stage)  # the longest piece of work, and nothing needs it before step 4
            _steps_of_trust(stage)
            say("[4/7] Encrypt a VM for the profile (no host is named)")
            vms.seal_disk(stage, disk.result())
        say("[5/7] Launch the same package")
        vms.launch_everywhere(stage)
        say("[6/7] Now attack")
        attack.attack(stage)
        say("[7/7] Kill the authority, cut the network")
        vms.launch_alone(stage)
    finally:
        lab.down(remove=False)
    say("")
    say(f"Done in {time.monotonic() - started:.0f} s. No server was asked; the tampered host got nothing.")
    place = os.path.relpath(stage.packages)
    say(f"Look closer: sealvm lab up; sealvm host explain host-3; sealvm package inspect oci:{place}:demo")
    say(
        "Not proved here: hardware TPMs (root of a lab host could read its swtpm's files). "
        "A running VM's memory is readable by its host. See docs/threat-model.md."
    )


def _steps_of_trust(stage: Stage) -> None:
    stage.say("")
    stage.say("[1/7] Three hosts enroll; each TPM proves it is genuine")
    stage.lab.create()
    for host in stage.lab.hosts():
        stage.lab.power_on(host)
    prepare_authority(stage.lab)
    trust.enroll_hosts(stage)
    trust.apply_profile(stage)
    stage.say("[3/7] Approve host-1's state")
    trust.approve_state(stage)


def _accelerator() -> str:
    if working_accelerator() == "kvm":
        return "KVM"
    return "TCG: /dev/kvm is there but guests hang" if Path("/dev/kvm").exists() else "TCG: there is no /dev/kvm"
