"""What a TPM attests: quotes and certifications, verified.

An attestation travels as TPMS_ATTEST bytes (without the TPM2B length) and a DER ECDSA signature by the AK over their
SHA-256. Specification: Part 2, section 10.12 (TPMS_ATTEST); Part 1, section 31 (attestation).

The AK is restricted, so it signs an attestation structure only if its own TPM made it. That the AK is such a key is
checked here by its template and its Qualified Name; that it lives in a genuine TPM, only credential activation says.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from sealvm.crypto.ec import verify_digest
from sealvm.errors import EnrollmentRefused, EvidenceRefused, MalformedError, SignatureRefused
from sealvm.tcg import algorithms as alg
from sealvm.tcg.marshal import Reader
from sealvm.tcg.pcr import PcrSelection
from sealvm.tcg.public import name_of, qualified_name
from sealvm.tcg.templates import AK, check_template

TPM_GENERATED_VALUE = 0xFF544347
ST_ATTEST_CERTIFY = 0x8017
ST_ATTEST_QUOTE = 0x8018
MAX_ATTEST_BYTES = 1024

_KINDS = {ST_ATTEST_CERTIFY: "certify", ST_ATTEST_QUOTE: "quote"}


@dataclass(frozen=True, slots=True)
class ClockInfo:
    """TPMS_CLOCK_INFO. `clock` is in milliseconds; `reset_count` counts TPM resets, `restart_count` resumes since."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


@dataclass(frozen=True, slots=True)
class QuoteInfo:
    """TPMS_QUOTE_INFO: which PCRs, and the SHA-256 of their values in ascending order."""

    selection: PcrSelection
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class CertifyInfo:
    """TPMS_CERTIFY_INFO: Name and Qualified Name of the certified object."""

    name: bytes
    qualified_name: bytes


@dataclass(frozen=True, slots=True)
class Attest:
    """A parsed TPMS_ATTEST that nothing vouches for yet. `kind` is "quote" or "certify"."""

    kind: str
    qualified_signer: bytes
    extra_data: bytes
    clock_info: ClockInfo
    firmware_version: int
    attested: QuoteInfo | CertifyInfo


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """PCR values that the AK's TPM had after the nonce was drawn. Made by `verify_quote` only."""

    selection: PcrSelection
    pcr_digest: bytes
    clock_info: ClockInfo
    firmware_version: int


def parse_attest(raw: bytes) -> Attest:
    """Parse a quote or certification, at most 1024 bytes.

    MalformedError for another form, type, a wrong magic number, or a quote over another bank than SHA-256. Verifies
    nothing.
    """
    if len(raw) > MAX_ATTEST_BYTES:
        raise MalformedError(f"attestation: {len(raw)} bytes, at most {MAX_ATTEST_BYTES} are allowed")
    reader = Reader(raw, "attestation")
    magic, kind = reader.u32(), reader.u16()
    if magic != TPM_GENERATED_VALUE:
        raise MalformedError(f"attestation: magic {magic:08x}, expected ff544347: not made by a TPM")
    if kind not in _KINDS:
        raise MalformedError(f"attestation: type {kind:04x}, expected 8017 (certify) or 8018 (quote)")
    signer, extra = reader.sized16(), reader.sized16()
    clock, reset_count, restart_count, safe = reader.u64(), reader.u32(), reader.u32(), reader.u8()
    if safe > 1:
        raise MalformedError(f"attestation: clock safe flag {safe}, expected 0 or 1")
    firmware = reader.u64()
    attested: QuoteInfo | CertifyInfo
    if kind == ST_ATTEST_QUOTE:
        attested = QuoteInfo(selection=PcrSelection.parse(reader), pcr_digest=reader.sized16())
    else:
        attested = CertifyInfo(name=reader.sized16(), qualified_name=reader.sized16())
    reader.end()
    clock_info = ClockInfo(clock, reset_count, restart_count, bool(safe))
    return Attest(_KINDS[kind], signer, extra, clock_info, firmware, attested)


