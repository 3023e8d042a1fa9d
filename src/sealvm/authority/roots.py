"""EK roots: whose word makes a TPM genuine, and of which class."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealvm.authority import audit
from sealvm.authority.ports import Context
from sealvm.authority.records import RootRecord
from sealvm.errors import InputError, MalformedError
from sealvm.protocol.operator import RootRequest, RootView


def add_root(ctx: Context, actor: str, request: RootRequest) -> RootView:
    """Accept EK certificates that lead to this CA certificate, as the given class.

    MalformedError when the PEM is not exactly one certificate, InputError when it is not a CA's, ConflictError when it
    is accepted already. Hosts that enrolled before keep their class.
    """
    certificate = _parse(request.certificate_pem)
    der = certificate.public_bytes(Encoding.DER)
    record = RootRecord(
        sha256=hashlib.sha256(der).digest(),
        certificate=der,
        subject=certificate.subject.rfc4514_string(),
        trust_class=request.trust_class,
        added=ctx.now(),
    )
    with ctx.store.write() as tx:
        tx.add_root(record)
        details = {"sha256": record.sha256.hex(), "trust_class": record.trust_class}
        audit.record(ctx, tx, actor, audit.Action.ROOT_ADDED, record.subject[:128], **details)
    return _view(record)


def list_roots(ctx: Context) -> list[RootView]:
    """All accepted roots, in the order they were added."""
    with ctx.store.read() as tx:
        return [_view(record) for record in tx.roots()]


def _parse(pem: str) -> x509.Certificate:
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
        if len(certificates) != 1:
            raise MalformedError(f"EK root: expected one certificate, found {len(certificates)}")
        constraints = certificates[0].extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise InputError("EK root: the certificate is not a CA's: it has no basic constraints") from error
    except ValueError as error:
        raise MalformedError("EK root: not a certificate in PEM") from error
    if not constraints.ca:
        raise InputError("EK root: the certificate is not a CA's")
    return certificates[0]


def _view(record: RootRecord) -> RootView:
    return RootView.model_validate(
        {
            "sha256": record.sha256,
            "subject": record.subject,
            "trust_class": record.trust_class,
            "added": record.added,
        }
    )
