"""TPM structures from and to the bytes that the rest of sealvm uses, and the TCG constants that commands need.

Bytes are as in docs/spec/tpm-policy-v1.md: public areas are TPMT_PUBLIC, everything else the contents of its TPM2B
without the outer length. Raises MalformedError for bytes that are no such structure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_CC,
    TPM2_EO,
    TPM2_RH,
    TPM2_SE,
    TPM2_ST,
    TPM2_SU,
    TPMA_NV,
    TPMA_SESSION,
)
from tpm2_pytss.types import (
    TPM2B_ECC_POINT,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_NV_PUBLIC,
    TPM2B_OPERAND,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPM2B_TIMEOUT,
    TPML_DIGEST,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMS_CONTEXT,
    TPMS_ECC_POINT,
    TPMS_NV_PUBLIC,
    TPMT_HA,
    TPMT_PUBLIC,
    TPMT_RSA_DECRYPT,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_SYM_DEF,
    TPMT_SYM_DEF_OBJECT,
    TPMT_TK_AUTH,
    TPMT_TK_CREATION,
    TPMT_TK_HASHCHECK,
    TPMT_TK_VERIFIED,
    TPMU_HA,
)

from sealvm.crypto.ec import P256_POINT_BYTES, der_to_raw, raw_to_der
from sealvm.errors import MalformedError

__all__ = [
    "ESYS_TR",
    "TPM2_ALG",
    "TPM2_CAP",
    "TPM2_CC",
    "TPM2_EO",
    "TPM2_RH",
    "TPM2_SE",
    "TPM2_ST",
    "TPM2_SU",
    "TPMA_SESSION",
]

PRIVATE_LIMIT_BYTES = 1024
SECRET_LIMIT_BYTES = 512
ID_OBJECT_LIMIT_BYTES = 132
NONCE_LIMIT_BYTES = 32
TIMEOUT_LIMIT_BYTES = 64  # its contents are the TPM maker's business
TICKET_LIMIT_BYTES = 64
_CONTEXT_HEAD_BYTES = 18  # TPMS_CONTEXT before the contents of its blob
_LIBRARY_HEAD_BYTES = 6


def _at_most(contents: bytes, limit_bytes: int, what: str) -> bytes:
    if len(contents) > limit_bytes:
        raise MalformedError(f"{what}: {len(contents)} bytes, at most {limit_bytes} are allowed")
    return contents


def public_area(raw: bytes, what: str) -> Any:
    """TPM2B_PUBLIC of TPMT_PUBLIC bytes; every byte must belong to it, so that the Name is the one of `raw`."""
    try:
        area, used = TPMT_PUBLIC.unmarshal(raw)
    except TSS2_Exception as failure:
        raise MalformedError(f"{what}: not a TPMT_PUBLIC ({failure})") from failure
    if used != len(raw) or area.marshal() != raw:
        raise MalformedError(f"{what}: {len(raw)} bytes are not exactly one TPMT_PUBLIC")
    return TPM2B_PUBLIC(publicArea=area)


def public_bytes(public: Any) -> bytes:
    """TPMT_PUBLIC bytes of a TPM2B_PUBLIC."""
    return bytes(public.publicArea.marshal())


def private_area(contents: bytes) -> Any:
    """TPM2B_PRIVATE with these contents: a wrapped blob, or a duplicate."""
    return TPM2B_PRIVATE(buffer=_at_most(contents, PRIVATE_LIMIT_BYTES, "TPM2B_PRIVATE"))


def encrypted_secret(contents: bytes) -> Any:
    """TPM2B_ENCRYPTED_SECRET with these contents."""
    return TPM2B_ENCRYPTED_SECRET(secret=_at_most(contents, SECRET_LIMIT_BYTES, "TPM2B_ENCRYPTED_SECRET"))


def id_object(contents: bytes) -> Any:
    """TPM2B_ID_OBJECT with these contents."""
    return TPM2B_ID_OBJECT(credential=_at_most(contents, ID_OBJECT_LIMIT_BYTES, "TPM2B_ID_OBJECT"))


def nonce_data(nonce: bytes) -> bytes:
    """Qualifying data of an attestation: at most 32 bytes, since sealvm's nonces have that size."""
    return _at_most(nonce, NONCE_LIMIT_BYTES, "nonce")


def ecc_point(point: bytes) -> Any:
    """TPM2B_ECC_POINT of an uncompressed SEC1 point of P-256, 65 bytes."""
    if len(point) != P256_POINT_BYTES or point[0] != 4:
        raise MalformedError(f"P-256 point: expected 65 bytes that begin with 04, got {len(point)} bytes")
    return TPM2B_ECC_POINT(point=TPMS_ECC_POINT(x=point[1:33], y=point[33:65]))


def pcr_selection(indices: Iterable[int]) -> Any:
    """TPML_PCR_SELECTION of one entry: these PCRs in the SHA-256 bank."""
    return TPML_PCR_SELECTION.parse("sha256:" + ",".join(str(index) for index in sorted(indices)))


