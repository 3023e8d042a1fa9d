"""Domain separation: every digest and derived key of sealvm starts with a label that no other use shares.

    label_bytes(label, parts...) = "sealvm/" || label || "/v1\\0" || b2(part)...        b2(x) = u16 length, then x
    label_digest(label, parts...) = SHA-256(label_bytes(label, parts...))               "L" in the TPM policy

Specification: docs/spec/tpm-policy-v1.md, section "Notation". The encoding is injective: labels hold no NUL, and every
part carries its length.
"""

from __future__ import annotations

import hashlib

U16_MAX = 0xFFFF
U32_MAX = 0xFFFFFFFF


def u32(n: int) -> bytes:
    """`n` as 4 bytes, big-endian. ValueError outside 0..2^32-1: a caller's mistake, not outside input."""
    if not 0 <= n <= U32_MAX:
        raise ValueError(f"not a u32: {n}")
    return n.to_bytes(4, "big")


def label_bytes(label: str, *parts: bytes) -> bytes:
    """The labelled encoding of `parts`; two different (label, parts) never encode alike.

    ValueError for a label that is empty or not printable ASCII, and for a part over 65,535 bytes.
    """
    if not label or not label.isascii() or not label.isprintable():
        raise ValueError(f"a label is printable ASCII, got {label!r}")
    encoded = [b"sealvm/", label.encode("ascii"), b"/v1\0"]
    for part in parts:
        if len(part) > U16_MAX:
            raise ValueError(f"part of label {label!r} has {len(part)} bytes, at most {U16_MAX} are allowed")
        encoded += [len(part).to_bytes(2, "big"), part]
    return b"".join(encoded)


def label_digest(label: str, *parts: bytes) -> bytes:
    """SHA-256 of `label_bytes`, 32 bytes."""
    return hashlib.sha256(label_bytes(label, *parts)).digest()
