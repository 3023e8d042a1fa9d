"""EK certificate chains made for the purpose, each wrong in one way."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.tcg import ekchain, ekprofile, templates
from sealvm.tcg.ekcert import TrustRoot, VerifiedEk, ek_digest, ek_matches, strip_padding, verify_ek_certificate
from sealvm.tcg.templates import public_of

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
EK_KEY = ec.generate_private_key(ec.SECP384R1())
EK_USAGE = x509.ExtendedKeyUsage([ekchain.OID_EK_CERTIFICATE])


def usage_of(**bits: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names})


AGREES = usage_of(key_agreement=True)
TPM_NAME = x509.SubjectAlternativeName(
    [
        x509.DirectoryName(
            x509.Name(
                [
                    x509.NameAttribute(ekprofile.OID_TPM_MANUFACTURER, "id:53544D20"),
                    x509.NameAttribute(ekprofile.OID_TPM_MODEL, "ST33"),
                    x509.NameAttribute(ekprofile.OID_TPM_VERSION, "id:00010203"),
                ]
            )
        )
    ]
)


@dataclass
class Ca:
    """A certification authority; `der` is its own certificate."""

    name: str
    key: ec.EllipticCurvePrivateKey
    der: bytes = b""

    def issue(
        self,
        subject: str,
        key: object,
        extensions: Sequence[x509.ExtensionType],
        start: datetime = NOW - YEAR,
        end: datetime = NOW + YEAR,
        critical: bool = False,
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)] if subject else []))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)]))
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def child(
        self,
        name: str,
        *,
        ca: bool = True,
        cert_sign: bool = True,
        path_length: int | None = None,
        more: Sequence[x509.ExtensionType] = (),
        critical: bool = False,
    ) -> Ca:
        made = Ca(name, ec.generate_private_key(ec.SECP256R1()))
        constraints = x509.BasicConstraints(ca=ca, path_length=path_length)
        usage = usage_of(key_cert_sign=cert_sign, digital_signature=not cert_sign)
        made.der = self.issue(name, made.key.public_key(), [constraints, usage, *more], critical=critical)
        return made


def new_root(name: str = "root", path_length: int | None = None) -> Ca:
    root = Ca(name, ec.generate_private_key(ec.SECP256R1()))
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    root.der = root.issue(name, root.key.public_key(), [constraints, usage_of(key_cert_sign=True)])
    return root


LEAF_SAYS = (EK_USAGE, TPM_NAME, AGREES)
ROOT = new_root()
ISSUER = ROOT.child("issuer")
LEAF = ISSUER.issue("ek", EK_KEY.public_key(), LEAF_SAYS)


def verify(
    leaf: bytes = LEAF, between: Sequence[bytes] = (ISSUER.der,), root: Ca = ROOT, now: datetime = NOW
) -> VerifiedEk:
    return verify_ek_certificate(leaf, between, [TrustRoot(root.der, "hardware")], now)


def test_says_what_the_certificate_says() -> None:
    ek = verify()
    assert (ek.manufacturer, ek.model, ek.version) == ("id:53544D20", "ST33", "id:00010203")
    assert (ek.trust_class, ek.root, ek.certificate_der) == ("hardware", "CN=root", LEAF)


def test_trust_class_is_that_of_the_root_that_vouches() -> None:
    other = new_root("other")
    roots = [TrustRoot(other.der, "hardware"), TrustRoot(ROOT.der, "lab")]
    assert verify_ek_certificate(LEAF, [ISSUER.der], roots, NOW).trust_class == "lab"


def test_in_another_time_zone() -> None:
    assert verify(now=NOW.astimezone()) == verify()


IMPOSTOR = new_root("root")
FOR_WEB = ROOT.child("for-web", more=[x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])])
CONSTRAINED = ROOT.child("constrained", more=[x509.NameConstraints([x509.DNSName("example.org")], None)], critical=True)
OLD_ISSUER_DER = ROOT.issue(
    "issuer",
    ISSUER.key.public_key(),
    [x509.BasicConstraints(ca=True, path_length=None), usage_of(key_cert_sign=True)],
    end=NOW - timedelta(days=1),
)
NOT_CA = ROOT.child("not-ca", ca=False)
NO_CERT_SIGN = ROOT.child("no-cert-sign", cert_sign=False)
SHORT = new_root("short", path_length=0)
SHORT_ISSUER = SHORT.child("short-issuer")
DEEP = [ROOT]
for level in range(7):
    DEEP.append(DEEP[-1].child(f"deep-{level}"))


@pytest.mark.parametrize(
    ("leaf", "between", "root", "now"),
    [
        pytest.param(LEAF, [], ROOT, NOW, id="intermediate missing"),
        pytest.param(LEAF, [ISSUER.der], new_root("other"), NOW, id="unknown root"),
        pytest.param(LEAF, [ISSUER.der], IMPOSTOR, NOW, id="root of the same name"),
        pytest.param(LEAF, [ISSUER.der], ROOT, NOW + 2 * YEAR, id="expired"),
        pytest.param(LEAF, [ISSUER.der], ROOT, NOW - 2 * YEAR, id="not yet valid"),
        pytest.param(
            ISSUER.issue("ek", EK_KEY.public_key(), [*LEAF_SAYS, x509.BasicConstraints(ca=True, path_length=None)]),
            [ISSUER.der], ROOT, NOW, id="leaf is a CA",
        ),
        pytest.param(
            NOT_CA.issue("ek", EK_KEY.public_key(), LEAF_SAYS), [NOT_CA.der], ROOT, NOW, id="issuer is no CA"
        ),
        pytest.param(
            NO_CERT_SIGN.issue("ek", EK_KEY.public_key(), LEAF_SAYS), [NO_CERT_SIGN.der], ROOT, NOW,
            id="issuer may not sign",
        ),
        pytest.param(
            SHORT_ISSUER.issue("ek", EK_KEY.public_key(), LEAF_SAYS), [SHORT_ISSUER.der], SHORT, NOW,
            id="path length exceeded",
        ),
        pytest.param(
            DEEP[-1].issue("ek", EK_KEY.public_key(), LEAF_SAYS), [ca.der for ca in DEEP[1:]], ROOT, NOW,
            id="chain too deep",
        ),
        pytest.param(
            Ca("issuer", IMPOSTOR.key).issue("ek", EK_KEY.public_key(), LEAF_SAYS), [ISSUER.der], ROOT, NOW,
            id="signature by another key",
        ),
        pytest.param(
            FOR_WEB.issue("ek", EK_KEY.public_key(), LEAF_SAYS), [FOR_WEB.der], ROOT, NOW,
            id="issuer is a CA for web servers",
        ),
        pytest.param(
            CONSTRAINED.issue("ek", EK_KEY.public_key(), LEAF_SAYS), [CONSTRAINED.der], ROOT, NOW,
            id="issuer has critical name constraints",
        ),
        pytest.param(
            ISSUER.issue("ek", EK_KEY.public_key(), LEAF_SAYS), [OLD_ISSUER_DER], ROOT, NOW, id="issuer has expired"
        ),
        pytest.param(new_root("self").der, [], ROOT, NOW, id="self-signed"),
        pytest.param(ROOT.der, [], ROOT, NOW, id="the root itself"),
    ],
)  # fmt: skip
def test_refused(leaf: bytes, between: list[bytes], root: Ca, now: datetime) -> None:
    with pytest.raises(EnrollmentRefused, match="no valid chain") as refused:
        verify(leaf, between, root, now)
    assert refused.value.fields["check"] == "ek.certificate-chain"


def test_an_intermediate_can_be_the_root() -> None:
    ek = verify_ek_certificate(LEAF, [], [TrustRoot(ISSUER.der, "virtual")], NOW)
    assert (ek.trust_class, ek.root) == ("virtual", "CN=issuer")


def test_time_without_zone_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="zone"):
        verify(now=NOW.replace(tzinfo=None))


def test_refused_without_any_root() -> None:
    with pytest.raises(EnrollmentRefused, match="no root is trusted"):
        verify_ek_certificate(LEAF, [ISSUER.der], [], NOW)


def test_refused_for_another_kind_of_key() -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP521R1())):
        with pytest.raises(EnrollmentRefused):
            verify(ISSUER.issue("ek", key.public_key(), LEAF_SAYS))


def test_unknown_critical_extension_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    with pytest.raises(EnrollmentRefused):
        verify(ISSUER.issue("ek", EK_KEY.public_key(), [*LEAF_SAYS, unknown], critical=True))


def without_subject(key: object, extensions: Sequence[x509.ExtensionType], critical: bool) -> bytes:
    return ISSUER.issue("", key, extensions, critical=critical)


def test_critical_alternative_name_with_empty_subject() -> None:
    leaf = without_subject(EK_KEY.public_key(), LEAF_SAYS, critical=True)
    assert x509.load_der_x509_certificate(leaf).subject.rdns == []
    assert verify(leaf).model == "ST33"


def named(manufacturer: str = "id:53544D20", model: str = "ST33", version: str = "id:1", twice: bool = False) -> object:
    given = (
        (ekprofile.OID_TPM_MANUFACTURER, manufacturer), (ekprofile.OID_TPM_MODEL, model),
        (ekprofile.OID_TPM_VERSION, version), (ekprofile.OID_TPM_MODEL, "other" if twice else ""),
    )  # fmt: skip
    attributes = [x509.NameAttribute(oid, value) for oid, value in given if value]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(attributes))])


@pytest.mark.parametrize(
    "leaf",
    [
        pytest.param(ISSUER.issue("ek", EK_KEY.public_key(), [EK_USAGE, AGREES]), id="no subjectAltName"),
        pytest.param(without_subject(EK_KEY.public_key(), LEAF_SAYS, critical=False), id="empty subject, not critical"),
        *(
            pytest.param(ISSUER.issue("ek", EK_KEY.public_key(), [EK_USAGE, AGREES, san]), id=name)  # type: ignore[list-item]
            for name, san in {
                "no manufacturer": named(manufacturer=""), "no model": named(model=""), "no version": named(version=""),
                "blank version": named(version="  "), "two models": named(twice=True),
                "only a DNS name": x509.SubjectAlternativeName([x509.DNSName("tpm.example.org")]),
            }.items()
        ),
    ],
)  # fmt: skip
def test_names_that_cannot_be_barred(leaf: bytes) -> None:
    with pytest.raises(EnrollmentRefused) as refused:
        verify(leaf)
    assert refused.value.fields["check"] == "ek.certificate-names"


@pytest.mark.parametrize(
    "says",
    [
        pytest.param([EK_USAGE], id="no key usage"),
        pytest.param([EK_USAGE, usage_of(key_encipherment=True)], id="an ECC key that enciphers"),
        pytest.param([EK_USAGE, usage_of(digital_signature=True)], id="a key that signs"),
        pytest.param([EK_USAGE, usage_of(key_agreement=True, key_cert_sign=True)], id="a key that signs certificates"),
        pytest.param([EK_USAGE, usage_of(key_agreement=True, crl_sign=True)], id="a key that signs CRLs"),
        pytest.param([AGREES, x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])], id="web server usage"),
        pytest.param(
            [AGREES, x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])], id="any usage"
        ),
        pytest.param([usage_of(key_agreement=True, digital_signature=True)], id="no extended usage, and may sign"),
        pytest.param([usage_of(key_agreement=True, content_commitment=True)], id="no extended usage, and commits"),
    ],
)
def test_usages_that_are_no_ek(says: list[x509.ExtensionType]) -> None:
    with pytest.raises(EnrollmentRefused) as refused:
        verify(ISSUER.issue("ek", EK_KEY.public_key(), [TPM_NAME, *says]))
    assert refused.value.fields["check"] == "ek.certificate-usage"


def test_without_extended_key_usage() -> None:
    """What some makers issue: all else marks it as an EK's certificate (docs/spec/enrollment-v1.md, section 5)."""
    assert verify(ISSUER.issue("ek", EK_KEY.public_key(), [TPM_NAME, AGREES])).model == "ST33"
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    assert verify(ISSUER.issue("ek", rsa_key, [TPM_NAME, usage_of(key_encipherment=True)])).specification is None


