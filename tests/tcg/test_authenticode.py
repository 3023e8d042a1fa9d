"""The hash of programs: what it covers and leaves out, and bytes that are no program.

That it is what firmware measures is shown by tests/attest/test_predict_boot.py, with real programs.
"""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.errors import MalformedError
from sealvm.tcg.authenticode import authenticode_digest, section_bytes, sections
from tests.attest.pe import program

PLAIN = program({".text": b"code", ".data": b"data"})


def digest(data: bytes) -> bytes:
    return authenticode_digest(data, "program")


def test_the_hash_covers_headers_and_sections_but_checksum_and_certificates() -> None:
    by_hand = PLAIN[: 0x58 + 64] + PLAIN[0x58 + 68 : 0x58 + 144] + PLAIN[0x58 + 152 :]
    assert digest(PLAIN) == hashlib.sha256(by_hand).digest()
    assert digest(program({".text": b"code", ".data": b"data"}, checksum=7, certificate=b"signature!")) == digest(PLAIN)
    assert digest(program({".text": b"code", ".data": b"dat4"})) != digest(PLAIN)
    assert digest(program({".text": b"code", ".data": b"data"}, tail=b"more")) != digest(PLAIN)


def test_sections_are_read_by_name() -> None:
    assert [section.name for section in sections(PLAIN, "program")] == [".text", ".data"]
    assert section_bytes(PLAIN, ".data", "program") == b"data"
    assert section_bytes(PLAIN, ".none", "program") is None


def changed(offset: int, form: str, value: int) -> bytes:
    data = bytearray(PLAIN)
    struct.pack_into(form, data, offset, value)
    return bytes(data)


TABLE = 0x58 + 240
REFUSED = {
    "empty": (b"", "is no PE/COFF program"),
    "text": (b"MZ".ljust(100), "is no PE/COFF program"),
    "no PE signature": (changed(0x40, "<I", 0), "is no PE/COFF program"),
    "PE header past the end": (changed(0x3C, "<I", 1 << 31), "is no PE/COFF program"),
    "another optional header": (changed(0x58, "<H", 0x107), "optional header"),
    "optional header past the end": (changed(0x54, "<H", 0xFFFF), "optional header"),
    "too many sections": (changed(0x46, "<H", 97), "97 sections"),
    "headers past the end": (changed(0x58 + 60, "<I", 1 << 30), "1073741824 bytes of headers"),
    "section past the end": (changed(TABLE + 20, "<I", 1 << 30), "lies outside the file"),
    "certificates past the end": (changed(0x58 + 148, "<I", 1 << 30), "certificate table lies outside"),
    "sections that overlap": (changed(TABLE + 16, "<I", 1024), "sections overlap"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_program_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=r"^program: ") as caught:
        digest(data)
    assert message in caught.value.message


def test_a_section_that_is_larger_in_memory_than_in_the_file_is_refused() -> None:
    with pytest.raises(MalformedError, match="larger in memory"):
        section_bytes(changed(TABLE + 8, "<I", 1 << 30), ".text", "program")


@given(st.data())
def test_any_bytes_give_a_digest_or_a_malformed_error(data: st.DataObject) -> None:
    image = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, 0x200))] = data.draw(st.integers(0, 255))
    del image[data.draw(st.integers(1, len(image))) :]
    try:
        digest(bytes(image))
        section_bytes(bytes(image), ".text", "program")
    except MalformedError:
        return
