"""The header has one form, limits for every field, and a version that does not go back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto import canonical
from sealvm.errors import MalformedError, RollbackRefused, SealvmError
from sealvm.package.header import Header, check_version, parse_header

from .builder import build


@pytest.fixture(scope="module")
def header() -> Header:
    return build(b"x" * 8192).header


def altered(header: Header, path: str, value: Any) -> bytes:
    obj = json.loads(header.encode())
    *parents, last = path.split(".")
    node = obj
    for name in parents:
        node = node[int(name) if name.isdigit() else name]
    node[last] = value
    return canonical.dumps(obj)


def test_round_trip(header: Header) -> None:
    assert parse_header(header.encode()) == header


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("format", True),
        ("lineage", "ab"),
        ("lineage", "AB" * 16),
        ("version", 0),
        ("version", 1.0),
        ("version", "1"),
        ("version", 2**53),
        ("created", "2026-11-23 12:00:00"),
        ("created", "2026-11-23T12:00:00+01:00"),
        ("created", 5),
        ("disk_bytes", 0),
        ("disk_bytes", 513),
        ("disk_bytes", 2**52),
        ("chunk_bytes", 2048),
        ("chunk_bytes", 4095),
        ("chunk_bytes", 12288),
        ("chunk_bytes", 2**21),
        ("index", []),
        ("index.digest", "sha256:00"),
        ("index.size", 0),
        ("index.root_bytes", 2**40),
        ("index.root_digest", "zz" * 32),
        ("index.more", 1),
        ("packs", {}),
        ("packs", [{"digest": "sha256:" + "0" * 64, "size": 1}] * 4097),
        ("packs.0.digest", "sha512:" + "0" * 64),
        ("packs.0.size", -1),
        ("packs.0.more", 1),
        ("commitment", "00" * 31),
        ("expression", {"profile": "../etc"}),
        ("expression", {"anyOf": [{"profile": "a"}, {"profile": "a"}]}),
        ("expression", {"anyOf": [{"profile": "a"}]}),
        ("expression", {"noneOf": [{"profile": "a"}, {"profile": "b"}]}),
        ("expression", {"anyOf": [{"profile": f"p{n}"} for n in range(65)]}),
        ("settings", {}),
        ("settings.firmware", "coreboot"),
        ("settings.architecture", "aarch64"),
        ("settings.min_memory_mib", 0),
        ("settings.min_memory_mib", True),
        ("settings.kernel", "/etc/shadow"),
        ("unknown", 1),
    ],
)
def test_every_field_is_checked(header: Header, path: str, value: Any) -> None:
    with pytest.raises(MalformedError):
        parse_header(altered(header, path, value))


def test_nested_expression_is_bounded(header: Header) -> None:
    node: dict[str, Any] = {"profile": "a"}
    for _ in range(4):
        node = {"anyOf": [node, {"profile": "b"}]}
    with pytest.raises(MalformedError, match="nested deeper"):
        parse_header(altered(header, "expression", node))


@pytest.mark.parametrize("field", ["lineage", "version", "index", "packs", "commitment", "expression", "settings"])
def test_missing_field(header: Header, field: str) -> None:
    obj = json.loads(header.encode())
    del obj[field]
    with pytest.raises(MalformedError, match=field):
        parse_header(canonical.dumps(obj))


def test_other_bytes_for_the_same_header_are_refused(header: Header) -> None:
    with pytest.raises(MalformedError, match="canonical"):
        parse_header(header.encode() + b"\n")


@given(st.binary(max_size=200))
def test_noise_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_header(data)


@given(data=st.data())
def test_flips_are_malformed_or_another_package(header: Header, data: st.DataObject) -> None:
    raw = bytearray(header.encode())
    raw[data.draw(st.integers(0, 2**32)) % len(raw)] ^= data.draw(st.integers(1, 255))
    try:
        assert parse_header(bytes(raw)).digest != header.digest
    except SealvmError as problem:
        assert isinstance(problem, MalformedError)


def test_older_version_is_refused_naming_both(header: Header) -> None:
    check_version(header, None)
    check_version(header, 1)
    with pytest.raises(RollbackRefused, match=r"version 1 .* version 7"):
        check_version(header, 7)
