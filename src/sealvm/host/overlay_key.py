"""The key of an instance's writable disk: 256 bit, out of a fresh share and the package's key K.

    disk key = HKDF(K || share, "overlay-key", package, instance)

The share is wrapped to the profiles of the package. The wraps have the form of a package's recipients
(docs/spec/package-v1.md, section 7), but name, in place of the package, the digest `L("overlay", package, instance)`.
So a wrap of one instance opens for no other instance and is none of the package's, and whoever satisfies the package's
expression, this host after a reboot or another, opens the disk.

Why K is in it: anybody can wrap a share of his own choice to a profile. If that were all, whoever can write to the
host's storage could put a disk and a wrap there that fit each other: the guest would boot from his disk, with the
package's image behind it, and write under a key that he knows.
"""

from __future__ import annotations

import secrets

from sealvm.crypto.kdf import hkdf
from sealvm.crypto.labels import label_digest
from sealvm.errors import IntegrityRefused
from sealvm.package.expression import leaves_of
from sealvm.package.header import Header
from sealvm.package.recipients import ProfileKeyOpener, ProfileKeyRef, build_recipients, list_wraps, open_wraps
from sealvm.secret import Secret
from sealvm.statements.bundle import TrustBundle

OVERLAY_KEY_BYTES = 32


def new_overlay_key(header: Header, instance_id: str, bundle: TrustBundle, package_key: Secret) -> tuple[Secret, bytes]:
    """A fresh key for the disk of an instance, and its share, wrapped to every key that is open for its profiles.

    `package_key` is K, which passed the header's commitment. Raises InputError when the bundle keeps no key of one of
    the profiles open.
    """
    share = Secret(secrets.token_bytes(OVERLAY_KEY_BYTES))
    wrap = wrap_share(share, header, instance_id, bundle)
    return _disk_key(share, package_key, header, instance_id), wrap


def unwrap_overlay_key(
    wrap: bytes, header: Header, instance_id: str, opener: ProfileKeyOpener, package_key: Secret
) -> Secret:
    """The key whose share is in `wrap`, through this host's profile keys. Raises as `package.recipients.open_wraps`.

    `package_key` is K, which passed the header's commitment. There is no commitment to the share: LUKS keeps a digest
    of the key in the disk itself, which nobody without K can make, and a wrong key opens nothing.
    """
    return _disk_key(unwrap_share(wrap, header, instance_id, opener), package_key, header, instance_id)


def wrap_share(share: Secret, header: Header, instance_id: str, bundle: TrustBundle) -> bytes:
    """The share wrapped to every key that is open for the package's profiles. InputError when one of them has none."""
    refs = [ProfileKeyRef(*key, point) for key, point in open_keys_of(header, bundle).items()]
    return build_recipients(share, _context(header, instance_id), refs, header.expression)


def unwrap_share(wrap: bytes, header: Header, instance_id: str, opener: ProfileKeyOpener) -> Secret:
    """The share in `wrap`, which alone opens nothing. Raises as `package.recipients.open_wraps`."""
    return open_wraps(wrap, _context(header, instance_id), header.expression, opener, None, accept=_check_length)


def open_keys_of(header: Header, bundle: TrustBundle) -> dict[tuple[str, int, str], bytes]:
    """(profile, epoch, cell) and point of the keys that a disk of this package is to be wrapped to."""
    wanted = set(leaves_of(header.expression))
    return {
        (profile.name, epoch.epoch, epoch.cell): epoch.point
        for profile in bundle.profiles
        if profile.name in wanted
        for epoch in profile.epochs
        if epoch.wraps  # a closed one opens on hosts in a state that was withdrawn
    }


def wrapped_keys(wrap: bytes, header: Header, instance_id: str) -> frozenset[tuple[str, int, str]]:
    """The (profile, epoch, cell) that `wrap` names. MalformedError, IntegrityRefused when it is of another disk."""
    listed = list_wraps(wrap, _context(header, instance_id), header.expression)
    return frozenset((name, found.epoch, found.cell) for name, found in listed)


def _disk_key(share: Secret, package_key: Secret, header: Header, instance_id: str) -> Secret:
    both = Secret(package_key.reveal() + share.reveal())
    return hkdf(both, "overlay-key", bytes.fromhex(header.digest), instance_id.encode())


def _context(header: Header, instance_id: str) -> str:
    return label_digest("overlay", bytes.fromhex(header.digest), instance_id.encode()).hex()


def _check_length(key: Secret) -> None:
    if len(key) != OVERLAY_KEY_BYTES:
        raise IntegrityRefused(f"share of the overlay key has {len(key)} bytes, expected {OVERLAY_KEY_BYTES}")
