"""Steps 4, 5 and 7: a disk is sealed for a profile, launched on three hosts, and launched with nobody there to ask."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

from sealvm.client.operator import operator_client, trusted_bundle
from sealvm.errors import Fault
from sealvm.host.sync import sync
from sealvm.lab.demo.stage import IN_EMPTY_NAMESPACE, PROFILE, Outcome, Stage
from sealvm.lab.image import build_debian_image
from sealvm.package.expression import any_of
from sealvm.package.settings import Settings
from sealvm.provisioner.build import BuildOptions, BuildReport, build_package
from sealvm.provisioner.keys import create_provisioner_key
from sealvm.provisioner.recipients import profile_key_refs
from sealvm.store.reference import parse_reference

GUEST_MEMORY_MIB = 512
_MIB = 1024 * 1024


def make_disk(stage: Stage) -> Path:
    """The tenant's disk: Debian, with the marker in its greeting. The system below it comes from the cache."""
    return build_debian_image(stage.lab.directory / "tenant.raw", "sealed-vm", stage.greeting, stage.cache)


def seal_disk(stage: Stage, disk: Path) -> BuildReport:
    """Step 4: a provisioner, whom the authority lets provision for the profile, seals the disk. No host is named."""
    signer = create_provisioner_key(stage.lab.provisioner_dir)
    with operator_client(stage.lab.authority_dir) as client:
        client.trust_provisioner("tenant", signer.point, (PROFILE,))
    bundle = trusted_bundle(stage.lab.authority_dir)
    built = build_package(
        disk,
        parse_reference(stage.reference),
        expression=any_of([PROFILE]),
        profile_keys=profile_key_refs(bundle, [PROFILE]),
        signer=signer,
        options=BuildOptions(settings=Settings(min_memory_mib=GUEST_MEMORY_MIB)),
    )
    for host in stage.lab.hosts():  # they learn whose packages they may start, and of the approval
        sync(host.directory)
    stage.say(
        f"  disk {built.disk_bytes // _MIB} MiB, {built.used_bytes // _MIB} MiB used -> "
        f"{built.stored_bytes // _MIB} MiB in {built.seconds:.1f} s  sha256:{built.header_digest[:12]}…  "
        f"1 recipient, {built.recipients_bytes} bytes"
    )
    in_disk = count(stage.marker.encode(), [disk])
    in_package = count(stage.marker.encode(), stage.packages.rglob("*"))
    stage.say(f'  marker "{stage.marker}": in the disk {times(in_disk)}, in the package {times(in_package)}')
    if not in_disk or in_package:
        raise Fault("the marker is not where it belongs")
    return built


def launch_everywhere(stage: Stage) -> None:
    """Step 5: the same package on all hosts; two start it, the tampered one is refused and says why."""
    for host in stage.lab.hosts():
        if host.recording == "good":
            launch(stage, host.name)
        else:
            refused(stage, host.name)


def launch_alone(stage: Stage) -> None:
    """Step 7: the authority is killed, and host-2 launches in a network namespace that has no network."""
    pid = stage.lab.stop_authority()
    stage.say(f"  the authority (pid {pid}) is gone")
    launch(stage, "host-2", IN_EMPTY_NAMESPACE, " in an empty network namespace")


def launch(stage: Stage, host: str, prefix: tuple[str, ...] = (), where: str = "") -> None:
    """Launch the package on `host` until its guest greets, then remove the instance."""
    arguments = ("vm", "launch", stage.reference, "--host", host, "--name", "demo", "--wait", stage.marker)
    outcome = stage.program(*arguments, prefix=prefix)
    if outcome.exit_code:
        raise Fault(f"{host} should have started the VM: {outcome.error.get('message')}")
    report = outcome.data
    stage.say(f"  {host}{where}  unwrapped in TPM {report['tpm_ms']:.0f} ms  guest in {report['guest_seconds']:.1f} s")
    stage.say(f"    guest> {report['line']}")
    remove(stage, host)


def refused(stage: Stage, host: str) -> Outcome:
    """Try to launch on `host`, which must be refused for its state, with a reason."""
    outcome = stage.program("vm", "launch", stage.reference, "--host", host, "--name", "demo")
    error = outcome.error
    if error.get("code") != "profile-state-not-approved" or not error.get("explanation_lines"):
        raise Fault(f"{host} should have been refused for its state, but: {error or 'it started the VM'}")
    stage.say(f"  {host}  REFUSED ({error['code']}, exit {outcome.exit_code})")
    for line in error["explanation_lines"]:
        stage.say(f"    {line}")
    return outcome


def remove(stage: Stage, host: str) -> None:
    """Stop and remove the demo's instance on `host`, and erase its keys."""
    outcome = stage.program("vm", "rm", "demo", "--host", host, "--force")
    if outcome.exit_code:
        raise Fault(f"{host}: the instance could not be removed: {outcome.error.get('message')}")


def count(needle: bytes, files: Iterable[Path]) -> int:
    """How often `needle` stands in the files."""
    found = 0
    for path in files:
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
                at = content.find(needle)
                while at >= 0:
                    found += 1
                    at = content.find(needle, at + 1)
    return found


def times(number: int) -> str:
    """`1 time`, `2 times`."""
    return f"{number} time{'' if number == 1 else 's'}"
