"""Keys from keys: HKDF-SHA256 (RFC 5869) with empty salt and a labelled info."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealvm.crypto.labels import label_bytes
from sealvm.secret import Secret


def hkdf(key: Secret, label: str, *parts: bytes, length: int = 32) -> Secret:
    """`length` bytes derived from `key`, independent for every (label, parts).

    `info` is `label_bytes(label, *parts)`. `key` must be uniformly random and at least 16 bytes; a passphrase is not.
    """
    derivation = HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=label_bytes(label, *parts))
    return Secret(derivation.derive(key.reveal()))
