from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto.labels import label_bytes, label_digest, u32

LABELS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
PARTS = st.lists(st.binary(max_size=20), max_size=4)


def test_layout() -> None:
    assert label_bytes("profile", b"web", b"") == b"sealvm/profile/v1\0" + b"\x00\x03web" + b"\x00\x00"
    assert label_digest("x") == hashlib.sha256(b"sealvm/x/v1\0").digest()
    assert u32(0x01020304) == b"\1\2\3\4"


@given(LABELS, PARTS, LABELS, PARTS)
def test_no_two_uses_encode_alike(a: str, a_parts: list[bytes], b: str, b_parts: list[bytes]) -> None:
    assert (label_bytes(a, *a_parts) == label_bytes(b, *b_parts)) == ((a, a_parts) == (b, b_parts))


@pytest.mark.parametrize("label", ["", "a\0b", "é", "a\n"])
def test_bad_labels(label: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        label_bytes(label)


def test_limits() -> None:
    assert len(label_bytes("x", bytes(0xFFFF))) == len(b"sealvm/x/v1\0") + 2 + 0xFFFF
    with pytest.raises(ValueError, match="65536 bytes"):
        label_bytes("x", bytes(0x10000))
    for n in (-1, 2**32):
        with pytest.raises(ValueError, match="not a u32"):
            u32(n)
