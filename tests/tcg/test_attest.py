"""Attestations made in software by a key with the AK's template, each wrong in one way. Real ones: test_keys_tools."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import EnrollmentRefused, EvidenceRefused, MalformedError
from sealvm.tcg import templates
from sealvm.tcg.attest import CertifyInfo, ClockInfo, QuoteInfo, parse_attest, verify_certify, verify_quote
from sealvm.tcg.marshal import b2
from sealvm.tcg.pcr import PcrSelection
from sealvm.tcg.public import name_of, qualified_name
from sealvm.tcg.templates import public_of

AK = SoftwareSigner.generate()
AK_PUBLIC = public_of(templates.AK, AK.point)
SRK_PUBLIC = public_of(templates.SRK, SoftwareSigner.generate().point)
PARENT_PUBLIC = public_of(templates.IMPORT_PARENT, SoftwareSigner.generate().point)
NONCE = bytes(range(32))
SELECTION = PcrSelection.of(0, 2, 4, 7)
CLOCK = bytes.fromhex("00000000000003e8 00000005 00000002 01")
FIRMWARE = bytes.fromhex("2019102300163636")


def attest(
    info: bytes,
    kind: str = "8018",
    magic: str = "ff544347",
    signer: bytes = qualified_name(0x4000000B, AK_PUBLIC),
    nonce: bytes = NONCE,
    clock: bytes = CLOCK,
) -> bytes:
    return bytes.fromhex(magic + kind) + b2(signer) + b2(nonce) + clock + FIRMWARE + info


QUOTE_INFO = SELECTION.marshal() + b2(b"p" * 32)
QUOTE = attest(QUOTE_INFO)


def certify_of(raw: bytes, *ancestors: bytes) -> bytes:
    return attest(b2(name_of(raw)) + b2(qualified_name(0x40000001, *ancestors, raw)), kind="8017")


def sign(raw: bytes) -> bytes:
    return AK.sign_digest(hashlib.sha256(raw).digest())


def test_parse() -> None:
    parsed = parse_attest(QUOTE)
    assert parsed.kind == "quote"
    assert parsed.attested == QuoteInfo(SELECTION, b"p" * 32)
    assert parsed.clock_info == ClockInfo(clock=1000, reset_count=5, restart_count=2, safe=True)
    assert (parsed.extra_data, parsed.firmware_version) == (NONCE, 0x2019102300163636)
    certify = parse_attest(certify_of(SRK_PUBLIC))
    assert certify.attested == CertifyInfo(name_of(SRK_PUBLIC), qualified_name(0x40000001, SRK_PUBLIC))


def test_verify_quote() -> None:
    quote = verify_quote(QUOTE, sign(QUOTE), AK_PUBLIC, NONCE)
    assert (quote.selection, quote.pcr_digest, quote.clock_info.reset_count) == (SELECTION, b"p" * 32, 5)


@pytest.mark.parametrize(
    ("check", "raw"),
    [
        ("quote-form", attest(QUOTE_INFO, magic="ff544348")),
        ("quote-form", attest(QUOTE_INFO, kind="8014")),
        ("quote-form", attest(QUOTE_INFO, clock=CLOCK[:-1] + b"\2")),
        ("quote-form", attest(SELECTION.marshal().replace(b"\0\x0b", b"\0\x04") + b2(b"p" * 32))),
        ("quote-form", QUOTE + b"\0"),
        ("quote-form", QUOTE[:-1]),
        ("quote-form", QUOTE + bytes(1000)),
        ("quote-signer", attest(QUOTE_INFO, signer=qualified_name(0x40000001, AK_PUBLIC))),
        ("quote-signer", attest(QUOTE_INFO, signer=b"")),
        ("quote-nonce", attest(QUOTE_INFO, nonce=bytes(32))),
        ("quote-nonce", attest(QUOTE_INFO, nonce=NONCE[:-1])),
        ("quote-nonce", attest(QUOTE_INFO, nonce=b"")),
        ("quote-type", certify_of(SRK_PUBLIC)),
        ("quote-pcr-digest", attest(SELECTION.marshal() + b2(b"p" * 20))),
    ],
)
def test_verify_quote_refuses(check: str, raw: bytes) -> None:
    with pytest.raises(EvidenceRefused, match="quote") as refused:
        verify_quote(raw, sign(raw), AK_PUBLIC, NONCE)
    assert refused.value.fields["check"] == check


def test_key_that_is_no_ak() -> None:
    """An unrestricted key signs anything, so its word on an attestation is worth nothing."""
    for template in (templates.REQUEST_KEY, templates.VERIFIER):
        with pytest.raises(EvidenceRefused, match="attributes") as refused:
            verify_quote(QUOTE, sign(QUOTE), public_of(template, AK.point), NONCE)
        assert refused.value.fields["check"] == "quote-ak"


def test_no_nonce_is_a_programming_error() -> None:
    raw = attest(QUOTE_INFO, nonce=b"")
    with pytest.raises(ValueError, match="nonce"):
        verify_quote(raw, sign(raw), AK_PUBLIC, b"")


def test_verify_certify() -> None:
    raw = certify_of(PARENT_PUBLIC, SRK_PUBLIC)
    verify_certify(raw, sign(raw), AK_PUBLIC, PARENT_PUBLIC, NONCE, "import-parent", ancestors=(SRK_PUBLIC,))
    verify_certify(raw, sign(raw), AK_PUBLIC, PARENT_PUBLIC, NONCE, "import-parent")


@pytest.mark.parametrize(
    ("check", "raw"),
    [
        ("certify-type", QUOTE),
        ("certify-name", certify_of(SRK_PUBLIC)),
        ("certify-qualified-name", certify_of(PARENT_PUBLIC)),
        ("certify-qualified-name", attest(b2(name_of(PARENT_PUBLIC)) + b2(b""), kind="8017")),
        ("certify-nonce", attest(b2(name_of(PARENT_PUBLIC)) + b2(b""), kind="8017", nonce=b"x")),
        ("certify-form", attest(b2(name_of(PARENT_PUBLIC)), kind="8017")),
    ],
)
def test_verify_certify_refuses(check: str, raw: bytes) -> None:
    with pytest.raises(EnrollmentRefused, match="import-parent") as refused:
        verify_certify(raw, sign(raw), AK_PUBLIC, PARENT_PUBLIC, NONCE, "import-parent", ancestors=(SRK_PUBLIC,))
    assert refused.value.fields["check"] == f"import-parent.{check}"


@given(st.binary(max_size=150))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    for candidate in (data, QUOTE[:6] + data, certify_of(SRK_PUBLIC)[:6] + data):
        try:
            parse_attest(candidate)
        except MalformedError as error:
            assert error.message.startswith("attestation: ")


@given(st.integers(0, len(QUOTE) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_refused(position: int, flip: int) -> None:
    mutated = bytearray(QUOTE)
    mutated[position] ^= flip
    with pytest.raises(EvidenceRefused):
        verify_quote(bytes(mutated), sign(QUOTE), AK_PUBLIC, NONCE)
