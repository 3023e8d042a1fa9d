from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.errors import MalformedError
from sealvm.tcg.marshal import Reader
from sealvm.tcg.pcr import PcrSelection, pcr_digest


def test_selection() -> None:
    selection = PcrSelection.of(9, 0, 7, 0)
    assert list(selection) == [0, 7, 9] == sorted(selection)
    assert 7 in selection and 8 not in selection and selection == frozenset({0, 7, 9})
    assert selection.bitmap().hex() == "810200"
    assert PcrSelection.of(23).bitmap().hex() == "000080"
    assert selection.marshal().hex() == "00000001000b03810200"
    assert repr(selection) == "PcrSelection.of(0, 7, 9)"


@given(st.frozensets(st.integers(0, 23)))
def test_parse_undoes_marshal(indices: frozenset[int]) -> None:
    reader = Reader(PcrSelection(indices).marshal(), "it")
    assert PcrSelection.parse(reader) == indices
    reader.end()


@pytest.mark.parametrize("index", [-1, 24, True, "0", 1.0])
def test_bad_index(index: object) -> None:
    with pytest.raises(MalformedError, match="not a PCR index"):
        PcrSelection([index])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "raw", ["", "00000000", "00000002000b03810200000b03000000", "00000001000403810200", "00000001000b048102000000"]
)
def test_other_banks_are_malformed(raw: str) -> None:
    with pytest.raises(MalformedError):
        PcrSelection.parse(Reader(bytes.fromhex(raw), "it"))


def test_digest() -> None:
    values = {7: b"7" * 32, 0: b"0" * 32, 9: b"9" * 32}
    assert pcr_digest(values, (9, 0)) == hashlib.sha256(b"0" * 32 + b"9" * 32).digest()
    with pytest.raises(MalformedError, match="PCR 4 is selected but has no value") as missing:
        pcr_digest(values, (0, 4))
    assert missing.value.fields["pcr"] == 4
    with pytest.raises(MalformedError, match="20 bytes"):
        pcr_digest({0: bytes(20)}, (0,))
