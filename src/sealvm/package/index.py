"""The index: where every chunk of the disk lies, in encrypted pages under an encrypted root (spec, section 6).

    blob  =  page, page, ...  root
    page  =  records of 1024 successive chunks, 52 bytes each; stored as a chunk is, or not at all when all are zero
    root  =  for each pack: pack id (16) || pack key (32);  for each page: a record (52)

The header states size and SHA-256 of the root, the root those of the pages, the pages those of the chunks: whatever is
read hangs from the provisioner's signature, and a reader needs only the pages it touches.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from sealvm.errors import IntegrityRefused
from sealvm.package.chunks import RECORD_BYTES, TAG_BYTES, ZERO_RECORD, ChunkCipher, Compression, Record, State
from sealvm.package.chunks import decode_record as decode
from sealvm.package.header import BlobRef, Header, IndexRef
from sealvm.package.keys import KEY_BYTES, context, index_page_key, index_root_key
from sealvm.package.ports import BlobReader, BlobWriter
from sealvm.secret import Secret

RECORDS_PER_PAGE = 1024
PAGE_BYTES = RECORDS_PER_PAGE * RECORD_BYTES
PACK_ID_BYTES = 16
PACK_ENTRY_BYTES = PACK_ID_BYTES + KEY_BYTES
CACHED_PAGES = 64
_STORED_AS_IT_IS = Compression(0)


@dataclass(frozen=True, slots=True)
class PackKey:
    """A pack's 16-byte random id and its 32-byte random key."""

    id: bytes
    key: Secret

    def cipher(self, lineage: bytes) -> ChunkCipher:
        """The cipher of the pack's chunks: AAD label `chunk`, lineage, pack id, ordinal."""
        return ChunkCipher(self.key, "chunk", lineage, self.id)


def root_size(pack_count: int, page_count: int) -> int:
    """Bytes of the encrypted root."""
    return pack_count * PACK_ENTRY_BYTES + page_count * RECORD_BYTES + TAG_BYTES


