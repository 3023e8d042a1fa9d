from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto import canonical
from sealvm.errors import MalformedError

TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def test_form() -> None:
    assert canonical.dumps({"b": [1, None], "a": "é\n"}) == '{"a":"é\\n","b":[1,null]}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        canonical.dumps(float("nan"))


@given(JSON)
def test_round_trip(obj: object) -> None:
    data = canonical.dumps(obj)
    assert canonical.loads(data, "it", 1 << 20) == obj
    assert canonical.dumps(canonical.loads(json.dumps(obj, indent=1).encode(), "it", 1 << 20)) == data


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    try:
        canonical.dumps(canonical.loads(data, "it", 100))
    except MalformedError as error:
        assert error.message.startswith("it: ")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[" + b" " * 100 + b"]", "at most 100"),
        (b"\xff", "not UTF-8"),
        (b"", "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b"[1] 2", "not JSON"),
        (b'{"a":1,"a":2}', "'a' appears twice"),
        (b'[{"a":{"b":1,"b":1}}]', "'b' appears twice"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"1e999", "out of range"),
        (b'"\\ud800"', "lone surrogate"),
        (b'{"\\udc00":1}', "lone surrogate"),
        (b"[" * 33 + b"]" * 33, "deeper than 32"),
        (b'{"a":' * 50, "not JSON"),
    ],
)
def test_refusals(data: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        canonical.loads(data, "it", 100 if says == "at most 100" else 1000)


def test_depth_32_is_accepted_and_very_deep_is_malformed() -> None:
    canonical.loads(b"[" * 32 + b"]" * 32, "it", 100)
    with pytest.raises(MalformedError, match="deeper"):
        canonical.loads(b"[" * 100_000 + b"]" * 100_000, "it", 1 << 20)


def test_long_number_is_malformed() -> None:
    with pytest.raises(MalformedError, match="number is too long"):
        canonical.loads(b"1" * 10_000, "it", 1 << 20)