def specification(family: bytes) -> x509.UnrecognizedExtension:
    inner = b"\x30" + bytes([len(family) + 9]) + b"\x0c" + bytes([len(family)]) + family + b"\x02\x01\0\x02\x02\x01\x03"
    attribute = b"\x06\x05\x67\x81\x05\x02\x10" + b"\x31" + bytes([len(inner)]) + inner
    listed = b"\x30" + bytes([len(attribute)]) + attribute
    return x509.UnrecognizedExtension(
        x509.ExtensionOID.SUBJECT_DIRECTORY_ATTRIBUTES, b"\x30" + bytes([len(listed)]) + listed
    )


def test_tpm_specification() -> None:
    found = verify(ISSUER.issue("ek", EK_KEY.public_key(), [*LEAF_SAYS, specification(b"2.0")])).specification
    assert found == ekprofile.TpmSpecification("2.0", 0, 259)
    with pytest.raises(EnrollmentRefused, match=r"family '1\.2'") as refused:
        verify(ISSUER.issue("ek", EK_KEY.public_key(), [*LEAF_SAYS, specification(b"1.2")]))
    assert refused.value.fields["check"] == "ek.certificate-specification"


@settings(max_examples=100)
@given(st.binary(max_size=40), st.integers(0, 40))
def test_any_directory_attributes_are_read_or_malformed(junk: bytes, cut: int) -> None:
    good = specification(b"2.0").value
    for value in (junk, good[:cut], good[:cut] + junk):
        extension = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_DIRECTORY_ATTRIBUTES, value)
        leaf = x509.load_der_x509_certificate(ISSUER.issue("ek", EK_KEY.public_key(), [extension]))
        with contextlib.suppress(MalformedError, EnrollmentRefused):
            ekprofile.tpm_specification(leaf)


