from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import MalformedError
from sealvm.tcg import templates
from sealvm.tpm import structures

SIGNER = SoftwareSigner.generate()


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (structures.private_area, 1024),
        (structures.encrypted_secret, 512),
        (structures.id_object, 132),
        (structures.nonce_data, 32),
    ],
)
def test_contents_are_limited(make: Callable[[bytes], Any], limit: int) -> None:
    make(b"x" * limit)
    with pytest.raises(MalformedError, match=f"{limit + 1} bytes"):
        make(b"x" * (limit + 1))


@pytest.mark.parametrize(
    "point",
    [b"", SIGNER.point[:64], b"\x02" + SIGNER.point[1:], SIGNER.point + b"\0"],
    ids=["empty", "short", "compressed", "long"],
)
def test_points_are_uncompressed_p256(point: bytes) -> None:
    with pytest.raises(MalformedError, match="65 bytes"):
        structures.ecc_point(point)


def test_public_area_is_kept_byte_by_byte() -> None:
    raw = templates.verifier_public(SIGNER.point)
    assert structures.public_bytes(structures.public_area(raw, "key")) == raw


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b"", lambda raw: b"\xff" * 60]
)
def test_other_bytes_are_no_public_area(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(MalformedError, match="key"):
        structures.public_area(change(templates.verifier_public(SIGNER.point)), "key")


def test_signatures_keep_their_form() -> None:
    der = SIGNER.sign_digest(bytes(32))
    assert structures.signature_der(structures.signature_area(der)) == der
