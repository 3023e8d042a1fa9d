"""The OCI manifest that holds a package's parts together (docs/spec/package-v1.md, section 2).

An OCI 1.1 image manifest with the package's artifactType, the empty config, and as layers: header envelope, recipients,
index, packs. It is not signed: what it says is checked against the header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sealvm.crypto import canonical
from sealvm.errors import IntegrityRefused, MalformedError
from sealvm.package import recipients
from sealvm.package.header import MAX_PACKS, BlobRef, Header
from sealvm.package.ports import Descriptor

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.sealvm.launch-package.v1"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_CONFIG = b"{}"
EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
HEADER_TYPE = "application/vnd.sealvm.package-header.v1.dsse+json"
INDEX_TYPE = "application/vnd.sealvm.index.v1"
PACK_TYPE = "application/vnd.sealvm.pack.v1"
IDENTITY_ANNOTATION = "dev.sealvm.package"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where a package's parts lie, as the manifest claims; `identity` is the claimed header digest, "" if none."""

    header: BlobRef
    recipients: BlobRef
    index: BlobRef
    packs: tuple[BlobRef, ...]
    identity: str


def build_manifest(header: Header, envelope: Descriptor, wraps: Descriptor) -> dict[str, Any]:
    """The manifest of a package whose parts are all stored."""
    layers = [
        _layer(HEADER_TYPE, envelope.digest, envelope.size),
        _layer(recipients.MEDIA_TYPE, wraps.digest, wraps.size),
        _layer(INDEX_TYPE, header.index.blob.digest, header.index.blob.size),
        *(_layer(PACK_TYPE, pack.digest, pack.size) for pack in header.packs),
    ]
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _layer(EMPTY_TYPE, EMPTY_DIGEST, len(EMPTY_CONFIG)),
        "layers": layers,
        "annotations": {"org.opencontainers.image.created": header.created, IDENTITY_ANNOTATION: header.digest},
    }


def parse_manifest(data: bytes) -> Manifest:
    """The parts that a manifest names. Raises MalformedError for anything but a launch package of format 1."""
    obj = canonical.loads(data, "manifest", MAX_MANIFEST_BYTES)
    if not isinstance(obj, dict) or obj.get("artifactType") != ARTIFACT_TYPE:
        found = obj.get("artifactType") if isinstance(obj, dict) else None
        raise MalformedError(f"manifest: artifact type {str(found)[:80]!r}, expected {ARTIFACT_TYPE!r}")
    if obj.get("schemaVersion") != 2 or obj.get("mediaType") != MANIFEST_TYPE:
        raise MalformedError(f"manifest: expected an OCI image manifest, {MANIFEST_TYPE}")
    layers = obj.get("layers")
    if not isinstance(layers, list) or not 3 <= len(layers) <= 3 + MAX_PACKS:
        raise MalformedError(f"manifest: expected header, recipients, index and at most {MAX_PACKS} packs as layers")
    fixed = [HEADER_TYPE, recipients.MEDIA_TYPE, INDEX_TYPE]
    types = fixed + [PACK_TYPE] * (len(layers) - len(fixed))
    header, wraps, index, *packs = (_parse_layer(layer, kind) for layer, kind in zip(layers, types, strict=True))
    annotations = obj.get("annotations", {})
    identity = annotations.get(IDENTITY_ANNOTATION, "") if isinstance(annotations, dict) else ""
    return Manifest(header, wraps, index, tuple(packs), identity if isinstance(identity, str) else "")


def check_manifest(manifest: Manifest, header: Header) -> None:
    """Raise IntegrityRefused unless the manifest names exactly the index and packs that the header signs."""
    _same("index", [manifest.index], [header.index.blob])
    _same("packs", manifest.packs, header.packs)


def _same(what: str, found: Sequence[BlobRef], expected: Sequence[BlobRef]) -> None:
    if list(found) != list(expected):
        raise IntegrityRefused(
            f"manifest: its {what} are not those that the header signs",
            hint="the parts of two packages were mixed; fetch the package again",
            expected=[blob.digest for blob in expected][:8],
            actual=[blob.digest for blob in found][:8],
        )


def _layer(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _parse_layer(layer: Any, media_type: str) -> BlobRef:
    if not isinstance(layer, dict) or layer.get("mediaType") != media_type:
        found = layer.get("mediaType") if isinstance(layer, dict) else None
        raise MalformedError(f"manifest: layer of type {str(found)[:80]!r}, expected {media_type!r}")
    digest, size = layer.get("digest"), layer.get("size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or type(size) is not int or size < 1:
        raise MalformedError(f"manifest: layer {media_type} without sha256 digest and size")
    return BlobRef(digest, size)
