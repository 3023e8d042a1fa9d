from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given, settings
from hypothesis import strategies as st

from sealvm.crypto import hpke
from sealvm.crypto.ec import SoftwareSigner, load_point, private_key
from sealvm.errors import IntegrityRefused, MalformedError
from sealvm.secret import Secret

KEY = SoftwareSigner.generate()
SUITE = Suite(KEM.P256, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@settings(max_examples=30)
@given(st.binary(max_size=64), st.binary(max_size=100))
def test_interoperates_with_the_library(info: bytes, plaintext: bytes) -> None:
    wrap = hpke.seal(KEY.point, info, plaintext)
    assert len(wrap) == len(plaintext) + hpke.OVERHEAD_BYTES
    assert hpke.open_with_scalar(wrap, info, KEY.scalar()).reveal() == plaintext
    assert SUITE.decrypt(wrap, private_key(KEY.scalar()), info=info) == plaintext


def test_kem_of_rfc_9180() -> None:
    """RFC 9180, appendix A.3.1: the shared secret of DHKEM(P-256, HKDF-SHA256), which no AEAD enters."""
    scalar = Secret(bytes.fromhex("f3ce7fdae57e1a310d87f1ebbde6f328be0a99cdbcadf4d6589cf29de4b8ffd2"))
    public = bytes.fromhex(
        "04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a826a779b4cf969b8a0e539c7f62fb3d30ad6aa8f80e30f1d"
        "128aafd68a2ce72ea0"
    )
    enc = bytes.fromhex(
        "04a92719c6195d5085104f469a8b9814d5838ff72b60501e2c4466e5e67b325ac98536d7b61a1af4b78e5b7f951c0900be863c403ce65c9b"
        "fcb9382657222d18c4"
    )
    key = private_key(scalar)
    assert SoftwareSigner(key).point == public
    shared = hpke._extract_and_expand(key.exchange(ec.ECDH(), load_point(enc)), enc + public)
    assert shared.hex() == "c0d26aeab536609a572b07695d933b589dcf363ff9d93c93adea537aeabb8cb8"


def test_short_z_is_padded() -> None:
    """A TPM may drop leading zero bytes of the X coordinate."""
    scalar = Secret((1).to_bytes(32, "big"))
    key = private_key(scalar)
    while True:
        wrap = hpke.seal(SoftwareSigner(key).point, b"", b"x")
        z = key.exchange(ec.ECDH(), load_point(wrap[:65]))
        if z[0] == 0:
            break
    opened = hpke.open_with_dh(wrap, b"", SoftwareSigner(key).point, lambda _: z.lstrip(b"\0"))
    assert opened.reveal() == b"x"


@pytest.mark.parametrize("position", [65, 70, -1])
def test_altered_wrap_is_refused(position: int) -> None:
    wrap = bytearray(hpke.seal(KEY.point, b"info", b"secret"))
    wrap[position] ^= 1
    with pytest.raises(IntegrityRefused):
        hpke.open_with_scalar(bytes(wrap), b"info", KEY.scalar())
    with pytest.raises(InvalidTag):
        SUITE.decrypt(bytes(wrap), private_key(KEY.scalar()), info=b"info")


def test_other_key_info_or_z_is_refused() -> None:
    wrap = hpke.seal(KEY.point, b"info", b"secret")
    with pytest.raises(IntegrityRefused):
        hpke.open_with_scalar(wrap, b"other", KEY.scalar())
    with pytest.raises(IntegrityRefused):
        hpke.open_with_scalar(wrap, b"info", SoftwareSigner.generate().scalar())
    with pytest.raises(IntegrityRefused):
        hpke.open_with_dh(wrap, b"info", KEY.point, lambda _: bytes(32))


def test_malformed_before_the_dh_step() -> None:
    wrap = hpke.seal(KEY.point, b"", b"secret")

    def never(_: bytes) -> bytes:
        raise AssertionError("the TPM was asked")

    for bad in (b"", wrap[:80], bytes(65) + wrap[65:], wrap[:64] + bytes([wrap[64] ^ 1]) + wrap[65:]):
        with pytest.raises(MalformedError):
            hpke.open_with_dh(bad, b"", KEY.point, never)
    with pytest.raises(MalformedError, match="shared secret"):
        hpke.open_with_dh(wrap, b"", KEY.point, lambda _: bytes(33))
    with pytest.raises(MalformedError):
        hpke.seal(bytes(65), b"", b"secret")


def test_what_the_dh_step_raises_passes_through() -> None:
    class TpmError(Exception):
        pass

    def fail(_: bytes) -> bytes:
        raise TpmError

    with pytest.raises(TpmError):
        hpke.open_with_dh(hpke.seal(KEY.point, b"", b"x"), b"", KEY.point, fail)


@given(st.binary(max_size=200))
def test_any_bytes_are_malformed_or_refused(data: bytes) -> None:
    with pytest.raises((MalformedError, IntegrityRefused)):
        hpke.open_with_scalar(data, b"", KEY.scalar())
