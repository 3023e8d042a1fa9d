"""Public areas (TPMT_PUBLIC) and Names.

A public area travels as TPMT_PUBLIC bytes, without the TPM2B length. Its Name is `nameAlg || H_nameAlg(TPMT_PUBLIC)`:
34 bytes for SHA-256. Specification: Part 2, section 12.2.4 (TPMT_PUBLIC) and 10.5 (Names); Part 1, section 16.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from sealvm.errors import MalformedError
from sealvm.tcg import algorithms as alg
from sealvm.tcg.marshal import Reader

MAX_PUBLIC_BYTES = 1024
RSA_DEFAULT_EXPONENT = 65537

_SCHEMES_WITH_HASH = {alg.ALG_RSASSA, alg.ALG_RSAPSS, alg.ALG_OAEP, alg.ALG_ECDSA, alg.ALG_ECDH}
_CURVES: dict[int, ec.EllipticCurve] = {alg.ECC_NIST_P256: ec.SECP256R1(), alg.ECC_NIST_P384: ec.SECP384R1()}


@dataclass(frozen=True, slots=True)
class Symmetric:
    """TPMT_SYM_DEF_OBJECT: what a storage key encrypts its children with. `algorithm` is ALG_NULL for other keys."""

    algorithm: int
    key_bits: int = 0
    mode: int = 0


@dataclass(frozen=True, slots=True)
class Scheme:
    """A signing, decryption or KDF scheme; `hash_alg` is 0 where the scheme has none."""

    scheme: int
    hash_alg: int = 0


@dataclass(frozen=True, slots=True)
class TpmtPublic:
    """A parsed public area. It is well formed; that it is what you wanted, `templates.check_template` says.

    ECC keys have `curve` and `point` (uncompressed SEC1, on the curve), RSA keys `key_bits`,
    `exponent` (0 is encoded for 65537, and shown as it is encoded) and `modulus`. `point` and `modulus` are empty when
    `unique` is empty or zero, as in the template of a key still to be made.
    """

    type: int
    name_alg: int
    attributes: int
    auth_policy: bytes
    symmetric: Symmetric
    scheme: Scheme
    raw: bytes
    curve: int = 0
    kdf: Scheme = Scheme(alg.ALG_NULL)
    point: bytes = b""
    key_bits: int = 0
    exponent: int = 0
    modulus: bytes = b""

    @property
    def name(self) -> bytes:
        """The object's Name."""
        return _name(self.name_alg, self.raw)


def parse_public(raw: bytes, what: str) -> TpmtPublic:
    """Parse an RSA or ECC (P-256, P-384) TPMT_PUBLIC with nameAlg SHA-256 or SHA-384, at most 1024 bytes.

    MalformedError, naming `what`, for anything else, including a point that is not on its curve, a unique field of
    another size than the key, or bytes after the end.
    """
    if len(raw) > MAX_PUBLIC_BYTES:
        raise MalformedError(f"{what}: {len(raw)} bytes, at most {MAX_PUBLIC_BYTES} are allowed")
    reader = Reader(raw, what)
    kind, name_alg, attributes = reader.u16(), reader.u16(), reader.u32()
    if name_alg not in alg.HASH_NAMES:
        raise MalformedError(f"{what}: nameAlg {name_alg:04x}, expected 000b (SHA-256) or 000c (SHA-384)")
    auth_policy = reader.sized16()
    if len(auth_policy) not in (0, alg.DIGEST_BYTES[name_alg]):
        raise MalformedError(f"{what}: authPolicy has {len(auth_policy)} bytes, not the size of a nameAlg digest")
    symmetric, scheme = _read_symmetric(reader), _read_scheme(reader)
    if kind == alg.ALG_ECC:
        curve, kdf = reader.u16(), _read_scheme(reader)
        point = _read_point(reader, curve)
        reader.end()
        return TpmtPublic(
            kind, name_alg, attributes, auth_policy, symmetric, scheme, bytes(raw), curve=curve, kdf=kdf, point=point
        )
    if kind == alg.ALG_RSA:
        key_bits, exponent = reader.u16(), reader.u32()
        modulus = _read_modulus(reader, key_bits)
        reader.end()
        return TpmtPublic(
            kind, name_alg, attributes, auth_policy, symmetric, scheme, bytes(raw),
            key_bits=key_bits, exponent=exponent, modulus=modulus,
        )  # fmt: skip
    raise MalformedError(f"{what}: type {kind:04x}, expected 0001 (RSA) or 0023 (ECC)")


