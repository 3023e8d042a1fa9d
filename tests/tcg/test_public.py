from __future__ import annotations

import contextlib
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.tcg import templates
from sealvm.tcg.marshal import b2
from sealvm.tcg.public import coordinates, name_of, parse_public, qualified_name
from sealvm.tcg.templates import (
    TEMPLATES,
    Template,
    check_template,
    ek_template_of,
    profile_key_public,
    public_of,
    verifier_public,
)

POINT = SoftwareSigner.generate().point
P384_POINT = (
    ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)
MODULUS = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n.to_bytes(256, "big")
X, Y = coordinates(POINT)


def unique_for(template: Template) -> bytes:
    if template.type == 1:
        return MODULUS
    return P384_POINT if template.curve == 4 else POINT


def full(template: Template) -> bytes:
    return public_of(template, unique_for(template))


def test_verifier_layout() -> None:
    """docs/spec/tpm-policy-v1.md, "Objects": 88 bytes."""
    head = bytes.fromhex("0023 000B 00040040 0000 0010 0018 000B 0003 0010".replace(" ", ""))
    assert verifier_public(POINT) == head + b2(X) + b2(Y)
    assert len(verifier_public(POINT)) == 88


def test_profile_key_layout() -> None:
    policy = bytes(range(32))
    head = bytes.fromhex("0023 000B 00020480 0020".replace(" ", "")) + policy
    raw = profile_key_public(POINT, policy)
    assert raw == head + bytes.fromhex("0010 0010 0003 0010".replace(" ", "")) + b2(X) + b2(Y)
    assert len(raw) == 118


@pytest.mark.parametrize(
    ("name", "attributes"),
    [("srk", 0x00030472), ("import-parent", 0x000304B2), ("ak", 0x00050472), ("request-key", 0x00040472),
     ("profile-key", 0x00020480), ("verifier", 0x00040040)],
)  # fmt: skip
def test_attributes_of_the_specification(name: str, attributes: int) -> None:
    assert TEMPLATES[name].attributes == attributes


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_parse_reads_what_public_of_writes(template: Template) -> None:
    public = parse_public(full(template), "it")
    assert public.raw == full(template)
    assert (public.point or public.modulus) == unique_for(template)
    assert public.name == name_of(full(template))
    if template.name != "profile-key":
        assert check_template(full(template), template, template.name) == public


def test_creation_template_is_parsed_but_is_no_key() -> None:
    for template in (templates.SRK, templates.AK, templates.EK_RSA2048):
        parse_public(public_of(template), "it")
        with pytest.raises(EnrollmentRefused) as refused:
            check_template(public_of(template), template, "key")
        assert refused.value.fields["check"] == "key.unique"


def test_names() -> None:
    raw = full(templates.SRK)
    assert name_of(raw) == b"\x00\x0b" + hashlib.sha256(raw).digest()
    p384 = full(templates.EK_ECC_P384)
    assert name_of(p384) == b"\x00\x0c" + hashlib.sha384(p384).digest()
    child = full(templates.IMPORT_PARENT)
    parent_qn = b"\x00\x0b" + hashlib.sha256(bytes.fromhex("40000001") + name_of(raw)).digest()
    assert qualified_name(0x40000001, raw) == parent_qn
    assert qualified_name(0x40000001, raw, child) == b"\x00\x0b" + hashlib.sha256(parent_qn + name_of(child)).digest()
    for bad in (b"", b"\0\x23", b"\0\x23\0\4" + raw[4:]):
        with pytest.raises(MalformedError):
            name_of(bad)


IMPORT_PARENT = full(templates.IMPORT_PARENT)


def with_bytes(offset: int, new: str) -> bytes:
    data = bytes.fromhex(new)
    return IMPORT_PARENT[:offset] + data + IMPORT_PARENT[offset + len(data) :]


