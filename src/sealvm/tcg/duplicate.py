"""Duplication blobs: how a profile key is sealed to one host's import parent, made without a TPM.

Specification: Part 1, section 23.3 (outer wrapper) and annex C.6.3 (ECC seed); docs/spec/tpm-policy-v1.md.
There is no inner wrapper. Everything here is what TPM2_Import takes, without the outer TPM2B length.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from sealvm.crypto.ec import load_point, point_of, private_key
from sealvm.errors import MalformedError
from sealvm.secret import Secret
from sealvm.tcg import algorithms as alg
from sealvm.tcg.cfb import encrypt_cfb
from sealvm.tcg.kdf import KDFa, KDFe
from sealvm.tcg.marshal import b2
from sealvm.tcg.public import TpmtPublic, coordinates, name_of, parse_public
from sealvm.tcg.templates import AES_128_CFB, IMPORT_PARENT, check_template


@dataclass(frozen=True, slots=True)
class DuplicateBlob:
    """A key encrypted to one storage parent. Only a TPM that holds the parent can use it.

    public: TPMT_PUBLIC (TPM2B_PUBLIC.publicArea). duplicate: the content of a TPM2B_PRIVATE, which is
    `b2(HMAC) || encrypted sensitive area`. in_sym_seed: the content of a TPM2B_ENCRYPTED_SECRET, which is
    `b2(Q.x) || b2(Q.y)`. None of them carries the outer u16 length. TPM2_Import takes them with an empty encryptionKey
    and symmetricAlg NULL.
    """

    public: bytes
    duplicate: bytes
    in_sym_seed: bytes


def duplicate(scalar: Secret, public: bytes, parent_public: bytes) -> DuplicateBlob:
    """Seal the P-256 key `scalar` to a host's import parent.

    The parent must have the import parent's template in every field, since under any other parent TPM2_Rewrap hands the
    key to whoever asks: EnrollmentRefused otherwise. MalformedError when `scalar` is not the private half of `public`.
    The caller must still check that the parent was certified by the host's AK.
    """
    check_template(parent_public, IMPORT_PARENT, "import-parent")
    return duplicate_to_any_parent(scalar, public, parent_public)


def duplicate_to_any_parent(
    scalar: Secret, public: bytes, parent_public: bytes, *, ephemeral: Secret | None = None
) -> DuplicateBlob:
    """Like `duplicate`, to any P-256 storage parent with AES-128-CFB, however weak.

    For the attack suite, which shows why the import parent is needed, and for vectors, which fix the ephemeral scalar
    (drawn at random when it is None). Never for a key that matters.
    """
    key, parent = parse_public(public, "key to duplicate"), parse_public(parent_public, "duplication parent")
    if point_of(private_key(scalar).public_key()) != key.point:
        raise MalformedError("key to duplicate: private scalar and public area do not belong together")
    if parent.curve != alg.ECC_NIST_P256 or parent.symmetric != AES_128_CFB or parent.name_alg != alg.ALG_SHA256:
        raise MalformedError("duplication parent: not a P-256 storage key with SHA-256 and AES-128-CFB")
    seed, in_sym_seed = _seed_to(parent, ephemeral)
    sensitive = alg.ALG_ECC.to_bytes(2, "big") + b2(b"") + b2(b"") + b2(scalar.reveal())  # authValue, seedValue empty
    name = name_of(public)
    encrypted = encrypt_cfb(KDFa("sha256", seed, "STORAGE", name, b"", 128), b2(sensitive))
    integrity = hmac.digest(KDFa("sha256", seed, "INTEGRITY", b"", b"", 256), encrypted + name, "sha256")
    return DuplicateBlob(public=public, duplicate=b2(integrity) + encrypted, in_sym_seed=in_sym_seed)


def _seed_to(parent: TpmtPublic, ephemeral: Secret | None) -> tuple[bytes, bytes]:
    """A fresh 32-byte seed and the TPMS_ECC_POINT from which the parent's TPM derives it (annex C.6.3)."""
    ephemeral_key = private_key(ephemeral) if ephemeral else ec.generate_private_key(ec.SECP256R1())
    z = ephemeral_key.exchange(ec.ECDH(), load_point(parent.point))
    qx, qy = coordinates(point_of(ephemeral_key.public_key()))
    parent_x, _ = coordinates(parent.point)
    return KDFe("sha256", z, "DUPLICATE", qx, parent_x, 256), b2(qx) + b2(qy)
