"""The header: what the provisioner signs (docs/spec/package-v1.md, section 3).

Canonical JSON, the payload of a DSSE envelope. The SHA-256 of these bytes is the package's identity; there is exactly
one byte string for one header.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sealvm.crypto import canonical
from sealvm.errors import MalformedError, RollbackRefused
from sealvm.package.expression import Expression, expression_json, parse_expression
from sealvm.package.keys import COMMITMENT_BYTES, LINEAGE_BYTES
from sealvm.package.settings import Settings, parse_settings

PAYLOAD_TYPE = "application/vnd.sealvm.package-header.v1+json"
FORMAT_VERSION = 1
MAX_HEADER_BYTES = 1024 * 1024
MAX_ENVELOPE_BYTES = 2 * 1024 * 1024
MAX_PACKS = 4096
MAX_CHUNKS = 2**28
MIN_CHUNK_BYTES = 4096
MAX_CHUNK_BYTES = 1024 * 1024
SECTOR_BYTES = 512
_MAX_INTEGER = 2**53 - 1
_FIELDS = {
    "format", "lineage", "version", "created", "disk_bytes", "chunk_bytes", "index", "packs", "commitment",
    "expression", "settings",
}  # fmt: skip
_BLOB_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob by OCI digest (`sha256:<hex>`) and size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class IndexRef:
    """The index blob, and its root: the last `root_bytes` bytes of it, with a SHA-256 of their own (hex)."""

    blob: BlobRef
    root_bytes: int
    root_digest: str


@dataclass(frozen=True, slots=True)
class Header:
    """Everything that is public and signed about one version of one image.

    `lineage` is 16 bytes, `version` counts from 1, `created` is RFC 3339 UTC to the second, sizes are in bytes,
    `commitment` is 32 bytes. A value of this type was well formed; that it was signed is what VerifiedPackage says.
    """

    lineage: bytes
    version: int
    created: str
    disk_bytes: int
    chunk_bytes: int
    index: IndexRef
    packs: tuple[BlobRef, ...]
    commitment: bytes
    expression: Expression
    settings: Settings

    @property
    def chunk_count(self) -> int:
        """Number of chunks; the last one may be shorter than the others."""
        return -(-self.disk_bytes // self.chunk_bytes)

    def chunk_size(self, number: int) -> int:
        """Bytes of the disk that chunk `number` holds."""
        return min(self.chunk_bytes, self.disk_bytes - number * self.chunk_bytes)

    @property
    def digest(self) -> str:
        """The package's identity: lower-case hex SHA-256 of the header's bytes."""
        return hashlib.sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """The canonical bytes, which are signed as a DSSE payload."""
        root = {"root_bytes": self.index.root_bytes, "root_digest": self.index.root_digest}
        return canonical.dumps(
            {
                "format": FORMAT_VERSION,
                "lineage": self.lineage.hex(),
                "version": self.version,
                "created": self.created,
                "disk_bytes": self.disk_bytes,
                "chunk_bytes": self.chunk_bytes,
                "index": {"digest": self.index.blob.digest, "size": self.index.blob.size} | root,
                "packs": [{"digest": pack.digest, "size": pack.size} for pack in self.packs],
                "commitment": self.commitment.hex(),
                "expression": expression_json(self.expression),
                "settings": self.settings.to_json(),
            }
        )


def parse_header(payload: bytes) -> Header:
    """The header in these bytes, every field checked against the limits of the specification, section 3.

    Raises MalformedError, naming the field. The caller must have verified the signature over `payload`.
    """
    obj = canonical.loads(payload, "package header", MAX_HEADER_BYTES)
    if not isinstance(obj, dict) or obj.get("format") != FORMAT_VERSION:
        found = obj.get("format") if isinstance(obj, dict) else "no object"
        raise MalformedError(f"package header: format {str(found)[:20]!r}, expected {FORMAT_VERSION}")
    _check_keys(obj, _FIELDS, "package header")
    disk_bytes = _integer(obj["disk_bytes"], "disk_bytes", SECTOR_BYTES)
    chunk_bytes = _integer(obj["chunk_bytes"], "chunk_bytes", MIN_CHUNK_BYTES, MAX_CHUNK_BYTES)
    check_geometry(disk_bytes, chunk_bytes)
    if not isinstance(obj["packs"], list) or len(obj["packs"]) > MAX_PACKS:
        raise MalformedError(f"package header: packs must be a list of at most {MAX_PACKS}")
    header = Header(
        lineage=_bytes(obj["lineage"], "lineage", LINEAGE_BYTES),
        version=_integer(obj["version"], "version", 1),
        created=_time(obj["created"]),
        disk_bytes=disk_bytes,
        chunk_bytes=chunk_bytes,
        index=_index(obj["index"]),
        packs=tuple(_blob(pack, f"packs[{number}]") for number, pack in enumerate(obj["packs"])),
        commitment=_bytes(obj["commitment"], "commitment", COMMITMENT_BYTES),
        expression=parse_expression(obj["expression"]),
        settings=parse_settings(obj["settings"]),
    )
    if header.encode() != payload:
        raise MalformedError("package header: not in canonical form")
    return header


def check_geometry(disk_bytes: int, chunk_bytes: int) -> None:
    """Raise MalformedError unless a disk of this size can be cut into chunks of this size."""
    if disk_bytes % SECTOR_BYTES:
        raise MalformedError(f"disk size {disk_bytes} is no multiple of {SECTOR_BYTES} bytes")
    if chunk_bytes & (chunk_bytes - 1) or not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES:
        raise MalformedError(
            f"chunk size {chunk_bytes} is no power of two from {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES} bytes"
        )
    if disk_bytes > chunk_bytes * MAX_CHUNKS:
        raise MalformedError(f"disk size {disk_bytes}: more than {MAX_CHUNKS} chunks of {chunk_bytes} bytes")


def check_version(header: Header, highest_seen: int | None) -> None:
    """Raise RollbackRefused when the header is older than `highest_seen`, the newest version known of its lineage.

    `highest_seen` is None for a lineage that was never seen. The caller looks it up by `header.lineage`, and remembers
    `header.version` after a launch (docs/spec/package-v1.md, section 10).
    """
    if highest_seen is not None and header.version < highest_seen:
        raise RollbackRefused(
            f"package is version {header.version} of lineage {header.lineage.hex()}, version {highest_seen} was seen",
            hint="launch the newer version, or have the provisioner build this content as a new version",
            version=header.version,
            highest_seen=highest_seen,
            lineage=header.lineage.hex(),
        )


def header_in_envelope(envelope: bytes, digest: str) -> Header:
    """The header with this digest out of an envelope whose **signature is not looked at**.

    For processes that were told the digest by somebody who verified the signature: the digest is the identity. Raises
    MalformedError when the envelope holds another header, or none.
    """
    obj = canonical.loads(envelope, "header envelope", MAX_ENVELOPE_BYTES)
    payload = obj.get("payload") if isinstance(obj, dict) else None
    try:
        data = base64.b64decode(payload if isinstance(payload, str) else "", validate=True)
    except (binascii.Error, ValueError) as problem:
        raise MalformedError("header envelope: payload is not base64") from problem
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise MalformedError(f"header envelope: holds package {found}, expected {digest}")
    return parse_header(data)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second, as `created` is written."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_keys(obj: dict[str, Any], expected: set[str], what: str) -> None:
    if set(obj) != expected:
        odd = ", ".join(sorted(str(key)[:40] for key in set(obj) ^ expected))
        raise MalformedError(f"{what}: fields missing or not known: {odd}")


def _integer(value: Any, what: str, lowest: int, highest: int = _MAX_INTEGER) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        raise MalformedError(f"package header: {what} must be an integer from {lowest} to {highest}")
    return value


def _bytes(value: Any, what: str, length: int) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * length or not _HEX.fullmatch(value):
        raise MalformedError(f"package header: {what} must be {2 * length} lower-case hex digits")
    return bytes.fromhex(value)


def _time(value: Any) -> str:
    try:
        if isinstance(value, str) and timestamp(datetime.strptime(value, "%Y-%m-%dT%H:%M:%S%z")) == value:
            return value
    except (ValueError, OverflowError):
        pass
    raise MalformedError(f"package header: created is {str(value)[:40]!r}, expected a time like 2026-11-23T12:00:00Z")


def _blob(value: Any, what: str) -> BlobRef:
    if not isinstance(value, dict):
        raise MalformedError(f"package header: {what} must be an object")
    _check_keys(value, {"digest", "size"}, f"package header: {what}")
    if not isinstance(value["digest"], str) or not _BLOB_DIGEST.fullmatch(value["digest"]):
        raise MalformedError(f"package header: {what}.digest must be sha256:<64 hex digits>")
    return BlobRef(value["digest"], _integer(value["size"], f"{what}.size", 1))


def _index(value: Any) -> IndexRef:
    if not isinstance(value, dict):
        raise MalformedError("package header: index must be an object")
    _check_keys(value, {"digest", "size", "root_bytes", "root_digest"}, "package header: index")
    blob = _blob({"digest": value["digest"], "size": value["size"]}, "index")
    root_bytes = _integer(value["root_bytes"], "index.root_bytes", 1, blob.size)
    return IndexRef(blob, root_bytes, _bytes(value["root_digest"], "index.root_digest", 32).hex())
