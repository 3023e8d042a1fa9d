"""The public areas of every kind of key, and the check that a key is of that kind.

Specification: docs/spec/tpm-policy-v1.md, section "Objects". SRK: TCG TPM v2.0 Provisioning Guidance section 7.5.1,
with noDA as tpm2-tools and systemd make it. EKs: TCG EK Credential Profile 2.x, templates L-1 (RSA 2048), L-2 (P-256)
and H-3 (P-384, as swtpm_setup makes it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.tcg import algorithms as alg
from sealvm.tcg.marshal import b2
from sealvm.tcg.policy import IMPORT_PARENT_POLICY
from sealvm.tcg.public import RSA_DEFAULT_EXPONENT, Scheme, Symmetric, TpmtPublic, coordinates, parse_public

NO_SYMMETRIC: Final = Symmetric(alg.ALG_NULL)
AES_128_CFB: Final = Symmetric(alg.ALG_AES, 128, alg.ALG_CFB)
AES_256_CFB: Final = Symmetric(alg.ALG_AES, 256, alg.ALG_CFB)
NO_SCHEME: Final = Scheme(alg.ALG_NULL)
ECDSA_SHA256: Final = Scheme(alg.ALG_ECDSA, alg.ALG_SHA256)

_EK_POLICY_A: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_EK_POLICY_B_SHA384: Final = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)


@dataclass(frozen=True, slots=True)
class Template:
    """Every public field of one kind of key but `unique`.

    `zero_unique` says with what the `unique` field is filled when a TPM is asked to create the primary key: zero bytes
    of full size, or nothing. It enters the derivation, so the wrong one makes another key.
    """

    name: str
    type: int
    attributes: int
    symmetric: Symmetric
    scheme: Scheme = NO_SCHEME
    name_alg: int = alg.ALG_SHA256
    auth_policy: bytes = b""
    curve: int = alg.ECC_NIST_P256
    key_bits: int = 0
    zero_unique: bool = False


SRK: Final = Template("srk", alg.ALG_ECC, 0x00030472, AES_128_CFB, zero_unique=True)
"""Storage root key: fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA restricted decrypt; primary, owner."""

IMPORT_PARENT: Final = Template("import-parent", alg.ALG_ECC, 0x000304B2, AES_128_CFB, auth_policy=IMPORT_PARENT_POLICY)
"""The only parent to which profile keys are duplicated: adminWithPolicy without userWithAuth; child of the SRK."""

AK: Final = Template("ak", alg.ALG_ECC, 0x00050472, NO_SYMMETRIC, ECDSA_SHA256)
"""Attestation key: restricted signing; primary of the endorsement hierarchy."""

REQUEST_KEY: Final = Template("request-key", alg.ALG_ECC, 0x00040472, NO_SYMMETRIC, ECDSA_SHA256)
"""Signs the host's requests; child of the SRK."""

EK_RSA2048: Final = Template(
    "ek-rsa2048", alg.ALG_RSA, 0x000300B2, AES_128_CFB,
    auth_policy=_EK_POLICY_A, curve=0, key_bits=2048, zero_unique=True,
)  # fmt: skip
"""Template L-1; certificate at NV index 01C00002; use needs PolicySecret(ENDORSEMENT)."""

EK_ECC_P256: Final = Template(
    "ek-ecc-p256", alg.ALG_ECC, 0x000300B2, AES_128_CFB, auth_policy=_EK_POLICY_A, zero_unique=True
)
"""Template L-2; certificate at NV index 01C0000A; use needs PolicySecret(ENDORSEMENT)."""

EK_ECC_P384: Final = Template(
    "ek-ecc-p384", alg.ALG_ECC, 0x000300F2, AES_256_CFB,
    name_alg=alg.ALG_SHA384, auth_policy=_EK_POLICY_B_SHA384, curve=alg.ECC_NIST_P384,
)  # fmt: skip
"""Template H-3; certificate at NV index 01C00016; use needs the empty password."""

PROFILE_KEY: Final = Template("profile-key", alg.ALG_ECC, 0x00020480, NO_SYMMETRIC)
"""decrypt adminWithPolicy noDA, without userWithAuth; its authPolicy is its own, so `check_template` is not for it."""

VERIFIER: Final = Template("verifier", alg.ALG_ECC, 0x00040040, NO_SYMMETRIC, ECDSA_SHA256)
"""Public half of an approver or lease key, as hosts give it to TPM2_LoadExternal."""

EK_TEMPLATES: Final = (EK_RSA2048, EK_ECC_P256, EK_ECC_P384)
TEMPLATES: Final = {
    template.name: template for template in (SRK, IMPORT_PARENT, AK, REQUEST_KEY, *EK_TEMPLATES, PROFILE_KEY, VERIFIER)
}


def public_of(template: Template, point_or_unique: bytes = b"") -> bytes:
    """TPMT_PUBLIC of a key of this kind.

    `point_or_unique` is the uncompressed SEC1 point of an ECC key or the modulus of an RSA key; empty gives what
    TPM2_CreatePrimary and TPM2_Create take.
    """
    return _encode(template, template.auth_policy, point_or_unique)


