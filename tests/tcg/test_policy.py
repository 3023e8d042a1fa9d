from __future__ import annotations

import hashlib

import pytest

from sealvm.crypto.labels import label_digest
from sealvm.errors import MalformedError
from sealvm.tcg import policy


def test_import_parent_policy_is_the_published_one() -> None:
    expected = "81105566eee8ec03d6fccd2ac8faf9632698806031ec55d76140769a99184765"
    assert expected == policy.IMPORT_PARENT_POLICY.hex()


def test_formulas() -> None:
    """docs/spec/tpm-policy-v1.md, "Policy digests", written out once more."""

    def h(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    zero, name, ref, d = bytes(32), b"\x00\x0b" + b"n" * 32, b"r" * 32, b"d" * 32
    code = bytes.fromhex
    assert policy.authorize(name, ref) == h(h(zero, code("0000016A"), name), ref)
    assert policy.secret(d, name) == h(h(d, code("00000151"), name))
    assert policy.signed(d, name, ref) == h(h(d, code("00000160"), name), ref)
    assert policy.counter_timer(d, 9) == h(d, code("0000016D"), h(code("00000009"), code("0010"), code("0000")))
    assert policy.cmd(d, 0x154) == h(d, code("0000016C"), code("00000154"))
    assert policy.pcr(d, (7, 0), b"p" * 32) == h(d, code("0000017F 00000001 000B 03 810000"), b"p" * 32)
    assert policy.profile_key_policy(name, ref) == policy.cmd(policy.authorize(name, ref), 0x154)
    assert policy.approved_standing((0,), d) == policy.pcr(zero, (0,), d)


def test_profile_ref() -> None:
    expected = label_digest("profile", b"web", b"\0\0\0\7", b"rack-1", b"standing")
    assert policy.profile_ref("web", 7, "rack-1", "standing") == expected
    for mode in policy.MODES:
        policy.profile_ref("web", 1, "", mode)


@pytest.mark.parametrize(
    ("epoch", "mode"), [(0, "standing"), (-1, "standing"), (2**32, "standing"), (1, "other"), (1, "")]
)
def test_profile_ref_refuses(epoch: int, mode: str) -> None:
    with pytest.raises(MalformedError):
        policy.profile_ref("web", epoch, "", mode)


def test_or_takes_2_to_8_branches() -> None:
    assert policy.or_(*[bytes(32)] * 8)
    for n in (0, 1, 9):
        with pytest.raises(ValueError, match="2 to 8"):
            policy.or_(*[bytes(32)] * n)
