"""TPM2_MakeCredential in software: a challenge that only the TPM holding both the EK and the named key can answer.

Specification: Part 1, section 24 (credential protection), annex B.10.4 (RSA seed) and C.6.4 (ECC seed).
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealvm.errors import MalformedError
from sealvm.tcg import algorithms as alg
from sealvm.tcg.cfb import encrypt_cfb
from sealvm.tcg.kdf import KDFa, KDFe
from sealvm.tcg.marshal import b2
from sealvm.tcg.public import RSA_DEFAULT_EXPONENT, TpmtPublic, coordinates
from sealvm.tcg.templates import check_template, ek_template_of

MAX_SECRET_BYTES = 32
_LABEL = "IDENTITY"
_HASHES: dict[int, hashes.HashAlgorithm] = {alg.ALG_SHA256: hashes.SHA256(), alg.ALG_SHA384: hashes.SHA384()}
_CURVES: dict[int, ec.EllipticCurve] = {alg.ECC_NIST_P256: ec.SECP256R1(), alg.ECC_NIST_P384: ec.SECP384R1()}


def make_credential(ek_public: bytes, object_name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """(id_object, encrypted_secret): TPM2_ActivateCredential answers `secret` only where EK and object live together.

    Both are without the outer u16 length: the contents of TPM2B_ID_OBJECT (`b2(HMAC) || encrypted identity`) and of
    TPM2B_ENCRYPTED_SECRET (256 bytes for RSA, `b2(x) || b2(y)` for ECC). `ek_public` must follow an EK template, else
    EnrollmentRefused; `secret` has 1 to 32 bytes and `object_name` is a Name, else MalformedError. The caller must
    still check the EK's certificate and the object's template; the Name alone says nothing about attributes.
    """
    if not 1 <= len(secret) <= MAX_SECRET_BYTES:
        raise MalformedError(f"credential: secret of {len(secret)} bytes, expected 1 to {MAX_SECRET_BYTES}")
    if len(object_name) not in (34, 50):
        raise MalformedError(f"credential: Name of {len(object_name)} bytes, expected 34 or 50")
    ek = check_template(ek_public, ek_template_of(ek_public), "ek")
    hash_name, digest_bits = alg.HASH_NAMES[ek.name_alg], 8 * alg.DIGEST_BYTES[ek.name_alg]
    seed, encrypted_secret = _rsa_seed(ek) if ek.type == alg.ALG_RSA else _ecc_seed(ek)
    key = KDFa(hash_name, seed, "STORAGE", object_name, b"", ek.symmetric.key_bits)
    identity = encrypt_cfb(key, b2(secret))
    hmac_key = KDFa(hash_name, seed, "INTEGRITY", b"", b"", digest_bits)
    return b2(hmac.digest(hmac_key, identity + object_name, hash_name)) + identity, encrypted_secret


def _rsa_seed(ek: TpmtPublic) -> tuple[bytes, bytes]:
    """A random seed, and the same under OAEP with the label IDENTITY and its NUL (annex B.4, B.10.4)."""
    hash_alg = _HASHES[ek.name_alg]
    seed = os.urandom(hash_alg.digest_size)
    public_key = rsa.RSAPublicNumbers(RSA_DEFAULT_EXPONENT, int.from_bytes(ek.modulus, "big")).public_key()
    oaep = padding.OAEP(mgf=padding.MGF1(hash_alg), algorithm=hash_alg, label=_LABEL.encode() + b"\0")
    return seed, public_key.encrypt(seed, oaep)


def _ecc_seed(ek: TpmtPublic) -> tuple[bytes, bytes]:
    """A seed that the EK's TPM derives from an ephemeral point, and that point (annex C.6.4)."""
    curve = _CURVES[ek.curve]
    ephemeral = ec.generate_private_key(curve)
    z = ephemeral.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(curve, ek.point))
    qx, qy = coordinates(ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    ek_x, _ = coordinates(ek.point)
    hash_name = alg.HASH_NAMES[ek.name_alg]
    bits = 8 * hashlib.new(hash_name).digest_size
    return KDFe(hash_name, z, _LABEL, qx, ek_x, bits), b2(qx) + b2(qy)
