from __future__ import annotations

import hmac

from sealvm.crypto.kdf import hkdf
from sealvm.crypto.labels import label_bytes
from sealvm.secret import Secret


def test_is_rfc_5869_with_a_labelled_info() -> None:
    key = Secret(bytes(range(32)))
    prk = hmac.digest(bytes(32), key.reveal(), "sha256")
    first = hmac.digest(prk, label_bytes("overlay", b"a") + b"\1", "sha256")
    assert hkdf(key, "overlay", b"a") == Secret(first)
    second = hmac.digest(prk, first + label_bytes("overlay", b"a") + b"\2", "sha256")
    assert hkdf(key, "overlay", b"a", length=50) == Secret((first + second)[:50])


def test_every_label_and_part_matters() -> None:
    key = Secret(bytes(32))
    derived = [
        hkdf(key, "a").reveal(),
        hkdf(key, "b").reveal(),
        hkdf(key, "a", b"").reveal(),
        hkdf(key, "a", b"x").reveal(),
    ]
    assert len(set(derived)) == 4
    assert hkdf(Secret(b"\1" * 32), "a").reveal() != derived[0]
