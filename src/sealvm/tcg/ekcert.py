"""EK certificates: whether a known TPM maker vouches for an EK.

Specification: TCG EK Credential Profile for TPM Family 2.0, section 3, and docs/spec/enrollment-v1.md, section 5. The
path is checked by tcg.ekchain, what the certificate says by tcg.ekprofile. Certificate revocation lists are not
consulted: a model that turns out broken is barred by maker, model and version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.tcg import algorithms as alg
from sealvm.tcg import ekchain, ekprofile
from sealvm.tcg.ekprofile import TpmSpecification
from sealvm.tcg.public import RSA_DEFAULT_EXPONENT, parse_public

MAX_CERTIFICATE_BYTES = 8192
MAX_INTERMEDIATES = 8

_CHAIN = "ek.certificate-chain"

_PARSE_ERRORS = (  # what the library raises for malformed certificates, found by fuzzing
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """A CA certificate whose EK certificates are accepted, and the trust class they get: hardware, virtual or lab."""

    certificate_der: bytes
    trust_class: str


@dataclass(frozen=True, slots=True)
class VerifiedEk:
    """An EK that a known root vouches for. Made by `verify_ek_certificate` only.

    manufacturer, model and version are what the certificate's subjectAltName says, such as `id:00001014`, `swtpm` and
    `id:20191023`. `root` is the subject of the root, `root_sha256` the digest of its certificate.
    """

    manufacturer: str
    model: str
    version: str
    trust_class: str
    root: str
    root_sha256: bytes
    specification: TpmSpecification | None
    public_key: PublicKey
    certificate_der: bytes


def strip_padding(data: bytes, what: str = "ek certificate") -> bytes:
    """The DER certificate at the start of `data`, without the 00 or FF bytes that fill up an NV index.

    MalformedError when it does not begin with a complete DER SEQUENCE, is longer than 8192 bytes, or is followed by
    anything else.
    """
    total = _der_size(data, what)
    if data[total:].strip(b"\0") and data[total:].strip(b"\xff"):
        raise MalformedError(f"{what}: {len(data) - total} bytes follow it that are no padding")
    return data[:total]


def split_certificates(data: bytes, what: str = "ek chain") -> tuple[bytes, ...]:
    """The DER certificates that follow each other in `data`, without the padding at its end. MalformedError."""
    found: list[bytes] = []
    while data.strip(b"\0") and data.strip(b"\xff"):
        size = _der_size(data, what)
        found.append(data[:size])
        data = data[size:]
        if len(found) > MAX_INTERMEDIATES:
            raise MalformedError(f"{what}: more than {MAX_INTERMEDIATES} certificates")
    return tuple(found)


def verify_ek_certificate(
    certificate_der: bytes, intermediates: Sequence[bytes], roots: Sequence[TrustRoot], now: datetime
) -> VerifiedEk:
    """What the certificate says about the EK, only if its chain ends at one of `roots` at the time `now` (aware).

    1. It parses; NV padding is taken off. MalformedError otherwise; the other steps raise EnrollmentRefused.
    2. There is a path over `intermediates` to a root (`tcg.ekchain`; check `ek.certificate-chain`).
    3. It is an EK's (`ekprofile.check_usage`; check `ek.certificate-usage`).
    4. It names the TPM's maker, model and version (`ek.certificate-names`), and is for TPM 2.0
       (`ek.certificate-specification`).
    5. Its key is RSA, P-256 or P-384 (check `ek.certificate-key`).

    The caller must still compare the key (`ek_matches`), check the EK's template, and bar what it bars.
    """
    leaf = _load(strip_padding(certificate_der), "ek certificate")  # 1
    if now.tzinfo is None:
        raise ValueError("the time must say its zone")
    if len(intermediates) > MAX_INTERMEDIATES:
        raise MalformedError(f"ek certificate: {len(intermediates)} intermediates, at most {MAX_INTERMEDIATES} allowed")
    between = [_load(strip_padding(der, "ek intermediate"), "ek intermediate") for der in intermediates]
    by_der = {root.certificate_der: root for root in roots}
    if not by_der:
        raise EnrollmentRefused(
            "ek certificate: no root is trusted", hint="add one with `sealvm authority root add`", check=_CHAIN
        )
    try:
        path = ekchain.find_path(leaf, between, [_load(der, "ek root") for der in by_der], now)  # 2
    except ekchain.PathError as error:
        raise EnrollmentRefused(
            f"ek certificate: no valid chain from {ekchain.show(leaf.issuer)!r} to one of {len(by_der)} roots: {error}",
            hint="if this TPM's maker is to be trusted, add its root with `sealvm authority root add`",
            check=_CHAIN,
        ) from error
    root_der = path[-1].public_bytes(Encoding.DER)
    public_key = _ek_key(leaf)  # 5
    ekprofile.check_usage(leaf)  # 3
    manufacturer, model, version = ekprofile.tpm_names(leaf)  # 4
    return VerifiedEk(
        manufacturer=manufacturer,
        model=model,
        version=version,
        trust_class=by_der[root_der].trust_class,
        root=ekchain.show(path[-1].subject),
        root_sha256=hashlib.sha256(root_der).digest(),
        specification=ekprofile.tpm_specification(leaf),
        public_key=public_key,
        certificate_der=leaf.public_bytes(Encoding.DER),
    )


def ek_matches(public_key: PublicKey, ek_public: bytes) -> None:
    """Return only if the certified key is the one in the EK's public area.

    EnrollmentRefused (check `ek.certificate-key`) when it is another; MalformedError when the area does not parse.
    """
    ek = parse_public(ek_public, "ek")
    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        same = (
            ek.type == alg.ALG_RSA
            and bool(ek.modulus)
            and int.from_bytes(ek.modulus, "big") == numbers.n
            and (ek.exponent or RSA_DEFAULT_EXPONENT) == numbers.e
        )
    else:
        point = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        same = ek.type == alg.ALG_ECC and ek.point == point
    if not same:
        raise EnrollmentRefused(
            "ek: the public area holds another key than the certificate",
            hint="the certificate belongs to another TPM, or the EK was made from another template",
            check="ek.certificate-key",
        )


def ek_digest(ek_public: bytes) -> str:
    """What an operator registers of an EK: lower-case hex SHA-256 of its TPMT_PUBLIC. MalformedError if it is none."""
    return hashlib.sha256(parse_public(ek_public, "ek").raw).hexdigest()


def _der_size(data: bytes, what: str) -> int:
    """How long the DER SEQUENCE is with which `data` begins."""
    if len(data) < 4 or data[0] != 0x30 or data[1] not in (0x81, 0x82):
        raise MalformedError(f"{what}: does not begin with a DER certificate")
    length_bytes = data[1] & 0x7F
    total = 2 + length_bytes + int.from_bytes(data[2 : 2 + length_bytes], "big")
    if total > min(len(data), MAX_CERTIFICATE_BYTES):
        raise MalformedError(f"{what}: {total} bytes announced, {len(data)} are there")
    return total


def _load(der: bytes, what: str) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.subject, certificate.issuer  # parsed lazily by the library
    except _PARSE_ERRORS as error:
        raise MalformedError(f"{what}: not an X.509 certificate: {error}") from None
    return certificate


def _ek_key(leaf: x509.Certificate) -> PublicKey:
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, rsa.RSAPublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1))
    ):
        return key
    raise EnrollmentRefused("ek certificate: key is neither RSA, P-256 nor P-384", check="ek.certificate-key")
