"""AES-CFB with a zero IV, as the TPM's outer wrappers use it (Part 1, section 11.4.11).

The `cryptography` library files CFB under `decrepit`; the TPM knows no other mode here. Keys are derived anew for each
use, so the constant IV repeats under no key, and an HMAC over the ciphertext always goes with it.
"""

from __future__ import annotations

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms


def encrypt_cfb(key: bytes, plaintext: bytes) -> bytes:
    """`plaintext` encrypted under a 16- or 32-byte key that is used for nothing else; same length."""
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    return encryptor.update(plaintext) + encryptor.finalize()