def profile_key_public(point: bytes, auth_policy: bytes) -> bytes:
    """TPMT_PUBLIC of the profile key at `point` (65 bytes) with this `policy.profile_key_policy`; 118 bytes."""
    return _encode(PROFILE_KEY, auth_policy, point)


def verifier_public(point: bytes) -> bytes:
    """TPMT_PUBLIC of an approver or lease key at `point` (65 bytes); 88 bytes, of which every bit enters the Name."""
    return _encode(VERIFIER, b"", point)


def ek_template_of(raw: bytes) -> Template:
    """The EK template that this public area claims to follow, by type and curve.

    EnrollmentRefused (check `ek.type`) when there is none. Use `check_template` with it afterwards.
    """
    public = parse_public(raw, "ek")
    for template in EK_TEMPLATES:
        if (template.type, template.curve, template.key_bits) == (public.type, public.curve, public.key_bits):
            return template
    raise EnrollmentRefused(
        f"ek: type {public.type:04x}, curve {public.curve:04x}, {public.key_bits} bits is no known EK template",
        check="ek.type",
    )


def check_template(raw: bytes, template: Template, what: str) -> TpmtPublic:
    """The parsed public area, only if every field but `unique` is the template's and `unique` is filled.

    EnrollmentRefused, with `check` as `<what>.<field>`, and expected and actual value; MalformedError if it does not
    parse. `what` names the key, as in "import-parent". That the key lies in the right TPM and hierarchy, only
    certification says.
    """
    public = parse_public(raw, what)
    for field, read, show in _FIELDS:
        expected, actual = read(template), read(public)
        if expected != actual:
            raise EnrollmentRefused(
                f"{what}: {field} is {show(actual)}, expected {show(expected)}",
                hint="the host must make this key from the template; recreate it",
                check=f"{what}.{field}",
                expected=show(expected),
                actual=show(actual),
            )
    if public.type == alg.ALG_RSA and public.exponent not in (0, RSA_DEFAULT_EXPONENT):
        raise EnrollmentRefused(
            f"{what}: exponent is {public.exponent}, expected {RSA_DEFAULT_EXPONENT}", check=f"{what}.exponent"
        )
    if not (public.point or public.modulus):
        raise EnrollmentRefused(f"{what}: unique is empty, expected a public key", check=f"{what}.unique")
    return public


def _encode(template: Template, auth_policy: bytes, unique: bytes) -> bytes:
    head = template.type.to_bytes(2, "big") + template.name_alg.to_bytes(2, "big")
    head += template.attributes.to_bytes(4, "big") + b2(auth_policy)
    head += _encode_symmetric(template.symmetric) + _encode_scheme(template.scheme)
    if template.type == alg.ALG_RSA:
        size = template.key_bits // 8
        if unique and len(unique) != size:
            raise MalformedError(f"{template.name}: modulus of {len(unique)} bytes, expected {size}")
        modulus = unique or bytes(size if template.zero_unique else 0)
        return head + template.key_bits.to_bytes(2, "big") + bytes(4) + b2(modulus)
    size = alg.CURVE_BYTES[template.curve]
    if unique and (len(unique) != 1 + 2 * size or unique[0] != 4):
        raise MalformedError(
            f"{template.name}: point of {len(unique)} bytes, expected {1 + 2 * size} beginning with 04"
        )
    x, y = coordinates(unique) if unique else (bytes(size if template.zero_unique else 0),) * 2
    return head + template.curve.to_bytes(2, "big") + alg.ALG_NULL.to_bytes(2, "big") + b2(x) + b2(y)


def _encode_symmetric(symmetric: Symmetric) -> bytes:
    if symmetric.algorithm == alg.ALG_NULL:
        return alg.ALG_NULL.to_bytes(2, "big")
    return b"".join(n.to_bytes(2, "big") for n in (symmetric.algorithm, symmetric.key_bits, symmetric.mode))


def _encode_scheme(scheme: Scheme) -> bytes:
    hash_alg = scheme.hash_alg.to_bytes(2, "big") if scheme.hash_alg else b""
    return scheme.scheme.to_bytes(2, "big") + hash_alg


def _kdf(key: Template | TpmtPublic) -> Scheme:
    return key.kdf if isinstance(key, TpmtPublic) else NO_SCHEME


def _show_symmetric(value: Symmetric) -> str:
    return "none" if value.algorithm == alg.ALG_NULL else f"{value.algorithm:04x}-{value.key_bits}-{value.mode:04x}"


def _show_scheme(value: Scheme) -> str:
    return f"{value.scheme:04x}" + (f"-{value.hash_alg:04x}" if value.hash_alg else "")


_FIELDS: tuple[tuple[str, Callable[[Template | TpmtPublic], object], Callable[..., str]], ...] = (
    ("type", lambda key: key.type, "{:04x}".format),
    ("nameAlg", lambda key: key.name_alg, "{:04x}".format),
    ("attributes", lambda key: key.attributes, alg.describe_attributes),
    ("authPolicy", lambda key: key.auth_policy, lambda value: value.hex() or "empty"),
    ("symmetric", lambda key: key.symmetric, _show_symmetric),
    ("scheme", lambda key: key.scheme, _show_scheme),
    ("curve", lambda key: key.curve, "{:04x}".format),
    ("kdf", _kdf, _show_scheme),
    ("keyBits", lambda key: key.key_bits, str),
)
