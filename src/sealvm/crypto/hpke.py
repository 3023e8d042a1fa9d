"""Wraps: HPKE (RFC 9180) in base mode, with the receiver's Diffie-Hellman step done elsewhere.

Suite: DHKEM(P-256, HKDF-SHA256) 0x0010, HKDF-SHA256 0x0001, AES-256-GCM 0x0002; single shot, empty AAD.
A wrap is `enc || ciphertext || tag`: 65 + plaintext + 16 bytes. The sender is the `cryptography` library's own HPKE.
The receiver needs only the X coordinate of d*enc, which a TPM computes without giving up d (TPM2_ECDH_ZGen); the key
schedule of RFC 9180 sections 4.1 and 5.1 follows here in software.

AES-GCM does not commit to its key: one wrap can open to different plaintexts under different keys. Whoever unwraps a
package key must check it against the commitment in the signed header before using it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sealvm.crypto.ec import P256_POINT_BYTES, load_point, point_of, private_key
from sealvm.errors import IntegrityRefused, MalformedError
from sealvm.secret import Secret

TAG_BYTES = 16
OVERHEAD_BYTES = P256_POINT_BYTES + TAG_BYTES

_SUITE = Suite(KEM.P256, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_KEM_SUITE_ID = b"KEM" + bytes.fromhex("0010")
_HPKE_SUITE_ID = b"HPKE" + bytes.fromhex("001000010002")
_MODE_BASE = b"\0"
_Z_BYTES = 32


def seal(point: bytes, info: bytes, plaintext: bytes) -> bytes:
    """`plaintext` wrapped to the key at `point`; it opens only with that key and this `info`.

    The result has 81 bytes more than the plaintext. MalformedError for a bad point. It says nothing about the sender.
    """
    return _SUITE.encrypt(plaintext, load_point(point), info=info)


def open_with_dh(wrap: bytes, info: bytes, point: bytes, dh: Callable[[bytes], bytes]) -> Secret:
    """The plaintext of `wrap`, with the Diffie-Hellman step done by `dh`.

    `point` is the receiver's public key; `dh` gets the ephemeral point (65 bytes, already checked to be on the curve)
    and returns the X coordinate of the shared point (at most 32 bytes, big-endian). IntegrityRefused if the wrap does
    not open under this key and info; MalformedError if it has not the form of one; whatever `dh` raises passes through.
    """
    enc, ciphertext = wrap[:P256_POINT_BYTES], wrap[P256_POINT_BYTES:]
    if len(ciphertext) < TAG_BYTES:
        raise MalformedError(f"wrap: {len(wrap)} bytes, at least {OVERHEAD_BYTES} are expected")
    load_point(enc)
    load_point(point)
    z = dh(enc)
    if len(z) > _Z_BYTES:
        raise MalformedError(f"shared secret: {len(z)} bytes, at most {_Z_BYTES} are expected")
    shared = _extract_and_expand(z.rjust(_Z_BYTES, b"\0"), enc + point)
    key, nonce = _key_schedule(shared, info)
    try:
        return Secret(AESGCM(key).decrypt(nonce, ciphertext, None))
    except InvalidTag:
        raise IntegrityRefused("wrap does not open: another key or context, or altered bytes") from None


def open_with_scalar(wrap: bytes, info: bytes, scalar: Secret) -> Secret:
    """The plaintext of `wrap`, with the private key in memory. Raises what `open_with_dh` raises."""
    key = private_key(scalar)
    return open_with_dh(wrap, info, point_of(key.public_key()), lambda enc: key.exchange(ec.ECDH(), load_point(enc)))


def _extract_and_expand(dh: bytes, kem_context: bytes) -> bytes:
    """RFC 9180 section 4.1."""
    prk = _labeled_extract(_KEM_SUITE_ID, b"", b"eae_prk", dh)
    return _labeled_expand(_KEM_SUITE_ID, prk, b"shared_secret", kem_context, 32)


def _key_schedule(shared_secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180 section 5.1, mode_base: the AEAD key, and the nonce of the first message."""
    psk_id_hash = _labeled_extract(_HPKE_SUITE_ID, b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(_HPKE_SUITE_ID, b"", b"info_hash", info)
    context = _MODE_BASE + psk_id_hash + info_hash
    secret = _labeled_extract(_HPKE_SUITE_ID, shared_secret, b"secret", b"")
    key = _labeled_expand(_HPKE_SUITE_ID, secret, b"key", context, 32)
    return key, _labeled_expand(_HPKE_SUITE_ID, secret, b"base_nonce", context, 12)


def _labeled_extract(suite_id: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite_id + label + ikm, "sha256")


def _labeled_expand(suite_id: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled_info = length.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + info
    return HKDFExpand(algorithm=hashes.SHA256(), length=length, info=labeled_info).derive(prk)