def test_weak_signatures_are_refused() -> None:
    short = rsa.generate_private_key(65537, 1024)
    ca = Ca("short-rsa", short)  # type: ignore[arg-type]
    ca.der = ca.issue(
        "short-rsa", short.public_key(), [x509.BasicConstraints(True, None), usage_of(key_cert_sign=True)]
    )
    with pytest.raises(EnrollmentRefused, match="1024 bits"):
        verify(ca.issue("ek", EK_KEY.public_key(), LEAF_SAYS), [], ca)


VENDOR = Path(__file__).parent / "vendor"


def pem(name: str) -> bytes:
    return x509.load_pem_x509_certificate((VENDOR / f"{name}.pem").read_bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("leaf", "between", "root"),
    [
        ("stm-rsa-ek.nv", ("stm-rsa-intermediate-05", "stm-rsa-root"), "globalsign-tpm-root"),
        ("stm-rsa-ek.nv", ("stm-rsa-intermediate-05",), "stm-rsa-root"),
        ("stm-ecc-ek.nv", ("stm-ecc-intermediate-01",), "stm-ecc-root-01"),
    ],
)
def test_certificates_of_real_tpms(leaf: str, between: tuple[str, ...], root: str) -> None:
    """As read from NV, padding and all: empty subject, critical alternative name, critical policies above it."""
    data = (VENDOR / leaf).read_bytes()
    roots = [TrustRoot(pem(root), "hardware")]
    ek = verify_ek_certificate(data, [pem(name) for name in between], roots, datetime(2026, 1, 1, tzinfo=UTC))
    assert (ek.manufacturer, ek.model, ek.version) == ("id:53544D20", "ST33HTPHAHB4", "id:00490004")
    assert ek.specification == ekprofile.TpmSpecification("2.0", 0, 116)
    with pytest.raises(EnrollmentRefused, match="no valid chain"):
        verify_ek_certificate(data, [], roots, datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("padding", [b"", b"\0" * 300, b"\xff" * 300])
def test_padding_is_stripped(padding: bytes) -> None:
    assert strip_padding(LEAF + padding) == LEAF
    assert verify(LEAF + padding).certificate_der == LEAF


@pytest.mark.parametrize(
    "data",
    [b"", b"\x30", b"\x31" + LEAF[1:], LEAF[:-1], LEAF + b"\0\1", LEAF + b"\0\xff", LEAF + LEAF,
     b"\x30\x82\xff\xff" + bytes(0x10000), b"\x30\x80" + bytes(100), b"\x30\x82\x00\x10" + bytes(16)],
)  # fmt: skip
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match="ek certificate"):
        verify(data)
    with pytest.raises(MalformedError, match="ek intermediate"):
        verify(LEAF, [data])