@pytest.mark.parametrize(
    ("field", "raw"),
    [
        ("type", full(templates.EK_RSA2048)),
        ("nameAlg", full(templates.EK_ECC_P384)),
        ("attributes", with_bytes(4, "000304f2")),  # userWithAuth as well
        ("attributes", with_bytes(4, "000304b0")),  # not fixedTPM
        ("attributes", with_bytes(4, "000204b2")),  # not restricted
        ("attributes", with_bytes(4, "800304b2")),  # a reserved bit
        ("authPolicy", with_bytes(10, "00")),
        ("authPolicy", IMPORT_PARENT[:8] + b"\0\0" + IMPORT_PARENT[42:]),
        ("symmetric", with_bytes(44, "0100")),
        ("symmetric", IMPORT_PARENT[:42] + b"\x00\x10" + IMPORT_PARENT[48:]),
        ("scheme", IMPORT_PARENT[:48] + b"\x00\x18\x00\x0b" + IMPORT_PARENT[50:]),
        ("curve", with_bytes(50, "0004")[:54] + b2(P384_POINT[1:49]) + b2(P384_POINT[49:])),
        ("kdf", IMPORT_PARENT[:52] + b"\x00\x17\x00\x0b" + IMPORT_PARENT[54:]),
        ("unique", IMPORT_PARENT[:54] + b2(b"") * 2),
        ("unique", IMPORT_PARENT[:54] + b2(bytes(32)) * 2),
    ],
)
def test_every_field_is_refused_by_name(field: str, raw: bytes) -> None:
    with pytest.raises(EnrollmentRefused) as refused:
        check_template(raw, templates.IMPORT_PARENT, "import-parent")
    assert refused.value.fields["check"] == f"import-parent.{field}"
    assert refused.value.message.startswith(f"import-parent: {field} is ")


def test_rsa_fields() -> None:
    raw = full(templates.EK_RSA2048)
    offset = raw.index(MODULUS) - 8
    for exponent, fits in ((0, True), (65537, True), (3, False)):
        changed = raw[: offset + 2] + exponent.to_bytes(4, "big") + raw[offset + 6 :]
        if fits:
            check_template(changed, templates.EK_RSA2048, "ek")
            continue
        with pytest.raises(EnrollmentRefused) as refused:
            check_template(changed, templates.EK_RSA2048, "ek")
        assert refused.value.fields["check"] == "ek.exponent"
    small = raw[:offset] + (1024).to_bytes(2, "big") + bytes(4) + b2(MODULUS[:127] + b"\1")
    with pytest.raises(EnrollmentRefused) as refused:
        check_template(small, templates.EK_RSA2048, "ek")
    assert refused.value.fields["check"] == "ek.keyBits"
    with pytest.raises(EnrollmentRefused) as refused:
        ek_template_of(small)
    assert refused.value.fields["check"] == "ek.type"
    with pytest.raises(MalformedError, match="modulus"):
        parse_public(raw[:-1] + b"\0", "ek")


def test_ek_templates_are_told_apart() -> None:
    for template in templates.EK_TEMPLATES:
        assert ek_template_of(full(template)) is template


@pytest.mark.parametrize(
    "raw",
    [
        b"", IMPORT_PARENT[:-1], IMPORT_PARENT + b"\0", bytes(2000), b"\0\x08" + IMPORT_PARENT[2:],
        with_bytes(2, "0004"), with_bytes(9, "1f"), with_bytes(42, "0013"), with_bytes(48, "001a"),
        with_bytes(50, "0005"), with_bytes(54, "0021"), IMPORT_PARENT[:-1] + bytes([IMPORT_PARENT[-1] ^ 1]),
    ],
)  # fmt: skip
def test_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError, match="import-parent"):
        check_template(raw, templates.IMPORT_PARENT, "import-parent")


def test_public_of_wants_the_right_size() -> None:
    for template, unique in ((templates.SRK, P384_POINT), (templates.SRK, bytes(65)), (templates.EK_RSA2048, b"\1")):
        with pytest.raises(MalformedError):
            public_of(template, unique)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert parse_public(data, "it").raw == data


@given(st.sampled_from([full(t) for t in TEMPLATES.values()]), st.data())
def test_mutations_parse_or_are_malformed(raw: bytes, data: st.DataObject) -> None:
    mutated = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for candidate in (bytes(mutated), bytes(mutated[:cut]), bytes(mutated) + raw[:cut]):
        with contextlib.suppress(MalformedError):
            parse_public(candidate, "it")
