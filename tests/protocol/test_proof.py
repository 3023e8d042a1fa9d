"""Request proofs: each check refuses, and a second JOSE library's view of them agrees."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from sealvm.crypto.ec import SoftwareSigner, der_to_raw, spki_pem
from sealvm.errors import AccessRefused
from sealvm.protocol.proof import VerifiedProof, make_proof, verify_proof

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
URL = "https://127.0.0.1:8443/v1/sync"
SIGNER = SoftwareSigner.generate()
JTI = bytes(range(16))


def proof(method: str = "POST", url: str = URL, body: bytes = b"{}", now: datetime = NOW, jti: bytes = JTI) -> str:
    return make_proof(SIGNER, method, url, body, now=now, jti=jti)


def check(text: str, method: str = "POST", url: str = URL, body: bytes = b"{}", now: datetime = NOW) -> VerifiedProof:
    return verify_proof(text, method, frozenset({url, "https://other/v1/sync"}), body, now)


def test_verifies() -> None:
    verified = check(proof())
    assert verified.keyid == SIGNER.keyid
    assert verified.point == SIGNER.point
    assert verified.jti == JTI.hex()
    assert verified.expires > NOW + timedelta(seconds=120)


def test_another_library_accepts_it() -> None:
    key = ECKey.import_key(spki_pem(SIGNER.point))
    parsed = jws.deserialize_compact(proof(), key, algorithms=["ES256"])
    assert json.loads(parsed.payload)["htm"] == "POST"
    assert parsed.headers()["typ"] == "dpop+jwt"


@pytest.mark.parametrize("seconds", [-60, 60])
def test_the_window_is_a_minute(seconds: int) -> None:
    check(proof(), now=NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (proof(), {"method": "GET"}, "method or URL"),
        (proof(), {"url": URL + "/challenge"}, "method or URL"),
        (proof(url="https://evil/v1/sync"), {}, "method or URL"),
        (proof(), {"now": NOW + timedelta(seconds=61)}, "within 60 s"),
        (proof(), {"now": NOW - timedelta(seconds=61)}, "within 60 s"),
        (proof(), {"body": b"{ }"}, "another body"),
        (proof(jti=b"short"), {}, "jti"),
        ("", {}, "compact JWT"),
        ("a.b", {}, "compact JWT"),
        ("a.b.c.d", {}, "compact JWT"),
        ("a.b.é", {}, "compact JWT"),
        ("x" * 2049, {}, "compact JWT"),
        ("!.b.c", {}, "header"),
    ],
)
def test_refused(text: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(AccessRefused, match=message):
        check(text, **arguments)  # type: ignore[arg-type]


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _with_header(**changes: object) -> str:
    head, rest = proof().split(".", 1)
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    header |= changes
    return f"{_encoded(header)}.{rest}"


@pytest.mark.parametrize(
    "text",
    [
        _with_header(alg="none"),
        _with_header(alg="HS256"),
        _with_header(typ="jwt"),
        _with_header(kid="x"),
        _with_header(jwk={"kty": "oct", "k": "AA"}),
        _with_header(jwk={"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        _with_header(jwk={"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        _with_header(jwk={"kty": "EC", "crv": "P-256", "x": 7, "y": []}),
        _with_header(jwk=7),
    ],
)
def test_other_headers(text: str) -> None:
    with pytest.raises(AccessRefused, match=r"header|jwk"):
        check(text)


def test_another_key_in_the_header() -> None:
    other = SoftwareSigner.generate()
    jwk = {"kty": "EC", "crv": "P-256"} | {
        name: base64.urlsafe_b64encode(part).rstrip(b"=").decode()
        for name, part in (("x", other.point[1:33]), ("y", other.point[33:]))
    }
    with pytest.raises(AccessRefused, match="signature"):
        check(_with_header(jwk=jwk))


def test_altered_claims() -> None:
    head, _claims, signature = proof().split(".")
    claims = _encoded({"htm": "POST", "htu": URL, "iat": int(NOW.timestamp()), "jti": "00" * 16, "bsh": "x"})
    with pytest.raises(AccessRefused, match="signature"):
        check(f"{head}.{claims}.{signature}")


@pytest.mark.parametrize("signature", ["", "AA", base64.urlsafe_b64encode(bytes(64)).rstrip(b"=").decode(), "A" * 87])
def test_signatures_that_are_none(signature: str) -> None:
    with pytest.raises(AccessRefused, match="signature"):
        check(f"{proof().rsplit('.', 1)[0]}.{signature}")


@pytest.mark.parametrize("claims", [{"htu": [URL]}, {"htu": {}}, {"iat": 10**400}, {"iat": -(10**400)}, {"iat": True}])
def test_claims_of_another_kind_are_refused_and_no_fault(claims: dict[str, object]) -> None:
    head, body, _signature = proof().split(".")
    changed = json.loads(base64.urlsafe_b64decode(body + "==")) | claims
    signed = f"{head}.{_encoded(changed)}"
    raw = der_to_raw(SIGNER.sign_digest(hashlib.sha256(signed.encode()).digest()))
    with pytest.raises(AccessRefused, match=r"URL|within 60 s"):
        check(f"{signed}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}")
