"""TLS for a first start: a private CA whose key is in custody, and a server certificate made at each start.

The CA certificate goes to hosts inside their join tickets and to operators as `tls/ca.pem`; its key signs nothing but
server certificates. The server's key lives as long as the process and touches no disk: `ssl` loads keys from files
only, so it gets an anonymous one in memory.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealvm.crypto.ec import private_key
from sealvm.errors import EnvironmentFault, InputError
from sealvm.secret import Secret

CA_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=397)
BACKDATED = timedelta(minutes=10)


def make_ca(scalar: Secret, now: datetime) -> str:
    """The self-signed CA certificate of the key `scalar`, PEM. It may issue server certificates and no further CA."""
    key = private_key(scalar)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"sealvm authority CA {secrets.token_hex(4)}")])
    certificate = (
        _builder(name, name, key.public_key(), now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def server_context(ca_scalar: Secret, ca_pem: str, names: Sequence[str], now: datetime) -> ssl.SSLContext:
    """A TLS 1.3 server context with a fresh key and certificate for `names` (host names and IP addresses)."""
    ca = x509.load_pem_x509_certificate(ca_pem.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), now, SERVER_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key(ca), critical=False)
        .sign(private_key(ca_scalar), hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        with os.fdopen(os.memfd_create("sealvm-tls", os.MFD_CLOEXEC), "wb") as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    except OSError as error:
        raise EnvironmentFault(f"the server's certificate cannot be loaded: {error.strerror}") from error
    return context


def general_name(name: str) -> x509.GeneralName:
    """`name` as a subjectAltName; InputError when it is neither an IP address nor a host name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.split(".")
    if len(name) > 253 or not all(
        0 < len(label) < 64 and label.isascii() and label.replace("-", "").isalnum() for label in labels
    ):
        raise InputError(f"{name!r} is neither a host name nor an IP address")
    return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
