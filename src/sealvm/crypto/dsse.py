"""DSSE envelopes (Dead Simple Signing Envelope, protocol version 1) signed with ECDSA P-256.

securesystemslib does the pre-authentication encoding and the verification; this adapter adds what it leaves to the
caller: a size limit, strict JSON and base64, the payload type, and which keys count.

    {"payload": base64, "payloadType": "application/vnd.sealvm...", "signatures": [{"keyid": hex, "sig": base64 DER}]}
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature, SSlibKey  # type: ignore[attr-defined]

from sealvm.crypto import canonical
from sealvm.crypto.ec import Signer, keyid_of, spki_pem
from sealvm.errors import MalformedError, SignatureRefused, UntrustedRefused

MAX_ENVELOPE_BYTES = 32 * 1024 * 1024
MAX_SIGNATURES = 8
_MAX_SIGNATURE_BYTES = 256
_KEYID_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """A payload that an accepted key signed as this payload type."""

    payload: bytes
    keyid: str
    payload_type: str


@dataclass(frozen=True, slots=True)
class UnverifiedPayload:
    """A payload that nobody vouches for; to be shown, never to be acted upon."""

    payload: bytes
    keyids: tuple[str, ...]


def sign_envelope(payload_type: str, payload: bytes, signer: Signer) -> bytes:
    """An envelope around `payload` with one signature, as canonical JSON."""
    envelope = Envelope(payload, payload_type, {})
    signature = signer.sign_digest(_digest(envelope))
    envelope.signatures[signer.keyid] = Signature(signer.keyid, signature.hex())
    return canonical.dumps(envelope.to_dict())


def verify_envelope(envelope: bytes, payload_type: str, points: Iterable[bytes], what: str) -> VerifiedPayload:
    """The payload, only if one of the keys at `points` signed it as `payload_type`.

    1. The envelope has at most 32 MiB and the form above, with 1 to 8 signatures; else MalformedError.
    2. Its payload type is the expected one; else SignatureRefused.
    3. At least one signature names an accepted key; else UntrustedRefused.
    4. One of those verifies; else SignatureRefused.

    The caller must still check that the payload is well formed, and fresh where that matters.
    """
    parsed = _parse(envelope, what)  # 1
    if parsed.payload_type != payload_type:  # 2
        raise SignatureRefused(
            f"{what}: payload type is {parsed.payload_type[:100]!r}, expected {payload_type!r}",
            expected=payload_type,
            actual=parsed.payload_type[:100],
        )
    accepted = {keyid_of(point): point for point in points}
    candidates = [keyid for keyid in parsed.signatures if keyid in accepted]
    if not candidates:  # 3
        signers = ", ".join(keyid[:16] for keyid in parsed.signatures)
        raise UntrustedRefused(
            f"{what}: signed by key {signers}, which is not among the {len(accepted)} accepted",
            hint="the signer must be trusted for this first",
            keyids=sorted(parsed.signatures),
        )
    keys: list[Key] = [_library_key(keyid, accepted[keyid]) for keyid in candidates]
    try:
        verified = parsed.verify(keys, threshold=1)  # 4
    except (VerificationError, UnverifiedSignatureError):
        raise SignatureRefused(
            f"{what}: signature by key {candidates[0][:16]} does not verify", keyid=candidates[0]
        ) from None
    return VerifiedPayload(payload=parsed.payload, keyid=next(iter(verified)), payload_type=payload_type)


def unverified_payload(envelope: bytes, payload_type: str, what: str) -> UnverifiedPayload:
    """The payload and who claims to have signed it, for display only. MalformedError; checks no signature."""
    parsed = _parse(envelope, what)
    if parsed.payload_type != payload_type:
        raise MalformedError(f"{what}: payload type is {parsed.payload_type[:100]!r}, expected {payload_type!r}")
    return UnverifiedPayload(payload=parsed.payload, keyids=tuple(parsed.signatures))


def _parse(envelope: bytes, what: str) -> Envelope:
    obj = canonical.loads(envelope, what, MAX_ENVELOPE_BYTES)
    if not isinstance(obj, dict) or set(obj) != {"payload", "payloadType", "signatures"}:
        raise MalformedError(f"{what}: not a DSSE envelope with payload, payloadType and signatures")
    payload_type, entries = obj["payloadType"], obj["signatures"]
    if not isinstance(payload_type, str) or not isinstance(entries, list):
        raise MalformedError(f"{what}: payloadType must be a string and signatures a list")
    if not 1 <= len(entries) <= MAX_SIGNATURES:
        raise MalformedError(f"{what}: {len(entries)} signatures, expected 1 to {MAX_SIGNATURES}")
    signatures: dict[str, Signature] = {}
    for entry in entries:
        signature = _parse_signature(entry, what)
        if signature.keyid in signatures:
            raise MalformedError(f"{what}: two signatures by key {signature.keyid[:16]}")
        signatures[signature.keyid] = signature
    return Envelope(_base64(obj["payload"], f"{what}: payload"), payload_type, signatures)


def _parse_signature(entry: Any, what: str) -> Signature:
    if not isinstance(entry, dict) or set(entry) != {"keyid", "sig"}:
        raise MalformedError(f"{what}: a signature must have keyid and sig, and nothing else")
    keyid = entry["keyid"]
    if not isinstance(keyid, str) or len(keyid) != _KEYID_CHARACTERS or not set(keyid) <= set("0123456789abcdef"):
        raise MalformedError(f"{what}: a keyid must be 64 lower-case hex digits")
    value = _base64(entry["sig"], f"{what}: signature")
    if not 0 < len(value) <= _MAX_SIGNATURE_BYTES:
        raise MalformedError(f"{what}: signature has {len(value)} bytes, at most {_MAX_SIGNATURE_BYTES} are expected")
    return Signature(keyid, value.hex())


def _base64(value: Any, what: str) -> bytes:
    if not isinstance(value, str):
        raise MalformedError(f"{what}: not a string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError(f"{what}: not base64") from None


def _digest(envelope: Envelope) -> bytes:
    return hashlib.sha256(envelope.pae()).digest()


def _library_key(keyid: str, point: bytes) -> SSlibKey:
    return SSlibKey(keyid, "ecdsa", "ecdsa-sha2-nistp256", {"public": spki_pem(point)})
