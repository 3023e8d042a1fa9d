"""What anybody can say about a package without a key, and the check of all its bytes.

The results are plain JSON objects; their fields are stable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from sealvm.crypto.dsse import unverified_payload
from sealvm.errors import IntegrityRefused
from sealvm.package.expression import describe, expression_json
from sealvm.package.header import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, BlobRef, parse_header
from sealvm.package.manifest import parse_manifest
from sealvm.package.open import Provisioners, VerifiedPackage, check_size, open_package
from sealvm.package.ports import PackageStore
from sealvm.package.recipients import MAX_RECIPIENTS_BYTES, describe_recipients

_PIECE_BYTES = 4 * 1024 * 1024


def inspect_package(store: PackageStore, name: str) -> dict[str, Any]:
    """Everything public about a package. **No signature is checked**: to be shown, never acted upon.

    Raises NotFoundError, MalformedError, IntegrityRefused for parts that do not hold together.
    """
    resolved = store.resolve(name)
    manifest = parse_manifest(resolved.data)
    envelope = store.get_blob(manifest.header.digest, MAX_ENVELOPE_BYTES)
    claimed = unverified_payload(envelope, PAYLOAD_TYPE, "package header")
    header = parse_header(claimed.payload)
    recipients = store.get_blob(manifest.recipients.digest, MAX_RECIPIENTS_BYTES)
    stored = sum(pack.size for pack in header.packs)
    return {
        "package": header.digest,
        "manifest": resolved.digest,
        "signed_by": list(claimed.keyids),
        "lineage": header.lineage.hex(),
        "version": header.version,
        "created": header.created,
        "disk_bytes": header.disk_bytes,
        "chunk_bytes": header.chunk_bytes,
        "stored_bytes": stored,
        "packs": [{"digest": pack.digest, "size": pack.size} for pack in header.packs],
        "index": {"digest": header.index.blob.digest, "size": header.index.blob.size},
        "profiles": describe(header.expression),
        "expression": expression_json(header.expression),
        "settings": header.settings.to_json(),
        "recipients": describe_recipients(recipients, header),
        "recipients_bytes": len(recipients),
    }


def verify_package(
    store: PackageStore,
    name: str,
    provisioners: Provisioners,
    *,
    deep: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> VerifiedPackage:
    """Open the package (see `open_package`) and, when `deep`, read every byte of index and packs and check its digest.

    What passes is exactly what the provisioner signed, though only a host with the key can see that it decrypts.
    `progress(done_bytes, total_bytes)` is called as reading goes on. Raises IntegrityRefused naming the blob.
    """
    package = open_package(store, name, provisioners)
    blobs = [package.header.index.blob, *package.header.packs] if deep else []
    total = sum(blob.size for blob in blobs)
    done = 0
    for blob in blobs:
        for count in _check_blob(store, blob):
            done += count
            if progress is not None:
                progress(done, total)
    return package


def _check_blob(store: PackageStore, blob: BlobRef) -> Iterator[int]:
    check_size(store, blob)
    digest = hashlib.sha256()
    for offset in range(0, blob.size, _PIECE_BYTES):
        piece = store.read_at(blob.digest, offset, min(_PIECE_BYTES, blob.size - offset))
        digest.update(piece)
        yield len(piece)
    found = "sha256:" + digest.hexdigest()
    if found != blob.digest:
        raise IntegrityRefused(f"blob {blob.digest}: its content has digest {found}", hint="fetch the package again")
