from __future__ import annotations

import hashlib
import pickle

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto.ec import (
    SoftwareSigner,
    der_to_raw,
    keyid_of,
    load_point,
    point_from_pem,
    point_of,
    raw_to_der,
    spki_pem,
    verify_digest,
)
from sealvm.errors import MalformedError, SignatureRefused
from sealvm.secret import Secret

DIGEST = hashlib.sha256(b"message").digest()
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SIGNER = SoftwareSigner.generate()


def test_point_and_keyid() -> None:
    key = load_point(SIGNER.point)
    assert point_of(key) == SIGNER.point and len(SIGNER.point) == 65
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert keyid_of(SIGNER.point) == SIGNER.keyid == hashlib.sha256(der).hexdigest()
    assert point_from_pem(spki_pem(SIGNER.point).encode()) == SIGNER.point


def test_signature_is_over_the_digest_as_it_is() -> None:
    signature = SIGNER.sign_digest(DIGEST)
    verify_digest(SIGNER.point, DIGEST, signature)
    key = load_pem_public_key(spki_pem(SIGNER.point).encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(signature, b"message", ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(
    ("point", "digest", "alter"),
    [
        (SoftwareSigner.generate().point, DIGEST, False),
        (SIGNER.point, hashlib.sha256(b"other").digest(), False),
        (SIGNER.point, DIGEST, True),
    ],
)
def test_wrong_signature_is_refused(point: bytes, digest: bytes, alter: bool) -> None:
    signature = SIGNER.sign_digest(DIGEST)
    if alter:
        signature = signature[:-1] + bytes([signature[-1] ^ 1])
    with pytest.raises(SignatureRefused):
        verify_digest(point, digest, signature)


@pytest.mark.parametrize("signature", [b"", b"\x30\x00", b"x" * 70, encode_dss_signature(0, 0)])
def test_no_signature_at_all_is_refused(signature: bytes) -> None:
    with pytest.raises(SignatureRefused):
        verify_digest(SIGNER.point, DIGEST, signature)


@pytest.mark.parametrize("size", [0, 20, 31, 33, 64])
def test_digest_of_another_size_is_malformed(size: int) -> None:
    with pytest.raises(MalformedError, match="expected 32 bytes"):
        SIGNER.sign_digest(bytes(size))
    with pytest.raises(MalformedError, match="expected 32 bytes"):
        verify_digest(SIGNER.point, bytes(size), b"")


@pytest.mark.parametrize(
    "point",
    [
        b"", b"\x04", bytes(65), b"\x04" + bytes(64), SIGNER.point[:-1], SIGNER.point + b"\0",
        b"\x02" + SIGNER.point[1:33], b"\x06" + SIGNER.point[1:], SIGNER.point[:-1] + bytes([SIGNER.point[-1] ^ 1]),
    ],
)  # fmt: skip
def test_bad_points(point: bytes) -> None:
    for use in (load_point, keyid_of, spki_pem):
        with pytest.raises(MalformedError, match="point"):
            use(point)


def test_other_keys_are_malformed() -> None:
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(MalformedError, match="P-256"):
        point_of(p384)
    with pytest.raises(MalformedError, match="P-256"):
        point_from_pem(p384.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(MalformedError, match="not PEM"):
        point_from_pem(b"nonsense")


def test_private_key_forms() -> None:
    assert SoftwareSigner.from_scalar(SIGNER.scalar()).point == SIGNER.point
    passphrase = Secret(b"correct horse")
    pem = SIGNER.to_pem(passphrase)
    assert b"ENCRYPTED" in pem and SIGNER.scalar().reveal() not in pem
    assert SoftwareSigner.from_pem(pem, passphrase).point == SIGNER.point
    with pytest.raises(MalformedError, match="passphrase"):
        SoftwareSigner.from_pem(pem, Secret(b"wrong"))
    with pytest.raises(MalformedError, match="passphrase"):
        SoftwareSigner.from_pem(b"nonsense", passphrase)
    p384 = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(MalformedError, match="P-256"):
        SoftwareSigner(p384)


@pytest.mark.parametrize(
    "scalar", [b"", bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32, b"\1" * 31, b"\0" + b"\1" * 32]
)
def test_scalar_out_of_range_is_malformed(scalar: bytes) -> None:
    with pytest.raises(MalformedError, match="scalar"):
        SoftwareSigner.from_scalar(Secret(scalar))


def test_signer_does_not_show_its_key() -> None:
    assert SIGNER.scalar().reveal().hex() not in repr(SIGNER)
    with pytest.raises(TypeError):
        pickle.dumps(SIGNER)


@given(st.integers(1, ORDER - 1), st.integers(1, ORDER - 1))
def test_raw_and_der(r: int, s: int) -> None:
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert raw_to_der(raw) == encode_dss_signature(r, s)
    assert der_to_raw(raw_to_der(raw)) == raw


@pytest.mark.parametrize("der", [b"", b"x", encode_dss_signature(0, 1), encode_dss_signature(1, ORDER)])
def test_bad_der(der: bytes) -> None:
    with pytest.raises(MalformedError, match="ECDSA"):
        der_to_raw(der)


@pytest.mark.parametrize("raw", [b"", bytes(64), b"\xff" * 64, b"\1" * 63])
def test_bad_raw(raw: bytes) -> None:
    with pytest.raises(MalformedError, match="ECDSA"):
        raw_to_der(raw)
