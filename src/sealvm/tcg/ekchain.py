"""Certificate paths of EK certificates: from a TPM maker's end-entity certificate up to a root that is accepted.

Specification: RFC 5280 section 6, as far as EK certificates need it, and docs/spec/enrollment-v1.md section 5. Parsing,
signatures and names are the `cryptography` library's; the walk is ours, because the library's verifier knows no
critical certificatePolicies, and the intermediates of STMicroelectronics, Intel and Infineon carry them. With any
policy acceptable and no policy demanded, that extension decides nothing.

Not looked at: revocation lists (docs/threat-model.md). An extension that is critical and not in the list here, such as
nameConstraints or policyConstraints, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

MAX_CHAIN_CAS = 6  # Intel's on-die CA has four between EK and root
MAX_SIGNATURE_CHECKS = 64
MIN_RSA_BITS = 2048

OID_EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")

_STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_SUBJECT_DIRECTORY_ATTRIBUTES = ExtensionOID.SUBJECT_DIRECTORY_ATTRIBUTES
_KNOWN_OF_ALL = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)
_KNOWN_OF_LEAF = _KNOWN_OF_ALL | {ExtensionOID.SUBJECT_ALTERNATIVE_NAME, _SUBJECT_DIRECTORY_ATTRIBUTES}
E = TypeVar("E", bound=x509.ExtensionType)

_SIGNATURE_ERRORS = (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError)


class PathError(Exception):
    """There is no valid path; the message says why the candidate that came furthest failed."""


def find_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """The certificates from `leaf` to one of `roots`, which are trusted as they are; raises PathError.

    1. The leaf is valid at `now`, no CA, and has no critical extension that is not looked at.
    2. Each issuer is a CA that may sign certificates, is valid at `now`, has the issuer's name, and its key verifies
       the certificate below, by SHA-256 or better and RSA of 2048 bits or an ECDSA key.
    3. No issuer has more CAs below it than its path length allows; at most six CAs in all.

    Intermediates of a CA that issues EK certificates for one purpose only must name that purpose.
    """
    _check_leaf(leaf, now)
    return _Search(intermediates, roots, now).climb((leaf,))


class _Search:
    """Depth first over the issuers by name, with a limit on the signatures that are verified."""

    def __init__(
        self, intermediates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime
    ) -> None:
        self._roots = frozenset(roots)
        self._candidates = [*roots, *(between for between in intermediates if between not in self._roots)]
        self._now = now
        self._left = MAX_SIGNATURE_CHECKS

    def climb(self, path: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
        """The first valid path that begins with `path`; PathError."""
        below = path[-1]
        problem = f"no certificate of issuer {show(below.issuer)!r} is here"
        for issuer in self._candidates:
            if issuer.subject != below.issuer or issuer in path:
                continue
            try:
                self._check_issuer(issuer, below, cas_below=len(path) - 1)
                longer = (*path, issuer)
                return longer if issuer in self._roots else self.climb(longer)
            except PathError as error:
                problem = str(error)
        raise PathError(problem)

    def _check_issuer(self, issuer: x509.Certificate, below: x509.Certificate, cas_below: int) -> None:
        name = show(issuer.subject)
        _check_critical(issuer, _KNOWN_OF_ALL, name)
        _check_validity(issuer, self._now, name)
        constraints = _extension(issuer, x509.BasicConstraints)
        if constraints is None or not constraints.ca:
            raise PathError(f"{name}: is not a CA")
        if constraints.path_length is not None and constraints.path_length < cas_below:
            raise PathError(f"{name}: allows {constraints.path_length} CAs below it, found {cas_below}")
        if cas_below >= MAX_CHAIN_CAS:
            raise PathError(f"{name}: the path has more than {MAX_CHAIN_CAS} CAs")
        usage = _extension(issuer, x509.KeyUsage)
        if usage is None or not usage.key_cert_sign:
            raise PathError(f"{name}: may not sign certificates")
        purposes = _extension(issuer, x509.ExtendedKeyUsage)
        if purposes is not None and not {OID_EK_CERTIFICATE, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(
            purposes
        ):
            raise PathError(f"{name}: is a CA for other purposes than EK certificates")
        self._check_signature(issuer, below, name)

    def _check_signature(self, issuer: x509.Certificate, below: x509.Certificate, name: str) -> None:
        if self._left == 0:
            raise PathError(f"more than {MAX_SIGNATURE_CHECKS} signatures to verify")
        self._left -= 1
        try:
            key, digest = issuer.public_key(), below.signature_hash_algorithm
            if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
                raise PathError(f"{name}: RSA key of {key.key_size} bits, expected {MIN_RSA_BITS} at least")
            if not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
                raise PathError(f"{name}: its key is neither RSA nor ECDSA")
            if not isinstance(digest, _STRONG_HASHES):
                found = "no hash" if digest is None else digest.name
                raise PathError(f"{show(below.subject)}: signed over {found}, expected SHA-256 or better")
            below.verify_directly_issued_by(issuer)
        except _SIGNATURE_ERRORS as error:
            raise PathError(f"{show(below.subject)}: the key of {name} does not verify its signature") from error


def show(name: x509.Name) -> str:
    """A distinguished name for messages."""
    return name.rfc4514_string()[:200] or "(empty name)"


def _check_leaf(leaf: x509.Certificate, now: datetime) -> None:
    _check_critical(leaf, _KNOWN_OF_LEAF, "the EK certificate")
    _check_validity(leaf, now, "the EK certificate")
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise PathError("the EK certificate is a CA certificate")


def _check_critical(certificate: x509.Certificate, known: frozenset[x509.ObjectIdentifier], name: str) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in known:
            raise PathError(f"{name}: critical extension {extension.oid.dotted_string} is not understood")


def _check_validity(certificate: x509.Certificate, now: datetime, name: str) -> None:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise PathError(
            f"{name}: valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d}, not on {now:%Y-%m-%d}"
        )


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
