"""A store in memory, since the package code needs no file system; and profile keys in software."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from sealvm.crypto.ec import SoftwareSigner, load_point, private_key
from sealvm.crypto.ec import ec as curves
from sealvm.errors import IntegrityRefused, MalformedError, NotFoundError, StateRefused
from sealvm.package.ports import Descriptor, ResolvedManifest
from sealvm.package.recipients import ProfileKeyRef


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class MemoryStore:
    """Blobs and tags in dictionaries; tests alter them as an attacker would."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}

    def new_blob(self) -> MemoryBlob:
        return MemoryBlob(self)

    def put_blob(self, data: bytes) -> Descriptor:
        self.blobs[digest_of(data)] = data
        return Descriptor(digest_of(data), len(data))

    def put_manifest(self, tag: str, manifest: dict[str, Any]) -> Descriptor:
        stored = self.put_blob(json.dumps(manifest).encode())
        self.tags[tag] = stored.digest
        return stored

    def read_at(self, digest: str, offset: int, length: int) -> bytes:
        data = self._blob(digest)[offset : offset + length]
        if len(data) != length:
            raise IntegrityRefused("truncated")
        return data

    def size(self, digest: str) -> int:
        return len(self._blob(digest))

    def get_blob(self, digest: str, limit: int) -> bytes:
        data = self._blob(digest)
        if len(data) > limit:
            raise MalformedError("too large")
        if digest_of(data) != digest:
            raise IntegrityRefused("digest")
        return data

    def resolve(self, name: str) -> ResolvedManifest:
        digest = self.tags.get(name, name)
        return ResolvedManifest(digest, self.get_blob(digest, 1 << 22))

    def manifests(self) -> Iterator[ResolvedManifest]:
        return (self.resolve(tag) for tag in self.tags)

    def _blob(self, digest: str) -> bytes:
        if digest not in self.blobs:
            raise NotFoundError(digest)
        return self.blobs[digest]


class MemoryBlob:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._data = bytearray()

    def __enter__(self) -> MemoryBlob:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.clear()

    def write(self, data: bytes) -> None:
        self._data += data

    def commit(self) -> Descriptor:
        return self._store.put_blob(bytes(self._data))


class SoftwareKeys:
    """Profile keys by (profile, epoch, cell); `refused` ones are held, but the state does not allow their use."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, int, str], SoftwareSigner] = {}
        self.refused: set[tuple[str, int, str]] = set()
        self.uses: list[tuple[str, int, str]] = []

    def add(self, profile: str, epoch: int = 1, cell: str = "") -> ProfileKeyRef:
        key = self.keys[profile, epoch, cell] = SoftwareSigner.generate()
        return ProfileKeyRef(profile, epoch, cell, key.point)

    def holds(self, profile: str, epoch: int, cell: str) -> bool:
        return (profile, epoch, cell) in self.keys

    def point(self, profile: str, epoch: int, cell: str) -> bytes:
        return self.keys[profile, epoch, cell].point

    def ecdh(self, profile: str, epoch: int, cell: str, point: bytes) -> bytes:
        name = (profile, epoch, cell)
        self.uses.append(name)
        if name in self.refused:
            raise StateRefused(f"state does not satisfy {profile}")
        return private_key(self.keys[name].scalar()).exchange(curves.ECDH(), load_point(point))