def bank_allocation(*, sha256: bool) -> Any:
    """TPML_PCR_SELECTION for TPM2_PCR_Allocate: the SHA-256 bank with all PCRs, or the SHA-1 bank in its place."""
    none, every = b"\x03" + bytes(3), b"\x03" + b"\xff" * 3
    sha1, other = int(TPM2_ALG.SHA1).to_bytes(2, "big"), int(TPM2_ALG.SHA256).to_bytes(2, "big")
    entries = sha1 + (none if sha256 else every) + other + (every if sha256 else none)
    return TPML_PCR_SELECTION.unmarshal((2).to_bytes(4, "big") + entries)[0]


def digest_list(digests: Sequence[bytes]) -> Any:
    """TPML_DIGEST."""
    return TPML_DIGEST(digests=list(digests))


def sha256_values(digest: bytes) -> Any:
    """TPML_DIGEST_VALUES with one SHA-256 digest."""
    return TPML_DIGEST_VALUES(digests=[TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=digest))])


def ecdsa_scheme() -> Any:
    """ECDSA with SHA-256, for signing commands."""
    scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA)
    scheme.details.ecdsa.hashAlg = TPM2_ALG.SHA256
    return scheme


def signature_area(signature_der: bytes) -> Any:
    """TPMT_SIGNATURE (ECDSA, SHA-256) of a DER signature."""
    raw = der_to_raw(signature_der)
    head = int(TPM2_ALG.ECDSA).to_bytes(2, "big") + int(TPM2_ALG.SHA256).to_bytes(2, "big")
    return TPMT_SIGNATURE.unmarshal(head + b"\x00\x20" + raw[:32] + b"\x00\x20" + raw[32:])[0]


def signature_der(signature: Any) -> bytes:
    """DER of a TPMT_SIGNATURE over P-256."""
    ecdsa = signature.signature.ecdsa
    return raw_to_der(bytes(ecdsa.signatureR).rjust(32, b"\0") + bytes(ecdsa.signatureS).rjust(32, b"\0"))


def no_symmetric() -> Any:
    """TPMT_SYM_DEF_OBJECT saying: no inner wrapping."""
    return TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)


def session_cipher() -> Any:
    """TPMT_SYM_DEF of parameter encryption: AES-128-CFB."""
    return TPMT_SYM_DEF.parse("aes128cfb")


def no_session_cipher() -> Any:
    """TPMT_SYM_DEF of a session without parameter encryption."""
    return TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)


def no_sensitive() -> Any:
    """TPM2B_SENSITIVE_CREATE without auth value or data."""
    return TPM2B_SENSITIVE_CREATE()


def no_hash_ticket() -> Any:
    """The TPMT_TK_HASHCHECK of an unrestricted key."""
    return TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)


def nv_space(index: int, size_bytes: int) -> Any:
    """TPM2B_NV_PUBLIC of an ordinary index that owner and holder of its (empty) password read and write."""
    attributes = TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD | TPMA_NV.AUTHWRITE | TPMA_NV.AUTHREAD | TPMA_NV.NO_DA
    return TPM2B_NV_PUBLIC(
        nvPublic=TPMS_NV_PUBLIC(nvIndex=index, nameAlg=TPM2_ALG.SHA256, attributes=attributes, dataSize=size_bytes)
    )


def no_creation_ticket() -> Any:
    """An empty TPMT_TK_CREATION."""
    return TPMT_TK_CREATION(tag=TPM2_ST.CREATION, hierarchy=TPM2_RH.NULL)


def no_rsa_scheme() -> Any:
    """TPMT_RSA_DECRYPT saying: the key's own."""
    return TPMT_RSA_DECRYPT(scheme=TPM2_ALG.NULL)


def verified_ticket(hierarchy: int, digest: bytes) -> Any:
    """A TPMT_TK_VERIFIED with any contents, as one would be read back from a file (or forged)."""
    return TPMT_TK_VERIFIED(tag=TPM2_ST.VERIFIED, hierarchy=hierarchy, digest=digest)


def altered_context(context: Any) -> Any:
    """A saved context with a bit flipped within the TPM's own part of it.

    The library puts 4 bytes and a length before that part and its own notes after it, which the TPM never sees.
    """
    raw = bytearray(context.marshal())
    raw[_CONTEXT_HEAD_BYTES + _LIBRARY_HEAD_BYTES + 48] ^= 1
    return TPMS_CONTEXT.unmarshal(bytes(raw))[0]


def operand(contents: bytes) -> Any:
    """TPM2B_OPERAND with these contents."""
    return TPM2B_OPERAND(buffer=contents)


def timeout_area(contents: bytes) -> Any:
    """TPM2B_TIMEOUT as TPM2_PolicySigned gave it."""
    bounded = _at_most(contents, TIMEOUT_LIMIT_BYTES, "TPM2B_TIMEOUT")
    return TPM2B_TIMEOUT(size=len(bounded), buffer=bounded)


def auth_ticket(digest: bytes) -> Any:
    """The TPMT_TK_AUTH of a TPM2_PolicySigned by a key of the owner hierarchy, with this digest."""
    contents = _at_most(digest, TICKET_LIMIT_BYTES, "TPMT_TK_AUTH")
    return TPMT_TK_AUTH(tag=TPM2_ST.AUTH_SIGNED, hierarchy=TPM2_RH.OWNER, digest=contents)


def timeout_bytes(timeout: Any) -> bytes:
    """Contents of a TPM2B_TIMEOUT."""
    return bytes(timeout.marshal()[2:])
