"""Every byte read is the one that was packed; every alteration of a stored byte is refused, and only where it lies."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealvm.errors import InputError, IntegrityRefused
from sealvm.package import writer as writer_module
from sealvm.package.chunks import Compression, Record, State
from sealvm.package.reader import PackageReader
from sealvm.secret import Secret

from .builder import CHUNK, Built, build

SECTOR = 512


def reader(built: Built, **options: int) -> PackageReader:
    return PackageReader(built.header, built.key, built.store, **options)


@st.composite
def disks(draw: st.DrawFn) -> bytes:
    """A disk of up to 12 chunks and a partial one: holes, text that compresses, noise that does not."""
    pieces = []
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["hole", "text", "noise"]))
        seed = draw(st.binary(min_size=8, max_size=8))
        pieces.append({"hole": bytes(CHUNK), "text": seed * (CHUNK // 8), "noise": os.urandom(CHUNK)}[kind])
    tail = draw(st.integers(0 if pieces else 1, 7)) * SECTOR
    return b"".join(pieces) + os.urandom(tail)


@settings(deadline=None, max_examples=60)
@given(disk=disks(), data=st.data(), level=st.sampled_from([0, 1, 3]))
def test_reads_are_the_plaintext(disk: bytes, data: st.DataObject, level: int) -> None:
    built = build(disk, compression=Compression(level))
    read = reader(built, cache_bytes=2 * CHUNK)
    assert read.disk_bytes == len(disk)
    for _ in range(10):
        offset = data.draw(st.integers(0, len(disk)))
        length = data.draw(st.integers(0, len(disk) - offset))
        assert read.read_at(offset, length) == disk[offset : offset + length]
    runs = list(read.extents(0, len(disk)))
    assert sum(length for _, length, _ in runs) == len(disk)
    for start, length, zero in runs:
        assert not zero or not any(disk[start : start + length])


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_every_flipped_byte_of_a_pack_is_refused_where_it_lies(data: st.DataObject) -> None:
    disk = b"text" * 2048 + os.urandom(3 * CHUNK)
    built = build(disk)
    pack = built.header.packs[0].digest
    position = data.draw(st.integers(0, 2**32)) % built.header.packs[0].size
    raw = bytearray(built.store.blobs[pack])
    raw[position] ^= data.draw(st.integers(1, 255))
    built.store.blobs[pack] = bytes(raw)
    read = reader(built)
    failed = 0
    for offset in range(0, len(disk), CHUNK):
        try:
            assert read.read_at(offset, CHUNK) == disk[offset : offset + CHUNK]
        except IntegrityRefused:
            failed += 1
    assert failed == 1


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_flipped_byte_of_the_index_is_refused(data: st.DataObject) -> None:
    built = build(os.urandom(4 * CHUNK))
    index = built.header.index.blob.digest
    raw = bytearray(built.store.blobs[index])
    raw[data.draw(st.integers(0, 2**32)) % len(raw)] ^= data.draw(st.integers(1, 255))
    built.store.blobs[index] = bytes(raw)
    with pytest.raises(IntegrityRefused):
        reader(built).read_at(0, CHUNK)


def stored(built: Built) -> list[Record]:
    index = reader(built)._index
    return [index.record(number) for number in range(built.header.chunk_count)]


def test_swapped_chunks_are_refused() -> None:
    built = build(os.urandom(2 * CHUNK), compression=Compression(0))
    pack = built.header.packs[0].digest
    raw = built.store.blobs[pack]
    half = len(raw) // 2
    built.store.blobs[pack] = raw[half:] + raw[:half]
    for offset in (0, CHUNK):
        with pytest.raises(IntegrityRefused, match="not what the provisioner signed"):
            reader(built).read_at(offset, CHUNK)


def test_truncated_pack_is_refused() -> None:
    built = build(os.urandom(2 * CHUNK))
    pack = built.header.packs[0].digest
    built.store.blobs[pack] = built.store.blobs[pack][:-1]
    assert reader(built).read_at(0, CHUNK) == built.disk[:CHUNK]
    with pytest.raises(IntegrityRefused):
        reader(built).read_at(CHUNK, 1)


def test_chunks_of_an_older_version_are_refused() -> None:
    old = build(os.urandom(2 * CHUNK), version=1, compression=Compression(0))
    new = build(os.urandom(2 * CHUNK), version=2, compression=Compression(0), store=old.store)
    old.store.blobs[new.header.packs[0].digest] = old.store.blobs[old.header.packs[0].digest]
    with pytest.raises(IntegrityRefused):
        reader(new).read_at(0, CHUNK)


def test_index_of_an_older_version_is_refused() -> None:
    old = build(os.urandom(2 * CHUNK), version=1)
    new = build(os.urandom(2 * CHUNK), version=2, store=old.store, key=old.key)
    old.store.blobs[new.header.index.blob.digest] = old.store.blobs[old.header.index.blob.digest]
    with pytest.raises(IntegrityRefused):
        reader(new)


def test_a_chunk_forged_with_the_pack_key_is_refused() -> None:
    """Every host that may open the package has the pack keys; only the hash keeps one from forging for the others."""
    built = build(os.urandom(CHUNK), compression=Compression(0))
    pack = built.header.packs[0].digest
    key = reader(built)._index.packs[0]
    forged = key.cipher(built.header.lineage).encrypt(0, os.urandom(CHUNK), Compression(0))
    built.store.blobs[pack] = forged.ciphertext
    with pytest.raises(IntegrityRefused, match="not what the provisioner signed"):
        reader(built).read_at(0, CHUNK)


def test_tag_is_checked_even_when_the_hash_is_right() -> None:
    built = build(os.urandom(CHUNK), compression=Compression(0))
    wrong = reader(built)._index.packs[0].cipher(bytes(16))
    record = stored(built)[0]
    ciphertext = built.store.blobs[built.header.packs[0].digest]
    with pytest.raises(IntegrityRefused, match="authentication failed"):
        wrong.decrypt(record, ciphertext, CHUNK, "chunk 0")


def test_another_key_is_refused() -> None:
    built = build(os.urandom(CHUNK))
    with pytest.raises(IntegrityRefused):
        PackageReader(built.header, Secret(os.urandom(32)), built.store)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, CHUNK + 1), (CHUNK, 1)])
def test_reads_outside_the_disk_are_refused(offset: int, length: int) -> None:
    with pytest.raises(InputError):
        reader(build(os.urandom(CHUNK))).read_at(offset, length)


def test_holes_cost_nothing() -> None:
    built = build(bytes(64 * CHUNK))
    assert built.header.packs == ()
    assert reader(built).read_at(5, 3 * CHUNK) == bytes(3 * CHUNK)
    assert {record.state for record in stored(built)} == {State.ZERO}


def test_many_pages_and_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PACK_PLAINTEXT_BYTES", 1000 * CHUNK)
    disk = bytearray(3000 * CHUNK + SECTOR)
    for number in (0, 999, 1023, 1024, 2500, 3000):
        disk[number * CHUNK] = number % 251 + 1
    for number in range(1500, 1520):
        disk[number * CHUNK : (number + 1) * CHUNK] = os.urandom(CHUNK)
    built = build(bytes(disk))
    assert reader(built).read_at(0, len(disk)) == disk


def test_several_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PACK_PLAINTEXT_BYTES", 2 * CHUNK)
    disk = os.urandom(7 * CHUNK)
    built = build(disk)
    assert len(built.header.packs) == 4
    assert len({pack.id for pack in reader(built)._index.packs}) == 4
    assert reader(built).read_at(0, len(disk)) == disk


def test_no_nonce_is_used_twice_under_one_key() -> None:
    records = stored(build(os.urandom(20 * CHUNK)))
    assert len({(record.pack, record.ordinal) for record in records}) == 20


def test_threads_read_the_same_disk() -> None:
    disk = os.urandom(40 * CHUNK)
    read = reader(build(disk), cache_bytes=4 * CHUNK)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for step in range(200):
            offset = (seed * 7919 + step * 104729) % (len(disk) - 5000)
            if read.read_at(offset, 5000) != disk[offset : offset + 5000]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_failed_chunk_fails_again_and_blocks_nobody() -> None:
    built = build(os.urandom(2 * CHUNK), compression=Compression(0))
    pack = built.header.packs[0].digest
    built.store.blobs[pack] = b"\0" + built.store.blobs[pack][1:]
    read = reader(built)
    for _ in range(3):
        with pytest.raises(IntegrityRefused, match="chunk 0"):
            read.read_at(0, 1)
    assert read.read_at(CHUNK, CHUNK) == built.disk[CHUNK:]