def verify_quote(raw: bytes, signature_der: bytes, ak_public: bytes, nonce: bytes) -> VerifiedQuote:
    """The quoted PCR digest, only if the TPM of this AK made the quote for this nonce.

    1. The AK has the AK template, and its signature over the attestation verifies.
    2. The attestation is one (magic) and a quote (type), of the SHA-256 bank.
    3. Its signer is the AK as a primary key of the endorsement hierarchy.
    4. Its extraData is the nonce.

    EvidenceRefused, with `check` in the fields, when one fails. The caller must still check that the AK is enrolled,
    that it drew the nonce itself and just now, that the selection is the one it asked for, and replay the log.
    """
    attest = _verified_attest(raw, signature_der, ak_public, nonce, "quote", EvidenceRefused)
    if not isinstance(attest.attested, QuoteInfo):
        raise EvidenceRefused(f"quote: attestation is of type {attest.kind}, expected quote", check="quote-type")
    if len(attest.attested.pcr_digest) != 32:
        raise EvidenceRefused("quote: PCR digest is not 32 bytes", check="quote-pcr-digest")
    return VerifiedQuote(
        selection=attest.attested.selection,
        pcr_digest=attest.attested.pcr_digest,
        clock_info=attest.clock_info,
        firmware_version=attest.firmware_version,
    )


def verify_certify(  # noqa: PLR0917
    raw: bytes,
    signature_der: bytes,
    ak_public: bytes,
    object_public: bytes,
    nonce: bytes,
    what: str,
    *,
    ancestors: Sequence[bytes] | None = None,
) -> None:
    """Return only if the TPM of this AK certified, for this nonce, that it holds the object `object_public`.

    Checks what `verify_quote` does, with type certify, then the object's Name and, where `ancestors` is given, its
    Qualified Name: the public areas from the primary key of the owner hierarchy down to the object's parent, so `()`
    for the SRK and `(srk_public,)` for the import parent. EnrollmentRefused, with `check` as `<what>.certify-...`.
    The caller must still check the object's template.
    """
    attest = _verified_attest(raw, signature_der, ak_public, nonce, f"{what}.certify", EnrollmentRefused)
    if not isinstance(attest.attested, CertifyInfo):
        raise EnrollmentRefused(
            f"{what}: attestation is of type {attest.kind}, expected certify", check=f"{what}.certify-type"
        )
    expected_name = name_of(object_public)
    if attest.attested.name != expected_name:
        raise EnrollmentRefused(
            f"{what}: the AK certified the Name {attest.attested.name.hex()}, expected {expected_name.hex()}",
            check=f"{what}.certify-name",
            expected=expected_name.hex(),
            actual=attest.attested.name.hex(),
        )
    if ancestors is not None:
        expected = qualified_name(alg.RH_OWNER, *ancestors, object_public)
        if attest.attested.qualified_name != expected:
            raise EnrollmentRefused(
                f"{what}: hangs under another parent: Qualified Name {attest.attested.qualified_name.hex()},"
                f" expected {expected.hex()}",
                check=f"{what}.certify-qualified-name",
                expected=expected.hex(),
                actual=attest.attested.qualified_name.hex(),
            )


def _verified_attest(  # noqa: PLR0917
    raw: bytes,
    signature_der: bytes,
    ak_public: bytes,
    nonce: bytes,
    what: str,
    refusal: type[EvidenceRefused] | type[EnrollmentRefused],
) -> Attest:
    """Steps 1 to 4 of `verify_quote`, without the type."""
    if not nonce:
        raise ValueError("an attestation needs a nonce")
    try:
        ak = check_template(ak_public, AK, "ak")
    except EnrollmentRefused as error:
        raise refusal(f"{what}: {error.message}", check=f"{what}-ak") from error
    try:
        verify_digest(ak.point, hashlib.sha256(raw).digest(), signature_der)  # 1
    except SignatureRefused as error:
        raise refusal(f"{what}: signature of the AK does not verify", check=f"{what}-signature") from error
    try:
        attest = parse_attest(raw)  # 2
    except MalformedError as error:
        raise refusal(f"{what}: {error.message}", check=f"{what}-form") from error
    if attest.qualified_signer != qualified_name(alg.RH_ENDORSEMENT, ak_public):  # 3
        raise refusal(
            f"{what}: the AK is not a primary key of the endorsement hierarchy: its Qualified Name is"
            f" {attest.qualified_signer.hex()}",
            check=f"{what}-signer",
        )
    if not hmac.compare_digest(attest.extra_data, nonce):  # 4
        raise refusal(
            f"{what}: nonce is {attest.extra_data.hex()}, expected {nonce.hex()}",
            hint="an old attestation was presented again, or another request's",
            check=f"{what}-nonce",
        )
    return attest
