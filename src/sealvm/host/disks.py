"""Disks and the epochs their keys are wrapped to: wrapped anew when the bundle says so, reported to the authority.

A disk's new wrap replaces the old one only when the TPM has opened it, in this state, through the new wraps alone; so a
host whose state is not approved in the new epoch yet keeps what it can open. A key that the bundle does not list any
more is removed when no disk's wraps need it; until then the older bundle is kept for its approvals (`host.bundles`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sealvm.errors import Fault, InputError, Refusal
from sealvm.host.bundles import disk_bundle
from sealvm.host.config import HostConfig
from sealvm.host.instance_record import InstanceFolder, InstanceRecord, all_folders, locked
from sealvm.host.keyring import Keyring
from sealvm.host.overlay_key import open_keys_of, unwrap_share, wrap_share, wrapped_keys
from sealvm.host.unlock import KeyOpener
from sealvm.package.header import Header
from sealvm.package.locate import header_of, locate
from sealvm.package.manifest import parse_manifest
from sealvm.package.recipients import MAX_RECIPIENTS_BYTES, describe_recipients
from sealvm.protocol.trust import DiskReport, InventoryReport, KeyNamed
from sealvm.statements.bundle import TrustBundle
from sealvm.store.atomic import write_atomic
from sealvm.store.layout import OciLayout

Key = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of disks and keys. Instances by name; keys as (profile, epoch, cell)."""

    rewrapped: tuple[str, ...]
    waiting: tuple[tuple[str, str], ...]
    removed_keys: tuple[Key, ...]


def settle(config: HostConfig, bundle: TrustBundle) -> Settled:
    """Bring disks and keys in line with the stored `bundle`. Idempotent; what fails for one disk waits and is named.

    The caller holds `sync.exclusive`. Raises StorageFault.
    """
    keyring = Keyring(config.directory)
    sources = disk_bundle(keyring, bundle)
    rewrapped: list[str] = []
    waiting: list[tuple[str, str]] = []
    for folder in all_folders(config.directory):
        try:
            if _rewrap(config, keyring, folder, bundle, sources):
                rewrapped.append(folder.path.name)
        except (Refusal, InputError, Fault) as problem:
            waiting.append((folder.path.name, problem.message))
    return Settled(tuple(rewrapped), tuple(waiting), _remove_keys(config, keyring, bundle))


def inventory(config: HostConfig, bundle_version: int) -> InventoryReport:
    """What this host has, for the authority. An instance that cannot be read is left out."""
    held = Keyring(config.directory).keys()
    keys = tuple(KeyNamed(profile=key.profile, epoch=key.epoch, cell=key.cell) for key in held)
    disks = []
    for folder in all_folders(config.directory):
        with suppress(Refusal, InputError, Fault):
            record = folder.read()
            header, package_wraps = _package(record)
            disks.append(
                DiskReport(
                    instance=record.id,
                    package=bytes.fromhex(record.header_digest),
                    wraps=_named(wrapped_keys(folder.read_wrap(), header, record.id)),
                    package_wraps=_named(package_wraps),
                )
            )
    return InventoryReport(bundle_version=bundle_version, keys=keys, disks=tuple(disks))


def _rewrap(
    config: HostConfig, keyring: Keyring, folder: InstanceFolder, bundle: TrustBundle, sources: TrustBundle
) -> bool:
    """Wrap one disk anew if the bundle wants other keys than it has. False when it is in order."""
    record = folder.read()
    header, _ = _package(record)
    wrap = folder.read_wrap()
    wanted = frozenset(open_keys_of(header, bundle))
    if wrapped_keys(wrap, header, record.id) == wanted:
        return False
    with locked(folder):
        share = unwrap_share(wrap, header, record.id, KeyOpener(config, keyring, sources))
        new = wrap_share(share, header, record.id, bundle)
        unwrap_share(new, header, record.id, KeyOpener(config, keyring, bundle))  # or the disk could be lost
        write_atomic(folder.wrap, new, 0o600)
    return True


def _remove_keys(config: HostConfig, keyring: Keyring, bundle: TrustBundle) -> tuple[Key, ...]:
    present = keyring.keys()
    held = {(key.profile, key.epoch, key.cell) for key in present}
    unlisted = {key for key in held if bundle.epoch_of(*key) is None}
    if not unlisted:
        keyring.keep_bundle(None)
        return ()
    needed: set[Key] = set()
    for folder in all_folders(config.directory):
        try:
            record = folder.read()
            header, _ = _package(record)
            wraps = wrapped_keys(folder.read_wrap(), header, record.id)
        except (Refusal, InputError, Fault):
            return ()  # a disk that cannot be read now may need any of them
        if not any(bundle.epoch_of(*key) is not None and key in held for key in wraps):
            needed |= wraps
    for key in sorted(unlisted - needed):
        keyring.remove_key(*key)
    if not unlisted & needed:
        keyring.keep_bundle(None)
    return tuple(sorted(unlisted - needed))


def _package(record: InstanceRecord) -> tuple[Header, frozenset[Key]]:
    """The header of an instance's package, by its digest, and the keys the package is wrapped to.

    The digest suffices: it is in the context of every wrap, so with another header nothing opens.
    """
    with OciLayout.open(Path(record.layout_dir)) as layout:
        header = header_of(layout, record.header_digest)
        manifest = parse_manifest(layout.resolve(locate(layout, record.header_digest)).data)
        recipients = layout.get_blob(manifest.recipients.digest, MAX_RECIPIENTS_BYTES)
    listed = describe_recipients(recipients, header)
    return header, frozenset((str(r["profile"]), int(r["epoch"]), str(r["cell"])) for r in listed)


def _named(keys: frozenset[Key]) -> tuple[KeyNamed, ...]:
    return tuple(KeyNamed(profile=profile, epoch=epoch, cell=cell) for profile, epoch, cell in sorted(keys))
