"""A disk's chunks into packs and an index (docs/spec/package-v1.md, sections 5 and 6).

Encryption may run in several threads; slots are handed out, and finished chunks taken back, in the order of the disk.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Self

from sealvm.errors import InputError
from sealvm.package.chunks import ChunkCipher, Compression, EncryptedChunk, Record
from sealvm.package.header import MAX_PACKS, BlobRef, IndexRef, check_geometry
from sealvm.package.index import PACK_ID_BYTES, IndexWriter, PackKey
from sealvm.package.keys import KEY_BYTES
from sealvm.package.ports import BlobSink, BlobWriter
from sealvm.secret import Secret

PACK_PLAINTEXT_BYTES = 16 * 1024 * 1024 * 1024
"""A pack takes chunks of at most this much plaintext before the next one begins."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is built: a version of a lineage (16 bytes), and how its disk is cut into chunks; sizes in bytes."""

    lineage: bytes
    version: int
    disk_bytes: int
    chunk_bytes: int

    def __post_init__(self) -> None:
        check_geometry(self.disk_bytes, self.chunk_bytes)

    @property
    def chunk_count(self) -> int:
        return -(-self.disk_bytes // self.chunk_bytes)


@dataclass(frozen=True, slots=True)
class Slots:
    """Positions in one pack for the chunks `first` to `first + count - 1` of the disk, each for one chunk only."""

    pack: int
    ordinal: int
    first: int
    count: int
    cipher: ChunkCipher


@dataclass(frozen=True, slots=True)
class Contents:
    """What was written: the header's `index` and `packs`, and how many bytes of the disk are in chunks not zero."""

    index: IndexRef
    packs: tuple[BlobRef, ...]
    used_bytes: int


class PackageWriter:
    """Packs and index of one build. A new writer draws new pack keys, so no nonce is ever used twice.

    Use as a context; leaving it before `finish()` leaves no blob behind. Methods raise StorageFault and are for one
    thread; only `encrypt` may run in several. Holds the root of the index, one page, and what the caller passes in.
    """

    def __init__(self, sink: BlobSink, key: Secret, plan: Plan, compression: Compression) -> None:
        self._sink = sink
        self._plan = plan
        self._compression = compression
        self._chunks_per_pack = max(1, PACK_PLAINTEXT_BYTES // plan.chunk_bytes)
        self._open = contextlib.ExitStack()
        index_blob = self._open.enter_context(sink.new_blob())
        self._index = IndexWriter(index_blob, key, plan.lineage, plan.version, plan.chunk_count)
        self._keys: list[PackKey] = []
        self._cipher: ChunkCipher | None = None
        self._ordinal = self._chunks_per_pack
        self._pack_blob: BlobWriter | None = None
        self._pack_number = -1
        self._offset = 0
        self._packs: list[BlobRef] = []
        self._pack_keys: list[PackKey] = []
        self._used_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def slots(self, first: int, count: int) -> Slots:
        """Reserve positions for `count` chunks of the disk from `first` on. Positions may stay unused."""
        if self._cipher is None or self._ordinal + count > self._chunks_per_pack:
            if len(self._keys) == MAX_PACKS:
                raise InputError(f"the image needs more than {MAX_PACKS} packs")
            pack = PackKey(os.urandom(PACK_ID_BYTES), Secret(os.urandom(KEY_BYTES)))
            self._keys.append(pack)
            self._cipher = pack.cipher(self._plan.lineage)
            self._ordinal = 0
        slots = Slots(len(self._keys) - 1, self._ordinal, first, count, self._cipher)
        self._ordinal += count
        return slots

    def encrypt(self, slots: Slots, position: int, plaintext: bytes) -> EncryptedChunk:
        """The chunk for `slots.first + position`, which must not be all zero. Safe to call from several threads."""
        return slots.cipher.encrypt(slots.ordinal + position, plaintext, self._compression)

    def append(self, slots: Slots, position: int, chunk: EncryptedChunk) -> None:
        """Write the chunk at `slots.first + position`. Chunks that are never appended are zero; numbers ascend."""
        if slots.pack != self._pack_number:
            self._begin_pack(slots.pack)
        assert self._pack_blob is not None  # noqa: S101 -- set by _begin_pack
        length = len(chunk.ciphertext)
        self._pack_blob.write(chunk.ciphertext)
        number = slots.first + position
        record = Record(len(self._packs), chunk.state, chunk.ordinal, length, self._offset, chunk.digest)
        self._index.append(number, record)
        self._offset += length
        self._used_bytes += min(self._plan.chunk_bytes, self._plan.disk_bytes - number * self._plan.chunk_bytes)

    def finish(self) -> Contents:
        """Commit the last pack and the index."""
        self._end_pack()
        index = self._index.finish(self._pack_keys)
        return Contents(index, tuple(self._packs), self._used_bytes)

    def _begin_pack(self, number: int) -> None:
        self._end_pack()
        self._pack_blob = self._open.enter_context(self._sink.new_blob())
        self._pack_number = number
        self._pack_keys.append(self._keys[number])
        self._offset = 0

    def _end_pack(self) -> None:
        if self._pack_blob is not None:
            blob = self._pack_blob.commit()
            self._packs.append(BlobRef(blob.digest, blob.size))
            self._pack_blob = None
