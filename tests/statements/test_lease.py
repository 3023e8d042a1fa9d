"""What the lease key signs, and everything it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import MalformedError, SignatureRefused
from sealvm.statements.lease import (
    MAX_SECONDS,
    LeaseKey,
    authorization_digest,
    expiration_of,
    grant_digest,
    quote_data,
    sign_authorization,
    sign_lease,
    verify_lease,
)
from sealvm.tcg import policy

LEASE = SoftwareSigner.generate()
KEY = LeaseKey("web", 1, "", b"\x00\x0b" + b"s" * 32, LEASE.point)
NONCE = b"n" * 32


def test_signed_lease_verifies_for_exactly_this_key_and_session() -> None:
    lease = sign_lease(LEASE, KEY, reset_count=3, nonce_tpm=NONCE, seconds=3600)
    verify_lease(lease, KEY, NONCE)
    for key, nonce in (
        (replace(KEY, profile="db"), NONCE),
        (replace(KEY, epoch=2), NONCE),
        (replace(KEY, cell="rack"), NONCE),
        (replace(KEY, lease_point=SoftwareSigner.generate().point), NONCE),
        (replace(KEY, srk_name=b"\x00\x0b" + b"t" * 32), NONCE),
        (KEY, b"m" * 32),
    ):
        with pytest.raises(SignatureRefused):
            verify_lease(lease, key, nonce)
    for changed in ({"seconds": 7200}, {"reset_count": 4}, {"grant": lease.authorization}):
        with pytest.raises(SignatureRefused):
            verify_lease(replace(lease, **changed), KEY, NONCE)


@pytest.mark.parametrize("size", [0, 16, 28, 31, 33, 64])
def test_nonce_of_another_size_is_never_signed(size: int) -> None:
    with pytest.raises(MalformedError, match="expected exactly 32"):
        sign_lease(LEASE, KEY, reset_count=1, nonce_tpm=bytes(size), seconds=60)
    with pytest.raises(MalformedError, match="expected exactly 32"):
        quote_data(b"c" * 32, bytes(size), KEY)


@pytest.mark.parametrize("seconds", [0, -1, -(2**31), MAX_SECONDS + 1, 2**31])
def test_term_outside_its_limits_is_never_signed(seconds: int) -> None:
    with pytest.raises(MalformedError, match="expected 1 to"):
        sign_lease(LEASE, KEY, reset_count=1, nonce_tpm=NONCE, seconds=seconds)


def test_expiration_is_negative() -> None:
    assert expiration_of(3600) == -3600


@pytest.mark.parametrize("count", [-1, 2**32])
def test_reset_count_that_is_no_u32(count: int) -> None:
    with pytest.raises(MalformedError, match="no u32"):
        authorization_digest(KEY, count)


@pytest.mark.parametrize("name", [b"", b"\x00\x0b" + b"s" * 31, b"s" * 50])
def test_srk_name_of_another_size(name: bytes) -> None:
    with pytest.raises(MalformedError, match="expected 34"):
        grant_digest(replace(KEY, srk_name=name), NONCE, 60)


def test_key_that_is_not_the_lease_key_does_not_sign() -> None:
    with pytest.raises(ValueError, match="lease key"):
        sign_authorization(SoftwareSigner.generate(), KEY, 1)


def test_references_differ() -> None:
    refs = {
        KEY.authorize_ref,
        KEY.signed_ref,
        policy.rule_ref("web", 1, ""),
        *(policy.profile_ref("web", 1, "", mode) for mode in policy.MODES),
    }
    assert len(refs) == 7


@pytest.mark.parametrize("epoch", [0, 2**32])
def test_epoch_outside_its_limits(epoch: int) -> None:
    for ref in (policy.lease_authorize_ref, policy.rule_ref):
        with pytest.raises(MalformedError, match="epoch"):
            ref("web", epoch, "")
