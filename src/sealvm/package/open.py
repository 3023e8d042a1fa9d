"""Opening a package: everything that can be checked without K, in a fixed order (spec, section 9)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sealvm.crypto.dsse import verify_envelope
from sealvm.crypto.ec import keyid_of
from sealvm.errors import IntegrityRefused, UntrustedRefused
from sealvm.package.expression import leaves_of
from sealvm.package.header import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, BlobRef, Header, parse_header
from sealvm.package.manifest import Manifest, check_manifest, parse_manifest
from sealvm.package.ports import PackageStore
from sealvm.package.recipients import MAX_RECIPIENTS_BYTES, ProfileKeyOpener, check_recipients, open_recipients
from sealvm.secret import Secret

Provisioners = Mapping[bytes, Collection[str] | None]
"""Accepted provisioner keys: point (65 bytes) to the profiles they may provision for; None stands for all profiles."""


@dataclass(frozen=True, slots=True)
class VerifiedPackage:
    """A package whose header an accepted provisioner signed, and whose parts belong to that header.

    Not yet checked: the version (`check_version`), that K can be had (`unwrap`), and the content of index and packs,
    which is verified as it is read. `profiles` are those of the expression for which the signer is accepted.
    """

    header: Header
    header_digest: str
    provisioner_keyid: str
    profiles: frozenset[str]
    recipients: bytes
    manifest: Manifest
    manifest_digest: str

    def unwrap(self, opener: ProfileKeyOpener) -> Secret:
        """K, through this host's profile keys; only profiles for which the signer is accepted are tried.

        Raises as `recipients.open_recipients`.
        """
        return open_recipients(self.recipients, self.header, opener, self.profiles)


def open_package(store: PackageStore, name: str, provisioners: Provisioners) -> VerifiedPackage:
    """The package that a tag, or a manifest's `sha256:` digest, names; verified as follows, stopping at the first no.

    1. The manifest has the digest under which it is listed, and is that of a launch package (MalformedError).
    2. The header envelope has the digest and size that the manifest states (IntegrityRefused).
    3. An accepted provisioner signed it: UntrustedRefused for another signer, SignatureRefused for a bad signature.
    4. The header is well formed, canonical and within limits (MalformedError).
    5. The signer is accepted for at least one profile of the expression (UntrustedRefused).
    6. Index and packs in the manifest are those of the header (IntegrityRefused).
    7. The recipients have their digest, name this header, and have the shape of its expression (IntegrityRefused).
    8. Index and packs are there in their full size (NotFoundError, IntegrityRefused).

    Nothing is decrypted, and nothing of index and packs is read. Raises also StorageFault.
    """
    resolved = store.resolve(name)
    manifest = parse_manifest(resolved.data)  # 1
    envelope = _fetch(store, manifest.header, MAX_ENVELOPE_BYTES, "header")  # 2
    verified = verify_envelope(envelope, PAYLOAD_TYPE, provisioners, "package header")  # 3
    header = parse_header(verified.payload)  # 4
    profiles = _accepted_profiles(header, verified.keyid, provisioners)  # 5
    check_manifest(manifest, header)  # 6
    recipients = _fetch(store, manifest.recipients, MAX_RECIPIENTS_BYTES, "recipients")  # 7
    check_recipients(recipients, header)
    for blob in (header.index.blob, *header.packs):  # 8
        check_size(store, blob)
    return VerifiedPackage(
        header=header,
        header_digest=hashlib.sha256(verified.payload).hexdigest(),
        provisioner_keyid=verified.keyid,
        profiles=profiles,
        recipients=recipients,
        manifest=manifest,
        manifest_digest=resolved.digest,
    )


def check_size(store: PackageStore, blob: BlobRef) -> None:
    """Raise IntegrityRefused unless the blob is stored in its full size; its content is not read."""
    size = store.size(blob.digest)
    if size != blob.size:
        raise IntegrityRefused(f"blob {blob.digest}: {size} bytes stored, {blob.size} expected")


def _fetch(store: PackageStore, blob: BlobRef, limit: int, what: str) -> bytes:
    data = store.get_blob(blob.digest, limit)
    if len(data) != blob.size:
        raise IntegrityRefused(f"{what}: {len(data)} bytes, the manifest states {blob.size}")
    return data


def _accepted_profiles(header: Header, keyid: str, provisioners: Provisioners) -> frozenset[str]:
    names = frozenset(leaves_of(header.expression))
    for point, accepted in provisioners.items():
        if keyid_of(point) == keyid:
            names = names if accepted is None else names & frozenset(accepted)
    if not names:
        raise UntrustedRefused(
            f"package header: signed by key {keyid[:16]}, which is not accepted for any of the package's profiles",
            hint="trust the provisioner for the profile: sealvm provisioner trust",
        )
    return names
