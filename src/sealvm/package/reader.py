"""Any byte of the disk, exactly as the provisioner signed it, out of encrypted packs (spec, section 8).

Reads only what it needs. Memory: the plaintext cache, plus one chunk for each thread that reads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from sealvm.errors import InputError
from sealvm.package.chunks import State
from sealvm.package.header import Header
from sealvm.package.index import IndexReader
from sealvm.package.ports import BlobReader
from sealvm.secret import Secret

DEFAULT_CACHE_BYTES = 64 * 1024 * 1024


class PackageReader:
    """The disk of one package. Every byte returned has been verified; safe to use from several threads.

    A chunk that does not verify raises IntegrityRefused on every read that touches it, and on no other.
    """

    def __init__(self, header: Header, key: Secret, blobs: BlobReader, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Open the index. `header` must be verified, and `key` must have passed its commitment.

        Raises IntegrityRefused when the index is not the one in the header, and what `blobs` raises.
        """
        self._header = header
        self._blobs = blobs
        self._index = IndexReader(header, key, blobs)
        self._ciphers = [pack.cipher(header.lineage) for pack in self._index.packs]
        self._cache = _ChunkCache(max(1, cache_bytes // header.chunk_bytes))
        self.disk_bytes = header.disk_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`. Raises InputError outside the disk, IntegrityRefused, StorageFault."""
        buffer = bytearray(length)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` from the disk at `offset`; after an error its content means nothing. Raises as `read_at`."""
        target = memoryview(buffer)
        if offset < 0 or offset + len(target) > self.disk_bytes:
            raise InputError(f"{len(target)} bytes at {offset} lie outside the disk of {self.disk_bytes} bytes")
        chunk_bytes = self._header.chunk_bytes
        done = 0
        while done < len(target):
            number, skip = divmod(offset + done, chunk_bytes)
            count = min(self._header.chunk_size(number) - skip, len(target) - done)
            chunk = self._chunk(number)
            part = target[done : done + count]
            if chunk is None:
                part[:] = bytes(count)
            else:
                part[:] = chunk if count == len(chunk) else memoryview(chunk)[skip : skip + count]
            done += count

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Runs of (offset, bytes, is zero) that cover the range, in order. Reads index pages only."""
        end = min(offset + length, self.disk_bytes)
        number = offset // self._header.chunk_bytes
        start, kind = offset, None
        while number * self._header.chunk_bytes < end:
            run = self._index.zero_pages_from(number)
            zero = bool(run) or self._index.record(number).state is State.ZERO
            at = max(offset, number * self._header.chunk_bytes)
            if kind is not None and zero != kind:
                yield start, at - start, kind
                start = at
            kind = zero
            number += run or 1
        if kind is not None:
            yield start, end - start, kind

    def _chunk(self, number: int) -> bytes | None:
        """The plaintext of a chunk, None when it is zero. Threads that want the same chunk decrypt it once."""
        with self._cache.claim(number) as claim:
            if claim.chunk is not None:
                return claim.chunk
            record = self._index.record(number)
            if record.state is State.ZERO:
                return None
            pack = self._header.packs[record.pack].digest
            ciphertext = self._blobs.read_at(pack, record.offset, record.stored_bytes)
            size = self._header.chunk_size(number)
            claim.chunk = self._ciphers[record.pack].decrypt(record, ciphertext, size, f"chunk {number}")
            return claim.chunk


class _Claim:
    """The right to produce one chunk, held while `with` lasts; others wait for it, then look in the cache."""

    __slots__ = ("_cache", "_number", "_owned", "chunk")

    def __init__(self, cache: _ChunkCache, number: int) -> None:
        self._cache = cache
        self._number = number
        self._owned = False
        self.chunk: bytes | None = None

    def __enter__(self) -> _Claim:
        self.chunk = self._cache.wait_or_own(self._number)
        self._owned = self.chunk is None
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._cache.release(self._number, self.chunk)


class _ChunkCache:
    """The plaintext of the `capacity` chunks used last."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._owned: set[int] = set()
        self._changed = threading.Condition()

    def claim(self, number: int) -> _Claim:
        return _Claim(self, number)

    def wait_or_own(self, number: int) -> bytes | None:
        with self._changed:
            while True:
                chunk = self._chunks.get(number)
                if chunk is not None:
                    self._chunks.move_to_end(number)
                    return chunk
                if number not in self._owned:
                    self._owned.add(number)
                    return None
                self._changed.wait()

    def release(self, number: int, chunk: bytes | None) -> None:
        with self._changed:
            self._owned.discard(number)
            if chunk is not None:
                self._chunks[number] = chunk
                if len(self._chunks) > self._capacity:
                    self._chunks.popitem(last=False)
            self._changed.notify_all()
