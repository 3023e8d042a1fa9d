"""The key of an instance's writable disk: 256 bit, fresh, wrapped to the profiles of its package.

The wraps have the form of a package's recipients (docs/spec/package-v1.md, section 7), but name, in place of the
package, the digest `L("overlay", package, instance)`. So a wrap of one instance opens for no other instance and is none
of the package's, and whoever satisfies the package's expression, this host after a reboot or another, opens the disk.
"""

from __future__ import annotations

import secrets

from sealvm.crypto.labels import label_digest
from sealvm.errors import IntegrityRefused
from sealvm.package.expression import leaves_of
from sealvm.package.header import Header
from sealvm.package.recipients import ProfileKeyOpener, ProfileKeyRef, build_recipients, open_wraps
from sealvm.secret import Secret
from sealvm.statements.bundle import TrustBundle

OVERLAY_KEY_BYTES = 32


def new_overlay_key(header: Header, instance_id: str, bundle: TrustBundle) -> tuple[Secret, bytes]:
    """A fresh key for the disk of an instance, and the same wrapped to every key the bundle lists for its profiles.

    Raises InputError when the bundle lists none for one of them.
    """
    key = Secret(secrets.token_bytes(OVERLAY_KEY_BYTES))
    wanted = set(leaves_of(header.expression))
    refs = [
        ProfileKeyRef(profile.name, epoch.epoch, epoch.cell, epoch.point)
        for profile in bundle.profiles
        if profile.name in wanted
        for epoch in profile.epochs
    ]
    return key, build_recipients(key, _context(header, instance_id), refs, header.expression)


def unwrap_overlay_key(wrap: bytes, header: Header, instance_id: str, opener: ProfileKeyOpener) -> Secret:
    """The key in `wrap`, through this host's profile keys. Raises as `package.recipients.open_recipients`.

    There is no commitment: LUKS keeps a digest of the key in the disk itself, and a wrong one opens nothing.
    """
    return open_wraps(wrap, _context(header, instance_id), header.expression, opener, None, accept=_check_length)


def _context(header: Header, instance_id: str) -> str:
    return label_digest("overlay", bytes.fromhex(header.digest), instance_id.encode()).hex()


def _check_length(key: Secret) -> None:
    if len(key) != OVERLAY_KEY_BYTES:
        raise IntegrityRefused(f"overlay key has {len(key)} bytes, expected {OVERLAY_KEY_BYTES}")
