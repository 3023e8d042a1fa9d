"""A package's parts on disk, and how they are damaged or forged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK_BYTES = 128 * 1024
TAG_BYTES = 16
"""What encryption adds to an uncompressed chunk."""


@dataclass(frozen=True)
class Layout:
    """An OCI layout that holds one package."""

    path: Path

    @property
    def index_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "index.json").read_text())
        return found

    def blob(self, digest: str) -> Path:
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")

    @property
    def manifest_file(self) -> Path:
        return self.blob(self.index_json["manifests"][-1]["digest"])

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.manifest_file.read_text())
        return found

    def part(self, kind: str) -> Path:
        """The file of the header envelope, the recipients, the index or the (only) pack."""
        number = ("header", "recipients", "index", "pack").index(kind)
        return self.blob(self.manifest["layers"][number]["digest"])

    def forge(self, kind: str, change: Callable[[bytes], bytes]) -> None:
        """Replace a part by other bytes, and have manifest and index.json name those: all that needs no key."""
        number = ("header", "recipients", "index", "pack").index(kind)
        manifest = self.manifest
        manifest["layers"][number] |= self._stored(change(self.part(kind).read_bytes()))
        index = self.index_json
        index["manifests"][-1] |= self._stored(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
        (self.path / "index.json").write_text(json.dumps(index))

    def _stored(self, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        self.blob(digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}


def flip(path: Path, offset: int) -> None:
    """Change one bit of the byte at `offset`; from the end when that is negative."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def another_digit(path: Path, before: bytes, skip: int) -> None:
    """Change one hexadecimal digit, `skip` bytes into `before` and what follows it, to another one."""
    data = bytearray(path.read_bytes())
    at = data.index(before) + skip
    data[at] = ord("1") if data[at] == ord("0") else ord("0")
    path.write_bytes(data)


def flipped(data: bytes, offset: int) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[offset] ^= 1
    return bytes(changed)


def stored_at(image: Path, content: bytes) -> int:
    """Offset in the pack, built without compression, of the chunk in which `content` stands in the image."""
    disk = image.read_bytes()
    number = disk.index(content) // CHUNK_BYTES
    chunks = (disk[at : at + CHUNK_BYTES] for at in range(0, number * CHUNK_BYTES, CHUNK_BYTES))
    return sum(1 for chunk in chunks if any(chunk)) * (CHUNK_BYTES + TAG_BYTES)
