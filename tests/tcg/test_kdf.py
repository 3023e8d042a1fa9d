"""KDFa and KDFe against values of the reference implementation's simulator, as published in go-tpm's test vectors
(github.com/google/go-tpm, tpm2/test/testvectors/kdfa.json and kdfe.json; the name of each case is theirs)."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from sealvm.tcg.kdf import KDFa, KDFe


@pytest.mark.parametrize(
    ("key", "label", "context_u", "context_v", "bits", "result"),
    [
        pytest.param(
            "", "SECRET", "fbf51f160255018bbc8efea4c36ac4fb4cbba34e9eff", "3cea0fdc2600", 200,
            "a26c73dca13a265e09eec4b0abc4ecb2bf8d26db04e8823ee6", id="30_SHA256_200",
        ),
        pytest.param(
            "e38573d849a5cfc9973f58b4535e42b7c08ef28b1b3e775375b5c66b9644be", "STORAGE",
            "00586dccbebc998087e4", "", 552,
            "968f349b066ed26be3bd4e78333eb5c5b51c26ea376efe5dfaf061a2cf7f5eb82e4fcc2a30736e30f12b48ab17efd10576a4cf33450324"
            "b3f20011628df7a07c411f8c0f6c", id="38_SHA256_552",
        ),
    ],
)  # fmt: skip
def test_kdfa(key: str, label: str, context_u: str, context_v: str, bits: int, result: str) -> None:
    arguments = [bytes.fromhex(value) for value in (context_u, context_v)]
    assert KDFa("sha256", bytes.fromhex(key), label, arguments[0], arguments[1], bits).hex() == result


def test_kdfe() -> None:
    z, u, v = (bytes.fromhex(value) for value in ("6cbfdee9e66367b676", "c303fe79ff", "79e34519a8a32f13d400"))
    assert KDFe("sha256", z, "STORAGE", u, v, 728).hex() == (  # 37_SHA256_728
        "e59560660988b3d66e3a76bcc96110cc199bfa0418dca315f7070619e04fa0b6cdb2912db3786aaa34f2cad7dcee560eed2b4c3f7566e533"
        "e4a3bba9c9364397dd2ce45a0b85dde5c83fea27b4fb20bb0125346d24e5d9321f81b2"
    )


def test_sha384_by_the_formula() -> None:
    counter, bits = (1).to_bytes(4, "big"), (256).to_bytes(4, "big")
    expected = hmac.digest(b"key", counter + b"STORAGE\0uv" + bits, "sha384")[:32]
    assert KDFa("sha384", b"key", "STORAGE", b"u", b"v", 256) == expected
    expected = hashlib.sha384(counter + b"z" * 48 + b"IDENTITY\0uv").digest()
    assert KDFe("sha384", b"z" * 48, "IDENTITY", b"u", b"v", 384) == expected


@pytest.mark.parametrize("bits", [0, -8, 7, 129])
def test_only_whole_bytes(bits: int) -> None:
    with pytest.raises(ValueError, match="cannot be derived"):
        KDFa("sha256", b"k", "STORAGE", b"", b"", bits)
    with pytest.raises(ValueError, match="cannot be derived"):
        KDFe("sha256", b"z", "STORAGE", b"", b"", bits)
