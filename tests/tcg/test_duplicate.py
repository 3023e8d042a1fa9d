"""Duplication and credentials without a TPM: what is refused, and the blob taken apart. In a TPM: test_keys_tools."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from sealvm.crypto.ec import SoftwareSigner, load_point, private_key
from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.tcg import templates
from sealvm.tcg.credential import make_credential
from sealvm.tcg.duplicate import duplicate, duplicate_to_any_parent
from sealvm.tcg.kdf import KDFa, KDFe
from sealvm.tcg.marshal import Reader, b2
from sealvm.tcg.public import coordinates, name_of
from sealvm.tcg.templates import profile_key_public, public_of

KEY = SoftwareSigner.generate()
PUBLIC = profile_key_public(KEY.point, bytes(32))
PARENT = SoftwareSigner.generate()
PARENT_PUBLIC = public_of(templates.IMPORT_PARENT, PARENT.point)


def test_only_the_parent_opens_the_blob() -> None:
    """Part 1, section 23.3.2.3, from the receiver's side."""
    blob = duplicate(KEY.scalar(), PUBLIC, PARENT_PUBLIC)
    seed_reader = Reader(blob.in_sym_seed, "seed")
    x, y = seed_reader.sized16(), seed_reader.sized16()
    seed_reader.end()
    z = private_key(PARENT.scalar()).exchange(ec.ECDH(), load_point(b"\4" + x + y))
    seed = KDFe("sha256", z, "DUPLICATE", x, coordinates(PARENT.point)[0], 256)
    reader = Reader(blob.duplicate, "duplicate")
    integrity = reader.sized16()
    encrypted = reader.bytes(len(blob.duplicate) - 34)
    hmac_key = KDFa("sha256", seed, "INTEGRITY", b"", b"", 256)
    assert integrity == hmac.digest(hmac_key, encrypted + name_of(PUBLIC), "sha256")
    key = KDFa("sha256", seed, "STORAGE", name_of(PUBLIC), b"", 128)
    sensitive = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor().update(encrypted)
    assert sensitive == b2(bytes.fromhex("0023 0000 0000") + b2(KEY.scalar().reveal()))
    assert blob.public == PUBLIC


def test_fresh_for_each_call_and_fixed_for_vectors() -> None:
    first, second = (duplicate(KEY.scalar(), PUBLIC, PARENT_PUBLIC) for _ in range(2))
    assert first.duplicate != second.duplicate and first.in_sym_seed != second.in_sym_seed
    ephemeral = SoftwareSigner.generate().scalar()
    fixed = [duplicate_to_any_parent(KEY.scalar(), PUBLIC, PARENT_PUBLIC, ephemeral=ephemeral) for _ in range(2)]
    assert fixed[0] == fixed[1]


@pytest.mark.parametrize(
    "parent",
    [
        public_of(templates.SRK, PARENT.point),
        public_of(templates.AK, PARENT.point),
        PARENT_PUBLIC.replace(bytes.fromhex("000304b2"), bytes.fromhex("000304f2")),
        public_of(templates.IMPORT_PARENT),
    ],
)
def test_duplicate_refuses_another_parent(parent: bytes) -> None:
    with pytest.raises(EnrollmentRefused, match="import-parent"):
        duplicate(KEY.scalar(), PUBLIC, parent)


def test_scalar_and_public_must_belong_together() -> None:
    with pytest.raises(MalformedError, match="belong together"):
        duplicate(SoftwareSigner.generate().scalar(), PUBLIC, PARENT_PUBLIC)
    with pytest.raises(MalformedError):
        duplicate(KEY.scalar(), PUBLIC[:-1], PARENT_PUBLIC)


def test_any_parent_must_be_a_storage_key() -> None:
    with pytest.raises(MalformedError, match="storage key"):
        duplicate_to_any_parent(KEY.scalar(), PUBLIC, public_of(templates.AK, PARENT.point))


EK_PUBLIC = public_of(templates.EK_ECC_P256, SoftwareSigner.generate().point)


@pytest.mark.parametrize("secret", [b"", bytes(33)])
def test_credential_secret_size(secret: bytes) -> None:
    with pytest.raises(MalformedError, match="1 to 32"):
        make_credential(EK_PUBLIC, name_of(PUBLIC), secret)


def test_credential_wants_an_ek_and_a_name() -> None:
    assert len(make_credential(EK_PUBLIC, name_of(PUBLIC), b"x")[1]) == 68
    for raw in (PARENT_PUBLIC, EK_PUBLIC.replace(bytes.fromhex("000300b2"), bytes.fromhex("000300b0"))):
        with pytest.raises(EnrollmentRefused, match="ek"):
            make_credential(raw, name_of(PUBLIC), b"x")
    with pytest.raises(MalformedError, match="Name"):
        make_credential(EK_PUBLIC, b"", b"x")
