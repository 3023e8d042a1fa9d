"""P-256 keys and ECDSA over SHA-256 digests.

A public key travels as its *point*: 65 bytes, uncompressed SEC1 (`04 || x || y`). Its *keyid* is the lower-case hex
SHA-256 of its SubjectPublicKeyInfo in DER. Signatures travel as DER (`SEQUENCE { r, s }`) and sign a 32-byte digest as
it is (prehashed), which is what a TPM does too.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from sealvm.errors import MalformedError, SignatureRefused
from sealvm.secret import Secret

P256_POINT_BYTES = 65
P256_SCALAR_BYTES = 32
DIGEST_BYTES = 32
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, SEC 2 section 2.4.2
_PREHASHED = ec.ECDSA(Prehashed(hashes.SHA256()))


def point_of(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """The point of a P-256 public key, 65 bytes. MalformedError for another curve."""
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise MalformedError("public key: not on the curve P-256")
    return public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def load_point(point: bytes) -> ec.EllipticCurvePublicKey:
    """The public key at `point`; it is on P-256 and not the point at infinity. MalformedError otherwise."""
    if len(point) != P256_POINT_BYTES or point[0] != 4:
        raise MalformedError(f"P-256 point: expected 65 bytes that begin with 04, got {len(point)} bytes")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise MalformedError("P-256 point: not on the curve") from None


def keyid_of(point: bytes) -> str:
    """Lower-case hex SHA-256 of the SubjectPublicKeyInfo DER, 64 characters. MalformedError for a bad point."""
    der = load_point(point).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def spki_pem(point: bytes) -> str:
    """The public key as PEM (`BEGIN PUBLIC KEY`). MalformedError for a bad point."""
    pem = load_point(point).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")


def point_from_pem(pem: bytes) -> bytes:
    """The point of a P-256 public key in PEM. MalformedError for anything else."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("public key: not PEM of a public key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MalformedError("public key: not an elliptic-curve key")
    return point_of(key)


def verify_digest(point: bytes, digest: bytes, signature_der: bytes) -> None:
    """Return only if `signature_der` is the ECDSA signature of the key at `point` over this 32-byte digest.

    SignatureRefused when it is not, MalformedError for a bad point or a digest of another length. The caller must
    still check that this key is the one allowed to sign this.
    """
    _check_digest(digest)
    key = load_point(point)
    try:
        key.verify(signature_der, digest, _PREHASHED)
    except (InvalidSignature, ValueError):
        raise SignatureRefused("signature does not verify", keyid=keyid_of(point)) from None


def der_to_raw(signature_der: bytes) -> bytes:
    """`r || s`, 64 bytes, from a DER signature (as JOSE and the TPM want it). MalformedError."""
    try:
        r, s = decode_dss_signature(signature_der)
    except ValueError:
        raise MalformedError("ECDSA signature: not DER of two integers") from None
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        raise MalformedError("ECDSA signature: r or s is out of range for P-256")
    return r.to_bytes(P256_SCALAR_BYTES, "big") + s.to_bytes(P256_SCALAR_BYTES, "big")


def raw_to_der(signature: bytes) -> bytes:
    """DER from `r || s`. MalformedError unless it has 64 bytes and both are in range."""
    if len(signature) != 2 * P256_SCALAR_BYTES:
        raise MalformedError(f"ECDSA signature: expected 64 bytes, got {len(signature)}")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < _ORDER and 0 < s < _ORDER):
        raise MalformedError("ECDSA signature: r or s is out of range for P-256")
    return encode_dss_signature(r, s)


class Signer(Protocol):
    """Whoever signs 32-byte digests with one P-256 key: software, custody or a TPM."""

    @property
    def point(self) -> bytes:
        """The public key, 65 bytes."""
        ...

    @property
    def keyid(self) -> str:
        """`keyid_of(point)`."""
        ...

    def sign_digest(self, digest: bytes) -> bytes:
        """The DER ECDSA signature over this 32-byte SHA-256 digest."""
        ...


class SoftwareSigner:
    """A Signer whose private key lies in this process's memory."""

    __slots__ = ("_key", "_keyid", "_point")

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._point = point_of(key.public_key())
        self._keyid = keyid_of(self._point)

    @classmethod
    def generate(cls) -> SoftwareSigner:
        """A signer with a fresh key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_scalar(cls, scalar: Secret) -> SoftwareSigner:
        """The signer with this private scalar (32 bytes, big-endian). MalformedError when out of range."""
        return cls(private_key(scalar))

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: Secret) -> SoftwareSigner:
        """The signer in an encrypted PKCS#8 PEM. MalformedError for another form, curve or passphrase."""
        try:
            key = load_pem_private_key(pem, password=passphrase.reveal())
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise MalformedError(
                "private key: not a PEM that this passphrase opens",
                hint="check that key and credential file belong together",
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise MalformedError("private key: not an elliptic-curve key")
        return cls(key)

    def to_pem(self, passphrase: Secret) -> bytes:
        """PKCS#8 PEM, encrypted under `passphrase` (not empty)."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase.reveal()))

    def scalar(self) -> Secret:
        """The private scalar, 32 bytes big-endian."""
        return Secret(self._key.private_numbers().private_value.to_bytes(P256_SCALAR_BYTES, "big"))

    @property
    def point(self) -> bytes:
        return self._point

    @property
    def keyid(self) -> str:
        return self._keyid

    def sign_digest(self, digest: bytes) -> bytes:
        _check_digest(digest)
        return self._key.sign(digest, _PREHASHED)

    def __repr__(self) -> str:
        return f"SoftwareSigner({self._keyid[:16]})"


def private_key(scalar: Secret) -> ec.EllipticCurvePrivateKey:
    """The P-256 private key with this scalar (32 bytes, big-endian). MalformedError when out of range."""
    value = int.from_bytes(scalar.reveal(), "big")
    if len(scalar) != P256_SCALAR_BYTES or not 0 < value < _ORDER:
        raise MalformedError("private scalar: not 32 bytes in the range of P-256")
    return ec.derive_private_key(value, ec.SECP256R1())


def _check_digest(digest: bytes) -> None:
    if len(digest) != DIGEST_BYTES:
        raise MalformedError(f"digest: expected 32 bytes, got {len(digest)}")
