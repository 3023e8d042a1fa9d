"""What an EK certificate must say of itself, beyond having a valid path.

Specification: TCG EK Credential Profile for TPM Family 2.0, section 3. docs/spec/enrollment-v1.md, section 5, gives the
rules, and why a certificate without extended key usage is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtensionOID

from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.tcg.ekchain import OID_EK_CERTIFICATE
from sealvm.tcg.marshal import Reader

OID_TPM_MANUFACTURER = x509.ObjectIdentifier("2.23.133.2.1")
OID_TPM_MODEL = x509.ObjectIdentifier("2.23.133.2.2")
OID_TPM_VERSION = x509.ObjectIdentifier("2.23.133.2.3")
OID_TPM_SPECIFICATION = x509.ObjectIdentifier("2.23.133.2.16")

FAMILY = "2.0"
NAME_CHARS = 128
_DER_OID_TPM_SPECIFICATION = bytes.fromhex("6781050210")
_INTEGER, _OID, _UTF8, _SEQUENCE, _SET = 0x02, 0x06, 0x0C, 0x30, 0x31


@dataclass(frozen=True, slots=True)
class TpmSpecification:
    """The TPM specification that the maker says its TPM follows."""

    family: str
    level: int
    revision: int


def check_usage(leaf: x509.Certificate) -> None:
    """Return only if the certificate is for an EK: a key that decrypts and signs nothing.

    EnrollmentRefused, check `ek.certificate-usage`:
    1. key usage is there, with key encipherment (RSA) or key agreement (ECC), and signs neither certificates nor CRLs;
    2. extended key usage names tcg-kp-EKCertificate, or is absent; and then key usage has no signature bit either.
    """
    usage = _find(leaf, ExtensionOID.KEY_USAGE)
    if not isinstance(usage, x509.KeyUsage):
        raise _usage("it has no key usage")
    wanted = "key encipherment" if _is_rsa(leaf) else "key agreement"
    if not (usage.key_encipherment if _is_rsa(leaf) else usage.key_agreement):
        raise _usage(f"its key usage lacks {wanted}")
    if usage.key_cert_sign or usage.crl_sign:
        raise _usage("its key may sign certificates")
    purposes = _find(leaf, ExtensionOID.EXTENDED_KEY_USAGE)
    if isinstance(purposes, x509.ExtendedKeyUsage):
        if OID_EK_CERTIFICATE not in purposes:
            raise _usage("its extended key usage is not tcg-kp-EKCertificate")
    elif usage.digital_signature or usage.content_commitment:
        raise _usage("it has no extended key usage, and its key may sign")


def tpm_names(leaf: x509.Certificate) -> tuple[str, str, str]:
    """Manufacturer, model and version in the directoryName of the subjectAltName, such as `id:53544D20`.

    EnrollmentRefused, check `ek.certificate-names`, when one is missing or given twice, or when the subject is empty
    and the subjectAltName is not critical (RFC 5280, section 4.1.2.6).
    """
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise _names("it has no subjectAltName") from None
    if not leaf.subject.rdns and not extension.critical:
        raise _names("its subject is empty and its subjectAltName is not critical")
    found: dict[x509.ObjectIdentifier, str] = {}
    for name in extension.value.get_values_for_type(x509.DirectoryName):
        for attribute in name:
            if attribute.oid in found:
                raise _names(f"its subjectAltName has {attribute.oid.dotted_string} twice")
            found[attribute.oid] = str(attribute.value).strip("\0 ")[:NAME_CHARS]
    wanted = {
        "manufacturer": OID_TPM_MANUFACTURER,
        "model": OID_TPM_MODEL,
        "version": OID_TPM_VERSION,
    }
    for word, oid in wanted.items():
        if not found.get(oid):
            raise _names(f"its subjectAltName names no TPM {word}")
    return found[OID_TPM_MANUFACTURER], found[OID_TPM_MODEL], found[OID_TPM_VERSION]


def tpm_specification(leaf: x509.Certificate) -> TpmSpecification | None:
    """The tPMSpecification in the subjectDirectoryAttributes; None when the certificate has none.

    EnrollmentRefused, check `ek.certificate-specification`, when it is for another TPM family than 2.0; MalformedError
    when it cannot be read.
    """
    extension = _find(leaf, ExtensionOID.SUBJECT_DIRECTORY_ATTRIBUTES)
    if not isinstance(extension, x509.UnrecognizedExtension):
        return None
    specification = None
    attributes = _only(extension.value, _SEQUENCE)
    for tag, attribute in _elements(attributes):
        parts = list(_elements(attribute)) if tag == _SEQUENCE else []
        if len(parts) != 2 or parts[0][0] != _OID or parts[1][0] != _SET:
            raise MalformedError("ek certificate: subjectDirectoryAttributes is not a list of attributes")
        if parts[0][1] == _DER_OID_TPM_SPECIFICATION:
            specification = _specification(_only(parts[1][1], _SEQUENCE))
    if specification is not None and specification.family != FAMILY:
        raise EnrollmentRefused(
            f"ek certificate: is for TPM family {specification.family[:16]!r}, expected {FAMILY!r}",
            check="ek.certificate-specification",
        )
    return specification


def _specification(data: bytes) -> TpmSpecification:
    parts = list(_elements(data))
    if [tag for tag, _value in parts] != [_UTF8, _INTEGER, _INTEGER]:
        raise MalformedError("ek certificate: tPMSpecification is not family, level, revision")
    family, level, revision = (value for _tag, value in parts)
    return TpmSpecification(
        family.decode("utf-8", "replace")[:NAME_CHARS], int.from_bytes(level, "big"), int.from_bytes(revision, "big")
    )


def _only(data: bytes, wanted: int) -> bytes:
    parts = list(_elements(data))
    if len(parts) != 1 or parts[0][0] != wanted:
        raise MalformedError(f"ek certificate: expected one DER element {wanted:02x}")
    return parts[0][1]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and contents of the DER elements in `data`, which are no longer than 64 KiB."""
    reader = Reader(data, "ek certificate")
    while reader.offset < len(data):
        tag, length = reader.u8(), reader.u8()
        if length > 0x82 or length == 0x80:
            raise MalformedError("ek certificate: a DER element with an indefinite or oversized length")
        if length > 0x80:
            length = int.from_bytes(reader.bytes(length - 0x80), "big")
        yield tag, reader.bytes(length)


def _find(leaf: x509.Certificate, oid: x509.ObjectIdentifier) -> x509.ExtensionType | None:
    try:
        return leaf.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None


def _is_rsa(leaf: x509.Certificate) -> bool:
    return isinstance(leaf.public_key(), rsa.RSAPublicKey)


def _usage(problem: str) -> EnrollmentRefused:
    return EnrollmentRefused(
        f"ek certificate: {problem}",
        hint="it certifies another kind of key than an endorsement key",
        check="ek.certificate-usage",
    )


def _names(problem: str) -> EnrollmentRefused:
    return EnrollmentRefused(
        f"ek certificate: {problem}",
        hint="a TPM that does not say its model cannot be told from a barred one",
        check="ek.certificate-names",
    )
