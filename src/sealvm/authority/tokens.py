"""Tokens that callers present: 256 random bits in base64url (43 characters), stored by their digest only."""

from __future__ import annotations

import base64
import hashlib

from sealvm.secret import Secret

TOKEN_BYTES = 32


def encode_token(value: bytes) -> Secret:
    """32 random bytes as a token."""
    return Secret(base64.urlsafe_b64encode(value).rstrip(b"="))


def token_digest(token: str) -> bytes:
    """What the store keeps of a token, 32 bytes. A plain hash suffices: tokens are random, not chosen."""
    return hashlib.sha256(token.encode()).digest()
