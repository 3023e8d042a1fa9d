"""EK certificate chains made for the purpose, each wrong in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.tcg import ekcert, templates
from sealvm.tcg.ekcert import TrustRoot, VerifiedEk, ek_digest, ek_matches, strip_padding, verify_ek_certificate
from sealvm.tcg.templates import public_of

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
EK_KEY = ec.generate_private_key(ec.SECP384R1())
EK_USAGE = x509.ExtendedKeyUsage([ekcert.OID_EK_CERTIFICATE])
TPM_NAME = x509.SubjectAlternativeName(
    [
        x509.DirectoryName(
            x509.Name(
                [
                    x509.NameAttribute(ekcert.OID_TPM_MANUFACTURER, "id:53544D20"),
                    x509.NameAttribute(ekcert.OID_TPM_MODEL, "ST33"),
                    x509.NameAttribute(ekcert.OID_TPM_VERSION, "id:00010203"),
                ]
            )
        )
    ]
)


def key_usage(*, cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not cert_sign, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=cert_sign, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


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
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)]))
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def child(self, name: str, *, ca: bool = True, cert_sign: bool = True, path_length: int | None = None) -> Ca:
        made = Ca(name, ec.generate_private_key(ec.SECP256R1()))
        constraints = x509.BasicConstraints(ca=ca, path_length=path_length)
        made.der = self.issue(name, made.key.public_key(), [constraints, key_usage(cert_sign=cert_sign)])
        return made


def new_root(name: str = "root", path_length: int | None = None) -> Ca:
    root = Ca(name, ec.generate_private_key(ec.SECP256R1()))
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    root.der = root.issue(name, root.key.public_key(), [constraints, key_usage(cert_sign=True)])
    return root


ROOT = new_root()
ISSUER = ROOT.child("issuer")
LEAF = ISSUER.issue("ek", EK_KEY.public_key(), [EK_USAGE, TPM_NAME])


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


def test_without_names_and_in_another_time_zone() -> None:
    leaf = ISSUER.issue("ek", EK_KEY.public_key(), [EK_USAGE])
    ek = verify(leaf, now=NOW.astimezone())
    assert (ek.manufacturer, ek.model, ek.version) == ("", "", "")


IMPOSTOR = new_root("root")
NOT_CA = ROOT.child("not-ca", ca=False)
NO_CERT_SIGN = ROOT.child("no-cert-sign", cert_sign=False)
SHORT = new_root("short", path_length=0)
SHORT_ISSUER = SHORT.child("short-issuer")
DEEP = [ROOT]
for level in range(6):
    DEEP.append(DEEP[-1].child(f"deep-{level}"))


@pytest.mark.parametrize(
    ("leaf", "between", "root", "now"),
    [
        pytest.param(LEAF, [], ROOT, NOW, id="intermediate missing"),
        pytest.param(LEAF, [ISSUER.der], new_root("other"), NOW, id="unknown root"),
        pytest.param(LEAF, [ISSUER.der], IMPOSTOR, NOW, id="root of the same name"),
        pytest.param(LEAF, [ISSUER.der], ROOT, NOW + 2 * YEAR, id="expired"),
        pytest.param(LEAF, [ISSUER.der], ROOT, NOW - 2 * YEAR, id="not yet valid"),
        pytest.param(ISSUER.issue("ek", EK_KEY.public_key(), [TPM_NAME]), [ISSUER.der], ROOT, NOW, id="no EK usage"),
        pytest.param(
            ISSUER.issue(
                "ek", EK_KEY.public_key(), [x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), TPM_NAME]
            ),
            [ISSUER.der], ROOT, NOW, id="web server usage",
        ),
        pytest.param(
            ISSUER.issue("ek", EK_KEY.public_key(), [EK_USAGE, x509.BasicConstraints(ca=True, path_length=None)]),
            [ISSUER.der], ROOT, NOW, id="leaf is a CA",
        ),
        pytest.param(
            NOT_CA.issue("ek", EK_KEY.public_key(), [EK_USAGE]), [NOT_CA.der], ROOT, NOW, id="issuer is no CA"
        ),
        pytest.param(
            NO_CERT_SIGN.issue("ek", EK_KEY.public_key(), [EK_USAGE]), [NO_CERT_SIGN.der], ROOT, NOW,
            id="issuer may not sign",
        ),
        pytest.param(
            SHORT_ISSUER.issue("ek", EK_KEY.public_key(), [EK_USAGE]), [SHORT_ISSUER.der], SHORT, NOW,
            id="path length exceeded",
        ),
        pytest.param(
            DEEP[-1].issue("ek", EK_KEY.public_key(), [EK_USAGE]), [ca.der for ca in DEEP[1:]], ROOT, NOW,
            id="chain too deep",
        ),
        pytest.param(
            Ca("issuer", IMPOSTOR.key).issue("ek", EK_KEY.public_key(), [EK_USAGE]), [ISSUER.der], ROOT, NOW,
            id="signature by another key",
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
            verify(ISSUER.issue("ek", key.public_key(), [EK_USAGE]))


def test_unknown_critical_extension_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    with pytest.raises(EnrollmentRefused):
        verify(ISSUER.issue("ek", EK_KEY.public_key(), [EK_USAGE, unknown], critical=True))


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
