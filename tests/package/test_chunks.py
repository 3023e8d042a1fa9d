"""Records and the bounds on what a stored chunk may unpack to."""

from __future__ import annotations

import contextlib
import hashlib
import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto.labels import label_bytes, u32
from sealvm.errors import IntegrityRefused
from sealvm.package.chunks import RECORD_BYTES, ChunkCipher, Compression, Record, State, decode_record
from sealvm.secret import Secret

SIZE = 4096


def cipher() -> ChunkCipher:
    return ChunkCipher(Secret(bytes(32)), "chunk", b"lineage", b"pack")


def test_aad_is_the_labelled_encoding() -> None:
    assert cipher()._aad(7) == label_bytes("chunk", b"lineage", b"pack", u32(7))


def sealed_as_zstd(stored: bytes) -> tuple[Record, bytes]:
    chunk = cipher().encrypt(0, stored, Compression(0))
    return Record(0, State.ZSTD, 0, len(chunk.ciphertext), 0, chunk.digest), chunk.ciphertext


@pytest.mark.parametrize(
    "stored",
    [
        zstandard.ZstdCompressor().compress(bytes(SIZE * 1024)),
        zstandard.ZstdCompressor().compress(bytes(SIZE - 1)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(SIZE)),
        zstandard.ZstdCompressor().compress(b"a" * SIZE) + b"more",
        zstandard.ZstdCompressor().compress(b"a" * SIZE)[:-1],
        os.urandom(64),
        b"",
    ],
    ids=["bomb", "short", "no size", "trailing", "truncated", "noise", "empty"],
)
def test_what_does_not_unpack_to_one_chunk_is_refused(stored: bytes) -> None:
    record, ciphertext = sealed_as_zstd(stored)
    with pytest.raises(IntegrityRefused):
        cipher().decrypt(record, ciphertext, SIZE, "chunk 0")


@given(st.binary(min_size=1, max_size=64), st.integers(0, 2**32 - 1))
def test_round_trip(start: bytes, ordinal: int) -> None:
    plaintext = start + os.urandom(SIZE - len(start))
    chunk = cipher().encrypt(ordinal, plaintext, Compression())
    record = Record(3, chunk.state, ordinal, len(chunk.ciphertext), 99, chunk.digest)
    assert decode_record(record.encode(), SIZE, "x") == record
    assert cipher().decrypt(record, chunk.ciphertext, SIZE, "x") == plaintext


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES))
def test_any_52_bytes_are_a_record_or_refused(data: bytes) -> None:
    with contextlib.suppress(IntegrityRefused):
        assert decode_record(data, SIZE, "x").encode() == data


@pytest.mark.parametrize(
    ("state", "stored"),
    [(State.RAW, SIZE), (State.RAW, SIZE + 17), (State.ZSTD, SIZE + 16), (State.ZSTD, 16), (State.ZERO, 5)],
)
def test_stored_length_must_fit_the_state(state: State, stored: int) -> None:
    with pytest.raises(IntegrityRefused):
        decode_record(Record(0, state, 0, stored, 0, bytes(32)).encode(), SIZE, "x")


def test_digest_is_that_of_the_ciphertext() -> None:
    chunk = cipher().encrypt(0, os.urandom(SIZE), Compression())
    assert chunk.digest == hashlib.sha256(chunk.ciphertext).digest()
