"""KDFa and KDFe, the TPM's key derivations (Part 1, sections 11.4.10.2 and 11.4.10.3), over the library's own KDFs."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}


def KDFa(hash_name: str, key: bytes, label: str, context_u: bytes, context_v: bytes, bits: int) -> bytes:  # noqa: N802, PLR0917
    """`bits` (a multiple of 8) derived from `key` by HMAC in counter mode (SP 800-108). `hash_name`: sha256 or sha384.

    HMAC(key, counter u32 || label || 00 || context_u || context_v || bits u32) for counter = 1, 2...
    """
    return KBKDFHMAC(
        algorithm=_HASHES[hash_name],
        mode=Mode.CounterMode,
        length=_byte_count(bits),
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label.encode("ascii"),
        context=context_u + context_v,
        fixed=None,
    ).derive(key)


def KDFe(hash_name: str, z: bytes, label: str, party_u: bytes, party_v: bytes, bits: int) -> bytes:  # noqa: N802, PLR0917
    """`bits` (a multiple of 8) derived from the X coordinate `z` of an ECDH secret (SP 800-56A).

    H(counter u32 || z || label || 00 || party_u || party_v) for counter = 1, 2... The caller passes `z` and X
    coordinates of the curve's full size.
    """
    other_info = label.encode("ascii") + b"\0" + party_u + party_v
    return ConcatKDFHash(_HASHES[hash_name], length=_byte_count(bits), otherinfo=other_info).derive(z)


def _byte_count(bits: int) -> int:
    if bits <= 0 or bits % 8:
        raise ValueError(f"a key of {bits} bits cannot be derived")
    return bits // 8
