"""The TPM_ALG, TPM_ECC, TPM_CC, TPM_RH and TPMA_OBJECT values that sealvm uses.

Specification: Part 2, sections 6.3, 6.4, 6.5.2, 7.4 and 8.3.
"""

from __future__ import annotations

from typing import Final

ALG_RSA: Final = 0x0001
ALG_HMAC: Final = 0x0005
ALG_AES: Final = 0x0006
ALG_SHA256: Final = 0x000B
ALG_SHA384: Final = 0x000C
ALG_NULL: Final = 0x0010
ALG_RSASSA: Final = 0x0014
ALG_RSAES: Final = 0x0015
ALG_RSAPSS: Final = 0x0016
ALG_OAEP: Final = 0x0017
ALG_ECDSA: Final = 0x0018
ALG_ECDH: Final = 0x0019
ALG_ECDAA: Final = 0x001A
ALG_ECC: Final = 0x0023
ALG_CFB: Final = 0x0043

ECC_NIST_P256: Final = 0x0003
ECC_NIST_P384: Final = 0x0004

CC_CERTIFY: Final = 0x00000148
CC_POLICY_SECRET: Final = 0x00000151
CC_ECDH_ZGEN: Final = 0x00000154
CC_IMPORT: Final = 0x00000156
CC_LOAD: Final = 0x00000157
CC_POLICY_SIGNED: Final = 0x00000160
CC_POLICY_AUTHORIZE: Final = 0x0000016A
CC_POLICY_COMMAND_CODE: Final = 0x0000016C
CC_POLICY_COUNTER_TIMER: Final = 0x0000016D
CC_POLICY_OR: Final = 0x00000171
CC_POLICY_PCR: Final = 0x0000017F

RH_OWNER: Final = 0x40000001
RH_ENDORSEMENT: Final = 0x4000000B

HASH_NAMES: Final = {ALG_SHA256: "sha256", ALG_SHA384: "sha384"}
DIGEST_BYTES: Final = {ALG_SHA256: 32, ALG_SHA384: 48}
CURVE_BYTES: Final = {ECC_NIST_P256: 32, ECC_NIST_P384: 48}

ATTRIBUTE_NAMES: Final = {
    0x00000002: "fixedTPM",
    0x00000004: "stClear",
    0x00000010: "fixedParent",
    0x00000020: "sensitiveDataOrigin",
    0x00000040: "userWithAuth",
    0x00000080: "adminWithPolicy",
    0x00000400: "noDA",
    0x00000800: "encryptedDuplication",
    0x00010000: "restricted",
    0x00020000: "decrypt",
    0x00040000: "sign",
    0x00080000: "x509sign",
}


def describe_attributes(attributes: int) -> str:
    """TPMA_OBJECT for people: hex, then the names of the bits that are set."""
    names = [name for bit, name in ATTRIBUTE_NAMES.items() if attributes & bit]
    unknown = attributes & ~sum(ATTRIBUTE_NAMES)
    if unknown:
        names.append(f"reserved {unknown:08x}")
    return f"{attributes:08x} ({' '.join(names) or 'none'})"
