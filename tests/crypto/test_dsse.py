from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto import dsse
from sealvm.crypto.ec import SoftwareSigner, verify_digest
from sealvm.errors import MalformedError, SignatureRefused, UntrustedRefused

TYPE = "application/vnd.sealvm.test.v1+json"
SIGNER = SoftwareSigner.generate()
OTHER = SoftwareSigner.generate()
ENVELOPE = dsse.sign_envelope(TYPE, b"payload", SIGNER)


def verify(envelope: bytes = ENVELOPE, *points: bytes) -> dsse.VerifiedPayload:
    return dsse.verify_envelope(envelope, TYPE, points or (SIGNER.point,), "header")


def altered(**changes: Any) -> bytes:
    return json.dumps({**json.loads(ENVELOPE), **changes}).encode()


def signatures(*signers: SoftwareSigner) -> list[dict[str, str]]:
    return [json.loads(dsse.sign_envelope(TYPE, b"payload", signer))["signatures"][0] for signer in signers]


def test_verifies() -> None:
    assert verify() == dsse.VerifiedPayload(b"payload", SIGNER.keyid, TYPE)
    assert verify(ENVELOPE, OTHER.point, SIGNER.point).keyid == SIGNER.keyid


def test_signature_covers_the_dsse_encoding() -> None:
    """protocol.md of DSSE v1.0.2: PAE(type, body)."""
    pae = b"DSSEv1 %d %b %d %b" % (len(TYPE), TYPE.encode(), 7, b"payload")
    signature = base64.b64decode(json.loads(ENVELOPE)["signatures"][0]["sig"])
    verify_digest(SIGNER.point, hashlib.sha256(pae).digest(), signature)


def test_one_accepted_signature_of_several_is_enough() -> None:
    envelope = altered(signatures=signatures(OTHER, SIGNER))
    assert verify(envelope).keyid == SIGNER.keyid


def test_unknown_signer_is_untrusted() -> None:
    with pytest.raises(UntrustedRefused, match=r"header: signed by key .* not among the 1 accepted"):
        verify(ENVELOPE, OTHER.point)
    with pytest.raises(UntrustedRefused):
        dsse.verify_envelope(ENVELOPE, TYPE, (), "header")


def test_bad_signature_is_refused() -> None:
    with pytest.raises(SignatureRefused, match="does not verify"):
        verify(altered(payload=base64.b64encode(b"payloae").decode()))
    lying = [{"keyid": SIGNER.keyid, "sig": signatures(OTHER)[0]["sig"]}]
    with pytest.raises(SignatureRefused, match="does not verify"):
        verify(altered(signatures=lying))
    with pytest.raises(SignatureRefused, match="does not verify"):
        verify(altered(signatures=[{"keyid": SIGNER.keyid, "sig": "AAAA"}]))


def test_another_payload_type_is_refused_even_when_signed() -> None:
    with pytest.raises(SignatureRefused, match="payload type"):
        verify(dsse.sign_envelope("application/other", b"payload", SIGNER))
    with pytest.raises(SignatureRefused, match="does not verify"):
        dsse.verify_envelope(altered(payloadType="application/other"), "application/other", [SIGNER.point], "header")


@pytest.mark.parametrize(
    "envelope",
    [
        b"", b"[]", b"{}", b'"x"',
        altered(extra=1),
        altered(payload=1),
        altered(payload="cGF5bG9hZA"),
        altered(payload="cGF5 bG9hZA=="),
        altered(payload="cGF5bG9hZA==\n"),
        altered(payloadType=None),
        altered(signatures={}),
        altered(signatures=[]),
        altered(signatures=["x"]),
        altered(signatures=[{"keyid": SIGNER.keyid}]),
        altered(signatures=[{"keyid": "AB" * 32, "sig": "AAAA"}]),
        altered(signatures=[{"keyid": SIGNER.keyid, "sig": ""}]),
        altered(signatures=[{"keyid": SIGNER.keyid, "sig": "A" * 400}]),
        altered(signatures=[{"keyid": SIGNER.keyid, "sig": "AAAA", "x": 1}]),
        altered(signatures=signatures(SIGNER) * 2),
        altered(signatures=[{"keyid": f"{n:064x}", "sig": "AAAA"} for n in range(9)]),
        ENVELOPE.replace(b'"payload":', b'"payload":"AA==","payload":'),
    ],
)  # fmt: skip
def test_malformed(envelope: bytes) -> None:
    with pytest.raises(MalformedError, match="header"):
        verify(envelope)
    with pytest.raises(MalformedError, match="header"):
        dsse.unverified_payload(envelope, TYPE, "header")


def test_too_long_is_malformed() -> None:
    with pytest.raises(MalformedError, match="at most"):
        verify(b" " * (dsse.MAX_ENVELOPE_BYTES + 1))


def test_unverified_payload_is_another_type() -> None:
    shown = dsse.unverified_payload(altered(signatures=signatures(OTHER)), TYPE, "header")
    assert shown == dsse.UnverifiedPayload(b"payload", (OTHER.keyid,))
    with pytest.raises(MalformedError, match="payload type"):
        dsse.unverified_payload(ENVELOPE, "application/other", "header")


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_any_flipped_byte_fails_or_changes_nothing(position: int, flip: int) -> None:
    data = bytearray(ENVELOPE)
    data[position] ^= flip
    with contextlib.suppress(MalformedError, SignatureRefused, UntrustedRefused):
        assert verify(bytes(data)).payload == b"payload"
