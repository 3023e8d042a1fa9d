"""The key schedule: what is derived from K, and the commitment that fixes K (docs/spec/package-v1.md, section 4).

K is 32 random bytes, fresh for every build, so every key below is used with one set of messages only.
"""

from __future__ import annotations

import hmac

from sealvm.crypto.kdf import hkdf
from sealvm.errors import IntegrityRefused
from sealvm.secret import Secret

KEY_BYTES = 32
LINEAGE_BYTES = 16
COMMITMENT_BYTES = 32


def context(lineage: bytes, version: int) -> tuple[bytes, bytes]:
    """The parts that bind a key or AAD to one version of one image: 16 bytes lineage id, u64 version."""
    return lineage, version.to_bytes(8, "big")


def index_root_key(key: Secret, lineage: bytes, version: int) -> Secret:
    """The key of the index's root, 32 bytes."""
    return hkdf(key, "index-root", *context(lineage, version))


def index_page_key(key: Secret, lineage: bytes, version: int) -> Secret:
    """The key of the index's pages, 32 bytes."""
    return hkdf(key, "index-page", *context(lineage, version))


def commitment(key: Secret, lineage: bytes, version: int) -> bytes:
    """32 public bytes that fit no other K: HKDF-SHA256 is collision resistant in its key. Says nothing about K."""
    return hkdf(key, "commitment", *context(lineage, version), length=COMMITMENT_BYTES).reveal()


def check_commitment(key: Secret, expected: bytes, lineage: bytes, version: int) -> None:
    """Raise IntegrityRefused unless K is the one that the signed header fixes. In constant time."""
    if len(key) != KEY_BYTES or not hmac.compare_digest(commitment(key, lineage, version), expected):
        raise IntegrityRefused(
            "the unwrapped package key is not the one the header commits to",
            hint="the recipients were altered, or belong to another package; fetch the package again",
        )
