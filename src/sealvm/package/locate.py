"""Finding a package by its identity in a store, for whoever was told the identity by the verifier.

Imports no signature code: the block server's plugin uses this, and must start quickly.
"""

from __future__ import annotations

from sealvm.errors import MalformedError, NotFoundError
from sealvm.package.header import MAX_ENVELOPE_BYTES, Header, header_in_envelope
from sealvm.package.manifest import Manifest, parse_manifest
from sealvm.package.ports import PackageStore


def locate(store: PackageStore, header_digest: str) -> str:
    """The digest of a manifest that claims to be of this package. A claim only; raises NotFoundError if none is."""
    return _find(store, header_digest)[0]


def header_of(store: PackageStore, header_digest: str) -> Header:
    """The header with this digest. The digest is checked; the signature is not: the caller got the digest from the
    verifier. Raises NotFoundError, MalformedError, IntegrityRefused.
    """
    manifest = _find(store, header_digest)[1]
    return header_in_envelope(store.get_blob(manifest.header.digest, MAX_ENVELOPE_BYTES), header_digest)


def _find(store: PackageStore, header_digest: str) -> tuple[str, Manifest]:
    for resolved in store.manifests():
        try:
            manifest = parse_manifest(resolved.data)
        except MalformedError:
            continue  # the layout may hold other artifacts
        if manifest.identity == header_digest:
            return resolved.digest, manifest
    raise NotFoundError(f"package {header_digest} is not in this store", hint="was its directory moved or emptied?")
