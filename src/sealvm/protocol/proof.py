"""Proof of possession in a host's request: a DPoP-style JWT (RFC 9449), signed by the TPM-resident request key.

Header: `{"typ": "dpop+jwt", "alg": "ES256", "jwk": {"kty", "crv", "x", "y"}}`. Claims: `htm` (method), `htu` (URL
without query), `iat` (seconds), `jti` (128 random bits, hex) and, beyond RFC 9449, `bsh`: base64url SHA-256 of the
body, so that a proof is good for one request and its very bytes. It is sent in the header `DPoP`.

Specification: docs/spec/http-api-v1.md, section 3.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from sealvm.crypto import canonical
from sealvm.crypto.ec import Signer, der_to_raw, keyid_of, load_point
from sealvm.errors import AccessRefused, MalformedError

PROOF_TYPE = "dpop+jwt"
PROOF_HEADER = "DPoP"
PROOF_CHARS_LIMIT = 2048
PROOF_WINDOW_SECONDS = 60
JTI_BYTES = 16
MAX_SECONDS = 2**53  # a larger integer is no time, and Python cannot subtract it from one
HINT = "check that this host's clock is right and that it is enrolled at this authority"


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """The signer of one request. The caller must still check that `keyid` is an enrolled host's and `jti` is new.

    `jti` must be remembered until `expires`; after that the proof is too old to be accepted anyway.
    """

    keyid: str
    point: bytes
    jti: str
    expires: datetime


def make_proof(signer: Signer, method: str, url: str, body: bytes, *, now: datetime, jti: bytes) -> str:
    """The proof for one request; `jti` is 16 fresh random bytes. Raises what the signer raises."""
    x, y = signer.point[1:33], signer.point[33:]
    header = {
        "typ": PROOF_TYPE,
        "alg": "ES256",
        "jwk": {"kty": "EC", "crv": "P-256", "x": _base64url(x), "y": _base64url(y)},
    }
    claims = {"htm": method, "htu": url, "iat": int(now.timestamp()), "jti": jti.hex(), "bsh": _body_hash(body)}
    signing_input = f"{_base64url(canonical.dumps(header))}.{_base64url(canonical.dumps(claims))}"
    signature = signer.sign_digest(hashlib.sha256(signing_input.encode()).digest())
    return f"{signing_input}.{_base64url(der_to_raw(signature))}"


def verify_proof(proof: str, method: str, urls: frozenset[str], body: bytes, now: datetime) -> VerifiedProof:
    """Who signed this request, after these checks; AccessRefused names the one that failed.

    1. form: at most 2048 characters, typ, ES256, and a P-256 public key in the header;
    2. the signature verifies under that key;
    3. `htm` and `htu` are this request's (`urls`: the forms under which this authority is known);
    4. `iat` is within 60 seconds of `now`;
    5. `bsh` is the hash of this body;
    6. `jti` has 128 bits.
    """
    point = _proof_key(proof)  # 1
    claims = _signed_claims(proof, point)  # 2
    url, issued = claims.get("htu"), claims.get("iat")
    if claims.get("htm") != method or not isinstance(url, str) or url not in urls:  # 3
        raise _refused("it is for another method or URL")
    if (
        type(issued) is not int or abs(issued) > MAX_SECONDS or abs(now.timestamp() - issued) > PROOF_WINDOW_SECONDS
    ):  # 4
        raise _refused(f"it was not made within {PROOF_WINDOW_SECONDS} s of now")
    if claims.get("bsh") != _body_hash(body):  # 5
        raise _refused("it is for another body")
    jti = claims.get("jti")
    if not isinstance(jti, str) or len(jti) != 2 * JTI_BYTES or not set(jti) <= set("0123456789abcdef"):  # 6
        raise _refused("its jti is not 128 bits in hex")
    expires = now + timedelta(seconds=2 * PROOF_WINDOW_SECONDS + 1)
    return VerifiedProof(keyid=keyid_of(point), point=point, jti=jti, expires=expires)


def _proof_key(proof: str) -> bytes:
    if len(proof) > PROOF_CHARS_LIMIT or not proof.isascii() or proof.count(".") != 2:
        raise _refused("it is not a compact JWT of at most 2048 characters")
    try:
        header = canonical.loads(_from_base64url(proof.split(".", 1)[0]), "proof header", PROOF_CHARS_LIMIT)
        if not isinstance(header, dict) or set(header) != {"typ", "alg", "jwk"}:
            raise _refused("its header is not typ, alg and jwk")
        if header["typ"] != PROOF_TYPE or header["alg"] != "ES256":
            raise _refused(f"its header is not of type {PROOF_TYPE} with ES256")
        jwk = header["jwk"]
        if (
            not isinstance(jwk, dict)
            or set(jwk) != {"kty", "crv", "x", "y"}
            or (jwk["kty"], jwk["crv"]) != ("EC", "P-256")
        ):
            raise _refused("its jwk is not a P-256 public key")
        point = b"\x04" + b"".join(_from_base64url(str(jwk[part])).rjust(32, b"\0") for part in ("x", "y"))
        load_point(point)
    except MalformedError as error:
        raise _refused("its header is malformed") from error
    return point


def _signed_claims(proof: str, point: bytes) -> dict[str, Any]:
    key = ECKey.import_key({"kty": "EC", "crv": "P-256", "x": _base64url(point[1:33]), "y": _base64url(point[33:])})
    try:
        return dict(jwt.decode(proof, key, algorithms=["ES256"]).claims)
    except (JoseError, ValueError, TypeError, json.JSONDecodeError) as error:
        raise _refused("its signature does not verify") from error


def _body_hash(body: bytes) -> str:
    return _base64url(hashlib.sha256(body).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise MalformedError("not base64url") from error


def _refused(reason: str) -> AccessRefused:
    return AccessRefused(f"request proof refused: {reason}", hint=HINT)