def page_count(chunk_count: int) -> int:
    """Pages that the records of so many chunks fill; the last page may be shorter."""
    return -(-chunk_count // RECORDS_PER_PAGE)


class IndexWriter:
    """Writes an index in the order of the disk; holds one page and the root in memory."""

    def __init__(self, blob: BlobWriter, key: Secret, lineage: bytes, version: int, chunk_count: int) -> None:
        parts = context(lineage, version)
        self._blob = blob
        self._pages = ChunkCipher(index_page_key(key, lineage, version), "index-page", *parts)
        self._root = ChunkCipher(index_root_key(key, lineage, version), "index-root", *parts)
        self._chunk_count = chunk_count
        self._next = 0
        self._offset = 0
        self._page = bytearray()
        self._page_records: list[Record] = []

    def append(self, number: int, record: Record) -> None:
        """Record where chunk `number` lies; chunks that are skipped are zero. Numbers must ascend."""
        self._zero_until(number)
        self._page += record.encode()
        self._next += 1
        self._end_full_page()

    def finish(self, packs: list[PackKey]) -> IndexRef:
        """Write the root, commit the blob, and return what the header says about it."""
        self._zero_until(self._chunk_count)
        if self._page:
            self._end_page()
        entries = b"".join(pack.id + pack.key.reveal() for pack in packs)
        root = entries + b"".join(record.encode() for record in self._page_records)
        stored = self._root.encrypt(0, root, _STORED_AS_IT_IS)
        self._blob.write(stored.ciphertext)
        blob = self._blob.commit()
        return IndexRef(BlobRef(blob.digest, blob.size), len(stored.ciphertext), stored.digest.hex())

    def _zero_until(self, number: int) -> None:
        if not self._next <= number <= self._chunk_count:
            raise ValueError(f"chunk {number} after {self._next} of {self._chunk_count}")
        while self._next < number:
            count = min(number - self._next, RECORDS_PER_PAGE - len(self._page) // RECORD_BYTES)
            self._page += bytes(count * RECORD_BYTES)
            self._next += count
            self._end_full_page()

    def _end_full_page(self) -> None:
        if len(self._page) == PAGE_BYTES:
            self._end_page()

    def _end_page(self) -> None:
        page, self._page = bytes(self._page), bytearray()
        if not any(page):
            self._page_records.append(ZERO_RECORD)
            return
        number = len(self._page_records)
        stored = self._pages.encrypt(number, page, Compression())
        self._blob.write(stored.ciphertext)
        length = len(stored.ciphertext)
        self._page_records.append(Record(0, stored.state, number, length, self._offset, stored.digest))
        self._offset += length


class IndexReader:
    """The records of a package's chunks, read page by page and verified. Safe to use from several threads.

    Holds the root and at most 64 pages (3.4 MB) in memory.
    """

    def __init__(self, header: Header, key: Secret, blobs: BlobReader) -> None:
        """Read and verify the root. `key` must have passed the commitment.

        Raises IntegrityRefused when root and header do not belong together, and what `blobs` raises.
        """
        parts = context(header.lineage, header.version)
        self._header = header
        self._blobs = blobs
        self._page_cipher = ChunkCipher(index_page_key(key, *_names(header)), "index-page", *parts)
        self._page_count = page_count(header.chunk_count)
        index, what = header.index, "index root"
        if index.root_bytes != root_size(len(header.packs), self._page_count):
            raise IntegrityRefused(
                f"{what}: {index.root_bytes} bytes do not fit {len(header.packs)} packs and the disk"
            )
        self._pages_end = index.blob.size - index.root_bytes
        ciphertext = blobs.read_at(index.blob.digest, self._pages_end, index.root_bytes)
        cipher = ChunkCipher(index_root_key(key, *_names(header)), "index-root", *parts)
        record = Record(0, State.RAW, 0, index.root_bytes, self._pages_end, bytes.fromhex(index.root_digest))
        root = cipher.decrypt(record, ciphertext, index.root_bytes - TAG_BYTES, what)
        table = len(header.packs) * PACK_ENTRY_BYTES
        self.packs = tuple(
            PackKey(root[at : at + PACK_ID_BYTES], Secret(root[at + PACK_ID_BYTES : at + PACK_ENTRY_BYTES]))
            for at in range(0, table, PACK_ENTRY_BYTES)
        )
        self._page_table = root[table:]
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, number: int) -> Record:
        """Where chunk `number` lies. Raises IntegrityRefused when its page or record is not good."""
        page = self._page(number // RECORDS_PER_PAGE)
        if page is None:
            return ZERO_RECORD
        what = f"chunk {number}"
        at = number % RECORDS_PER_PAGE * RECORD_BYTES
        record = decode(page[at : at + RECORD_BYTES], self._header.chunk_size(number), what)
        if record.state is not State.ZERO:
            packs = self._header.packs
            if record.pack >= len(packs) or record.offset + record.stored_bytes > packs[record.pack].size:
                raise IntegrityRefused(f"{what}: its record points outside the packs")
        return record

    def zero_pages_from(self, number: int) -> int:
        """How many chunks from `number` on are zero because their whole page is; 0 when its page holds records."""
        end = number
        while end < self._header.chunk_count and self._page(end // RECORDS_PER_PAGE) is None:
            end = min((end // RECORDS_PER_PAGE + 1) * RECORDS_PER_PAGE, self._header.chunk_count)
        return end - number

    def _page(self, number: int) -> bytes | None:
        with self._lock:
            if number in self._pages:
                self._pages.move_to_end(number)
                return self._pages[number]
        what = f"index page {number}"
        length = min(RECORDS_PER_PAGE, self._header.chunk_count - number * RECORDS_PER_PAGE) * RECORD_BYTES
        entry = self._page_table[number * RECORD_BYTES : (number + 1) * RECORD_BYTES]
        record = decode(entry, length, what)
        if record.state is State.ZERO:
            return None
        if record.offset + record.stored_bytes > self._pages_end:
            raise IntegrityRefused(f"{what}: its record points outside the index")
        ciphertext = self._blobs.read_at(self._header.index.blob.digest, record.offset, record.stored_bytes)
        page = self._page_cipher.decrypt(record, ciphertext, length, what)
        with self._lock:
            self._pages[number] = page
            if len(self._pages) > CACHED_PAGES:
                self._pages.popitem(last=False)
        return page


def _names(header: Header) -> tuple[bytes, int]:
    return header.lineage, header.version
