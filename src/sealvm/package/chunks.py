"""One chunk: compressed or not, encrypted, hashed, and back (docs/spec/package-v1.md, section 5).

    plaintext --zstd, where it helps--> stored form --AES-256-GCM--> ciphertext || tag --SHA-256--> digest in the index

    nonce = ordinal, 96 bit big-endian       AAD = label_bytes(label, context..., u32(ordinal))

The tag says that somebody with the key made the chunk for this position of this pack; the digest, which hangs from the
provisioner's signature, says that the provisioner did. The pages of the index are chunks too.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from dataclasses import dataclass
from enum import IntEnum

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealvm.crypto.labels import label_bytes, u32
from sealvm.errors import IntegrityRefused
from sealvm.secret import Secret

TAG_BYTES = 16
RECORD_BYTES = 52
_RECORD = struct.Struct(">HBBIIQ32s")
_NO_DIGEST = bytes(32)
_local = threading.local()


class State(IntEnum):
    """How a chunk is stored."""

    ZERO = 0
    RAW = 1
    ZSTD = 2


@dataclass(frozen=True, slots=True)
class Record:
    """Where one chunk lies: 52 bytes in the index, big-endian; a zero chunk is all zero bytes.

    u16 pack, u8 state, u8 zero, u32 ordinal, u32 stored bytes (tag included), u64 offset in the pack, SHA-256.
    """

    pack: int
    state: State
    ordinal: int
    stored_bytes: int
    offset: int
    digest: bytes

    def encode(self) -> bytes:
        return _RECORD.pack(self.pack, self.state, 0, self.ordinal, self.stored_bytes, self.offset, self.digest)


ZERO_RECORD = Record(0, State.ZERO, 0, 0, 0, _NO_DIGEST)


def decode_record(data: bytes, chunk_bytes: int, what: str) -> Record:
    """One record out of its 52 bytes; `chunk_bytes` is the length of the plaintext it stands for.

    Raises IntegrityRefused for an unknown state, a zero chunk with an address, or a stored length that its state does
    not allow. Whether pack and offset exist is for the caller to check.
    """
    pack, state, reserved, ordinal, stored_bytes, offset, digest = _RECORD.unpack(data)
    if state == State.ZERO:
        if data != bytes(RECORD_BYTES):
            raise IntegrityRefused(f"{what}: record of a zero chunk with an address")
        return ZERO_RECORD
    longest = chunk_bytes + TAG_BYTES
    if reserved or state not in (State.RAW, State.ZSTD):
        raise IntegrityRefused(f"{what}: record with unknown state {state}.{reserved}")
    if stored_bytes != longest if state == State.RAW else not TAG_BYTES < stored_bytes < longest:
        raise IntegrityRefused(f"{what}: {stored_bytes} bytes stored for {chunk_bytes} of plaintext")
    return Record(pack, State(state), ordinal, stored_bytes, offset, digest)


@dataclass(frozen=True, slots=True)
class EncryptedChunk:
    """A chunk that is ready to be appended to a pack."""

    state: State
    ordinal: int
    ciphertext: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Compression:
    """How chunks are compressed: zstd at a level from 1 to 19, or not at all (level 0)."""

    level: int = 3

    def compress(self, plaintext: bytes) -> bytes | None:
        """The zstd form (its frame states the content size), or None where it would not save a sixteenth."""
        if not self.level:
            return None
        packed: bytes = _compressor(self.level).compress(plaintext)
        return packed if len(packed) < len(plaintext) - len(plaintext) // 16 else None


class ChunkCipher:
    """Encrypts and decrypts the chunks of one pack, or the pages of one index. Safe to use from several threads.

    Each ordinal must be used for one message only; who assigns ordinals sees to that.
    """

    __slots__ = ("_aad_prefix", "_aead")

    def __init__(self, key: Secret, label: str, *parts: bytes) -> None:
        self._aead = AESGCM(key.reveal())
        self._aad_prefix = label_bytes(label, *parts)

    def encrypt(self, ordinal: int, plaintext: bytes, compression: Compression) -> EncryptedChunk:
        """The chunk as it is stored. `plaintext` must not be all zero: that is what ZERO_RECORD is for."""
        packed = compression.compress(plaintext)
        state, stored = (State.RAW, plaintext) if packed is None else (State.ZSTD, packed)
        ciphertext = self._aead.encrypt(_nonce(ordinal), stored, self._aad(ordinal))
        return EncryptedChunk(state, ordinal, ciphertext, hashlib.sha256(ciphertext).digest())

    def decrypt(self, record: Record, ciphertext: bytes, chunk_bytes: int, what: str) -> bytes:
        """The `chunk_bytes` bytes of plaintext, only if they are exactly what was signed. IntegrityRefused otherwise.

        1. The ciphertext has the SHA-256 that the record states.
        2. Its tag is good for the record's ordinal under this pack's key and context.
        3. It unpacks to exactly `chunk_bytes` bytes.
        """
        if len(ciphertext) != record.stored_bytes or hashlib.sha256(ciphertext).digest() != record.digest:  # 1
            raise IntegrityRefused(f"{what}: ciphertext is not what the provisioner signed")
        try:
            stored = self._aead.decrypt(_nonce(record.ordinal), ciphertext, self._aad(record.ordinal))  # 2
        except InvalidTag:
            raise IntegrityRefused(f"{what}: authentication failed") from None
        plaintext = _decompress(stored, chunk_bytes, what) if record.state is State.ZSTD else stored
        if len(plaintext) != chunk_bytes:  # 3
            raise IntegrityRefused(f"{what}: {len(plaintext)} bytes of plaintext, expected {chunk_bytes}")
        return plaintext

    def _aad(self, ordinal: int) -> bytes:
        return self._aad_prefix + b"\0\4" + u32(ordinal)  # as label_bytes would append the part


def _nonce(ordinal: int) -> bytes:
    return ordinal.to_bytes(12, "big")


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """One compressor a thread: they are not safe to share."""
    cached: tuple[int, zstandard.ZstdCompressor] | None = getattr(_local, "compressor", None)
    if cached is None or cached[0] != level:
        cached = _local.compressor = (level, zstandard.ZstdCompressor(level=level))
    return cached[1]


def _decompress(packed: bytes, chunk_bytes: int, what: str) -> bytes:
    """Unpack one frame that says it holds `chunk_bytes`; memory is taken only after it said so."""
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    try:
        if zstandard.get_frame_parameters(packed).content_size != chunk_bytes:
            raise IntegrityRefused(f"{what}: compressed chunk does not say it holds {chunk_bytes} bytes")
        plaintext: bytes = decompressor.decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError as problem:
        raise IntegrityRefused(f"{what}: compressed chunk does not unpack") from problem
    return plaintext
