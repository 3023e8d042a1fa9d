"""The launch pipeline: from a package's reference to a guest that runs, or to a refusal that explains itself.

1. The stored trust bundle verifies against the anchor and is not older than the newest seen.
2. The package verifies: signed by a provisioner whom the bundle accepts for its profiles, all parts its own.
3. It is not older than the highest version of its lineage that this host has started.
4. K is unwrapped: the TPM uses a profile key only in a state that was approved for it; the commitment is checked.
5. A fresh key for the writable disk is made out of K and a share that is wrapped to the same profiles.
6. The version is remembered, unless a newer one was meanwhile: from now on an older one is refused, whatever follows.
7. Block server, storage daemon and QEMU start; nothing is decrypted to disk.

A failure at any step undoes those before it, but not step 6. No network is used, but that in step 4 the authority is
asked once, by `renewal`, for the lease of a leased profile that has none; without the authority that is a refusal.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sealvm.errors import InputError, StateRefused
from sealvm.host import lineages
from sealvm.host.blockserver.server import start_block_server
from sealvm.host.bundles import disk_bundle, present_warnings
from sealvm.host.config import HostConfig
from sealvm.host.explain import refusal_lines
from sealvm.host.hypervisor.base import Hypervisor
from sealvm.host.instance_record import folder_of
from sealvm.host.keyring import Keyring
from sealvm.host.launch_vm import InstanceSpec, Keys, Launched, launch_instance, start_instance
from sealvm.host.overlay_key import new_overlay_key, unwrap_overlay_key
from sealvm.host.unlock import KeyOpener, Renewal, accepted_provisioners, stored_bundle
from sealvm.package.expression import leaves_of
from sealvm.package.header import Header
from sealvm.package.locate import locate
from sealvm.package.open import VerifiedPackage, open_package
from sealvm.statements.bundle import TrustBundle
from sealvm.store.layout import OciLayout
from sealvm.store.reference import Reference


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What the host's operator chooses; None takes the package's own wish. `disk_bytes` may exceed the image's size."""

    name: str | None = None
    memory_mib: int | None = None
    cpus: int = 1
    disk_bytes: int | None = None


@dataclass(slots=True)
class StepTimes:
    """Seconds that each step took, by name, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """A started guest: the instance with its console, what the TPM was asked, and where the time went.

    warnings: what the operator must hear all the same, such as a trust bundle past its date.
    """

    launched: Launched
    package: VerifiedPackage
    tpm_seconds: float
    tpm_uses: int
    steps: StepTimes
    warnings: tuple[str, ...] = ()


def launch(
    config: HostConfig,
    reference: Reference,
    options: LaunchOptions,
    hypervisor: Hypervisor,
    renewal: Renewal | None = None,
) -> LaunchReport:
    """Start a new instance of the package that `reference` names on this host.

    Raises StateRefused with `explanation_lines` in its fields when the host's state is not approved; what
    `open_package`, `check_version`, `unwrap` and `launch_instance` raise. Then nothing of the instance is left.
    """
    steps = StepTimes()
    with OciLayout.open(reference.directory) as layout:
        with steps.step("verify"):
            opener, package = _verified(config, layout, reference.tag, renewal)  # 1, 2
            lineages.check(config.directory, package.header)  # 3
            disk_bytes = _disk_bytes(options, package.header)
        with steps.step("unwrap"), explaining(config, package.header):
            key = package.unwrap(opener)  # 4
    name = options.name or f"vm-{secrets.token_hex(4)}"
    overlay_key, overlay_wrap = new_overlay_key(package.header, name, opener.bundle, key)  # 5
    warned = present_warnings(Keyring(config.directory), opener.bundle)
    spec = InstanceSpec(
        id=name,
        layout_dir=reference.directory,
        header_digest=package.header_digest,
        disk_bytes=disk_bytes,
        memory_mib=options.memory_mib or package.header.settings.min_memory_mib,
        cpus=options.cpus,
        labels={"reference": str(reference), "provisioner": package.provisioner_keyid, **_noted(warned)},
    )
    lineages.remember(config.directory, package.header)  # 6
    with steps.step("start"):
        launched = launch_instance(  # 7
            config.directory,
            spec,
            Keys(key, overlay_key),
            overlay_wrap,
            start_block_server=start_block_server,
            hypervisor=hypervisor,
        )
    return LaunchReport(launched, package, opener.tpm_seconds, opener.uses, steps, warned)


def start(config: HostConfig, name: str, hypervisor: Hypervisor, renewal: Renewal | None = None) -> LaunchReport:
    """Start a stopped instance again, from its own disk: steps 1, 2, 4 and 7, with the disk's key out of its wrap.

    The version is not checked again: the instance exists. Raises as `launch`, NotFoundError when its package is gone.
    """
    steps = StepTimes()
    folder = folder_of(config.directory, name)
    record = folder.read()
    with OciLayout.open(Path(record.layout_dir)) as layout:
        with steps.step("verify"):
            opener, package = _verified(config, layout, locate(layout, record.header_digest), renewal)
            if package.header_digest != record.header_digest:
                raise InputError(f"instance {name}: its package is not the one in {record.layout_dir}")
        with steps.step("unwrap"), explaining(config, package.header):
            key = package.unwrap(opener)
            share_opener = _disk_opener(config, opener.bundle, renewal)
            keys = Keys(key, unwrap_overlay_key(folder.read_wrap(), package.header, name, share_opener, key))
    with steps.step("start"):
        launched = start_instance(
            config.directory, name, keys, start_block_server=start_block_server, hypervisor=hypervisor
        )
    seconds, uses = opener.tpm_seconds + share_opener.tpm_seconds, opener.uses + share_opener.uses
    warned = present_warnings(Keyring(config.directory), opener.bundle)
    return LaunchReport(launched, package, seconds, uses, steps, warned)


def _verified(
    config: HostConfig, layout: OciLayout, name: str, renewal: Renewal | None
) -> tuple[KeyOpener, VerifiedPackage]:
    keyring = Keyring(config.directory)
    bundle = stored_bundle(keyring)
    return KeyOpener(config, keyring, bundle, renewal), open_package(layout, name, accepted_provisioners(bundle))


def _noted(warned: tuple[str, ...]) -> dict[str, str]:
    """In the instance's record, that it was launched all the same."""
    return {"launched_with": "; ".join(warned)} if warned else {}


def _disk_opener(config: HostConfig, bundle: TrustBundle, renewal: Renewal | None) -> KeyOpener:
    """Opens also what is wrapped to an epoch that was retired before this host could wrap the disk anew."""
    keyring = Keyring(config.directory)
    return KeyOpener(config, keyring, disk_bundle(keyring, bundle), renewal)


@contextmanager
def explaining(config: HostConfig, header: Header) -> Iterator[None]:
    """Give a StateRefused from the block the explanation that `host explain` has for the package's profiles."""
    try:
        yield
    except StateRefused as refusal:
        refusal.hint = ""  # it would say: see the explanation
        refusal.fields["explanation_lines"] = refusal_lines(config, sorted(set(leaves_of(header.expression))))
        raise


def _disk_bytes(options: LaunchOptions, header: Header) -> int:
    wanted = options.disk_bytes or header.disk_bytes
    if wanted < header.disk_bytes:
        raise InputError(f"a disk of {wanted} bytes is smaller than the image, {header.disk_bytes} bytes")
    return wanted
