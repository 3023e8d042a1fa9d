from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.errors import MalformedError
from sealvm.tcg.marshal import Reader, b2

READS = st.lists(st.sampled_from(["u8", "u16", "u32", "u64", "sized16", "end"]) | st.integers(0, 100), max_size=10)


def test_reads_in_order() -> None:
    reader = Reader(b"\x01\x00\x02\x00\x00\x00\x03" + bytes(7) + b"\x04" + b2(b"ab") + b"cd", "it")
    assert (reader.u8(), reader.u16(), reader.u32(), reader.u64()) == (1, 2, 3, 4)
    assert (reader.sized16(), reader.offset, reader.bytes(2)) == (b"ab", 19, b"cd")
    reader.end()


@given(st.binary(max_size=60), READS)
def test_nothing_but_malformed_error(data: bytes, reads: list[str | int]) -> None:
    reader = Reader(data, "it")
    try:
        for read in reads:
            if isinstance(read, int):
                assert len(reader.bytes(read)) == read
            else:
                getattr(reader, read)()
    except MalformedError as error:
        assert error.message.startswith("it: ")
    assert reader.offset <= len(data)


@given(st.binary(max_size=300), st.binary(max_size=10))
def test_sized16_undoes_b2(data: bytes, rest: bytes) -> None:
    reader = Reader(b2(data) + rest, "it")
    assert reader.sized16() == data
    assert reader.bytes(len(rest)) == rest


def test_limits() -> None:
    with pytest.raises(ValueError, match="65535"):
        b2(bytes(65536))
    with pytest.raises(MalformedError, match="ends early: 2 bytes expected at offset 0, 1 are left"):
        Reader(b"\0", "it").u16()
    with pytest.raises(MalformedError, match="ends early"):
        Reader(b"\0", "it").bytes(-1)
    with pytest.raises(MalformedError, match="1 bytes too many after offset 0"):
        Reader(b"\0", "it").end()