def name_of(raw: bytes) -> bytes:
    """The Name of a public area, by its nameAlg: 34 bytes for SHA-256, 50 for SHA-384. MalformedError for others.

    Looks at nothing else in the public area.
    """
    reader = Reader(raw, "public area")
    reader.u16()
    return _name(reader.u16(), raw)


def qualified_name(hierarchy: int, *publics: bytes) -> bytes:
    """The Qualified Name of the last of `publics`, which hang one below the other under `hierarchy` (a TPM_RH value).

    QN = nameAlg || H(QN of the parent || Name); the hierarchy's own is its handle (Part 1, section 16.2).
    """
    qualified = hierarchy.to_bytes(4, "big")
    for raw in publics:
        name = name_of(raw)
        digest = hashlib.new(alg.HASH_NAMES[int.from_bytes(name[:2], "big")], qualified + name).digest()
        qualified = name[:2] + digest
    return qualified


def coordinates(point: bytes) -> tuple[bytes, bytes]:
    """X and Y of an uncompressed SEC1 point, each of the curve's size."""
    size = (len(point) - 1) // 2
    return point[1 : 1 + size], point[1 + size :]


def _name(name_alg: int, raw: bytes) -> bytes:
    if name_alg not in alg.HASH_NAMES:
        raise MalformedError(f"public area: nameAlg {name_alg:04x}, expected 000b (SHA-256) or 000c (SHA-384)")
    return name_alg.to_bytes(2, "big") + hashlib.new(alg.HASH_NAMES[name_alg], raw).digest()


def _read_symmetric(reader: Reader) -> Symmetric:
    algorithm = reader.u16()
    if algorithm == alg.ALG_NULL:
        return Symmetric(algorithm)
    if algorithm != alg.ALG_AES:
        raise MalformedError(f"{reader.what}: symmetric algorithm {algorithm:04x}, expected 0006 (AES) or 0010 (none)")
    return Symmetric(algorithm, key_bits=reader.u16(), mode=reader.u16())


def _read_scheme(reader: Reader) -> Scheme:
    scheme = reader.u16()
    if scheme in (alg.ALG_NULL, alg.ALG_RSAES):
        return Scheme(scheme)
    if scheme in _SCHEMES_WITH_HASH:
        return Scheme(scheme, hash_alg=reader.u16())
    raise MalformedError(f"{reader.what}: scheme {scheme:04x} is not supported")


def _read_modulus(reader: Reader, key_bits: int) -> bytes:
    modulus = reader.sized16()
    if not any(modulus):  # a template's empty or zero unique field
        return b""
    if len(modulus) * 8 != key_bits or modulus[0] < 0x80 or not modulus[-1] & 1:
        raise MalformedError(f"{reader.what}: modulus is not an odd number of {key_bits} bits")
    return modulus


def _read_point(reader: Reader, curve: int) -> bytes:
    if curve not in _CURVES:
        raise MalformedError(f"{reader.what}: curve {curve:04x}, expected 0003 (P-256) or 0004 (P-384)")
    x, y = reader.sized16(), reader.sized16()
    if not any(x) and not any(y):  # a template's empty or zero unique field
        return b""
    size = alg.CURVE_BYTES[curve]
    if len(x) > size or len(y) > size:
        raise MalformedError(f"{reader.what}: coordinates of {len(x)} and {len(y)} bytes, at most {size} are expected")
    point = b"\x04" + x.rjust(size, b"\0") + y.rjust(size, b"\0")
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve], point)
    except ValueError:
        raise MalformedError(f"{reader.what}: point is not on its curve") from None
    return point
