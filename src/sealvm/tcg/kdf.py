"""KDFa and KDFe, the TPM's key derivations (Part 1, sections 11.4.10.2 and 11.4.10.3)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from sealvm.crypto.labels import u32


def KDFa(hash_name: str, key: bytes, label: str, context_u: bytes, context_v: bytes, bits: int) -> bytes:  # noqa: N802, PLR0917
    """`bits` (a multiple of 8) derived from `key` by HMAC in counter mode (SP 800-108). `hash_name` as hashlib's."""
    fixed = label.encode("ascii") + b"\0" + context_u + context_v + u32(bits)
    return _blocks(bits, lambda counter: hmac.digest(key, counter + fixed, hash_name))


def KDFe(hash_name: str, z: bytes, label: str, party_u: bytes, party_v: bytes, bits: int) -> bytes:  # noqa: N802, PLR0917
    """`bits` (a multiple of 8) derived from the X coordinate `z` of an ECDH secret (SP 800-56A).

    `z`, `party_u` and `party_v` are X coordinates of the curve's full size.
    """
    fixed = z + label.encode("ascii") + b"\0" + party_u + party_v
    return _blocks(bits, lambda counter: hashlib.new(hash_name, counter + fixed).digest())


def _blocks(bits: int, block: Callable[[bytes], bytes]) -> bytes:
    if bits <= 0 or bits % 8:
        raise ValueError(f"a key of {bits} bits cannot be derived")
    size, output, counter = bits // 8, b"", 1
    while len(output) < size:
        output += block(u32(counter))
        counter += 1
    return output[:size]