def test_too_many_intermediates_are_malformed() -> None:
    with pytest.raises(MalformedError, match="at most 8"):
        verify(LEAF, [ISSUER.der] * 9)


@settings(max_examples=150)
@given(st.data())
def test_altered_certificates_are_malformed_or_refused(data: st.DataObject) -> None:
    mutated = bytearray(LEAF)
    mutated[data.draw(st.integers(0, len(LEAF) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((MalformedError, EnrollmentRefused)):
        verify(bytes(mutated))


def test_ek_matches() -> None:
    point = EK_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    ek_matches(EK_KEY.public_key(), public_of(templates.EK_ECC_P384, point))
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    rsa_public = public_of(templates.EK_RSA2048, rsa_key.public_numbers().n.to_bytes(256, "big"))
    ek_matches(rsa_key, rsa_public)
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    for key, raw in (
        (other, public_of(templates.EK_ECC_P384, point)),
        (EK_KEY.public_key(), rsa_public),
        (rsa_key, public_of(templates.EK_ECC_P384, point)),
        (rsa_key, public_of(templates.EK_RSA2048)),
    ):
        with pytest.raises(EnrollmentRefused) as refused:
            ek_matches(key, raw)
        assert refused.value.fields["check"] == "ek.certificate-key"


def test_ek_digest() -> None:
    raw = public_of(templates.EK_RSA2048)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(raw)
    assert ek_digest(raw) == digest.finalize().hex()
    with pytest.raises(MalformedError):
        ek_digest(b"nonsense")
