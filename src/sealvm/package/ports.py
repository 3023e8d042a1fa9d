"""What the package code needs from a store.

Pure declarations; imports nothing of sealvm. Digests of blobs are OCI digests, `sha256:<64 lower-case hex digits>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob's name and its size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ResolvedManifest:
    """A manifest's bytes; the store has checked that they have this digest."""

    digest: str
    data: bytes


class BlobReader(Protocol):
    """Random access to blobs. Safe to call from several threads."""

    def read_at(self, digest: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes, unchecked. Raises NotFoundError, IntegrityRefused (too short), StorageFault."""
        ...

    def size(self, digest: str) -> int:
        """The size of the stored blob in bytes. Raises NotFoundError."""
        ...

    def get_blob(self, digest: str, limit: int) -> bytes:
        """The whole blob, its digest checked. Raises also MalformedError above `limit` bytes."""
        ...


class PackageStore(BlobReader, Protocol):
    """A place that also knows manifests."""

    def resolve(self, name: str) -> ResolvedManifest:
        """The manifest with this tag or `sha256:` digest. Raises NotFoundError, MalformedError, IntegrityRefused."""
        ...

    def manifests(self) -> Iterator[ResolvedManifest]:
        """Every manifest of the store, newest first."""
        ...


class BlobWriter(Protocol):
    """One blob being written. Leaving its context without `commit()` leaves nothing behind."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def write(self, data: bytes) -> None:
        """Append bytes. Raises StorageFault."""
        ...

    def commit(self) -> Descriptor:
        """Make the blob appear under its digest. Raises StorageFault."""
        ...


class BlobSink(Protocol):
    """Where new blobs go."""

    def new_blob(self) -> BlobWriter:
        """Begin a blob. Raises StorageFault."""
        ...
