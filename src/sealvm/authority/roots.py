"""EK roots: whose word makes a TPM genuine, and of which class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealvm.authority import audit
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import RootRecord
from sealvm.errors import ConflictError, InputError, MalformedError, NotFoundError
from sealvm.protocol.hosts import RootRemovalView
from sealvm.protocol.operator import RootRequest, RootView

CERTIFICATES_LIMIT = 256


def add_roots(ctx: Context, actor: str, request: RootRequest) -> list[RootView]:
    """Accept EK certificates that lead to these CA certificates, all of them or none, as the given class.

    One that is accepted as that class already stays as it is. MalformedError when the PEM holds no certificate or too
    many, InputError when one is not a CA's, ConflictError when one is accepted as another class. Hosts that enrolled
    before keep their class.
    """
    records = [_record(ctx, certificate, request.trust_class) for certificate in _parse(request.certificate_pem)]
    with ctx.store.write() as tx:
        known = {root.sha256: root for root in tx.roots()}
        return [_view(_add(ctx, tx, actor, record, known.get(record.sha256))) for record in records]


def list_roots(ctx: Context) -> list[RootView]:
    """All accepted roots, in the order they were added."""
    with ctx.store.read() as tx:
        return [_view(record) for record in tx.roots()]


def remove_root(ctx: Context, actor: str, prefix: str) -> RootRemovalView:
    """Stop accepting the root whose SHA-256 begins with `prefix` (hex).

    The hosts that enrolled under it are locked out at once: the view names them. NotFoundError, ConflictError when
    several begin so.
    """
    with ctx.store.write() as tx:
        found = [root for root in tx.roots() if root.sha256.hex().startswith(prefix)]
        if not found:
            raise NotFoundError(
                f"no accepted root begins with {prefix[:64]!r}", hint="list them: sealvm authority root list"
            )
        if len(found) > 1:
            raise ConflictError(f"{prefix} fits {len(found)} roots", hint="give more digits")
        root = found[0]
        tx.remove_root(root.sha256)
        hosts = tuple(host.name for host in tx.hosts() if host.enrolled is not None and host.ek_root == root.sha256)
        details = {"sha256": root.sha256.hex(), "trust_class": root.trust_class, "hosts": len(hosts)}
        audit.record(ctx, tx, actor, audit.Action.ROOT_REMOVED, root.subject[:128], **details)
        return RootRemovalView(sha256=root.sha256, subject=root.subject, hosts=hosts)


def _add(ctx: Context, tx: Transaction, actor: str, record: RootRecord, known: RootRecord | None) -> RootRecord:
    if known is not None:
        if known.trust_class != record.trust_class:
            raise ConflictError(
                f"EK root {record.subject} is accepted as {known.trust_class} already",
                hint="remove it first with `sealvm authority root remove`; its hosts must then enroll again",
            )
        return known
    tx.add_root(record)
    details = {"sha256": record.sha256.hex(), "trust_class": record.trust_class}
    audit.record(ctx, tx, actor, audit.Action.ROOT_ADDED, record.subject[:128], **details)
    return record


def _record(ctx: Context, certificate: x509.Certificate, trust_class: str) -> RootRecord:
    subject = certificate.subject.rfc4514_string()
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise InputError(f"EK root {subject[:128]}: not a CA certificate: it has no basic constraints") from error
    except ValueError as error:
        raise MalformedError(f"EK root {subject[:128]}: an extension cannot be read") from error
    if not constraints.ca:
        raise InputError(f"EK root {subject[:128]}: not a CA certificate")
    der = certificate.public_bytes(Encoding.DER)
    return RootRecord(hashlib.sha256(der).digest(), der, subject, trust_class, ctx.now())


def _parse(pem: str) -> Sequence[x509.Certificate]:
    """The certificates in a PEM bundle, each once; text between them is skipped."""
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise MalformedError("EK root: not certificates in PEM") from error
    begun = pem.count("-----BEGIN ")
    if begun != len(found):  # the parser skips what it does not know, and a certificate that is cut off
        raise MalformedError(f"EK root: {begun} PEM blocks begin, {len(found)} are whole certificates")
    certificates = list(dict.fromkeys(found))
    if len(certificates) > CERTIFICATES_LIMIT:
        raise MalformedError(f"EK root: {len(certificates)} certificates, at most {CERTIFICATES_LIMIT} at a time")
    return certificates


def _view(record: RootRecord) -> RootView:
    return RootView.model_validate(
        {
            "sha256": record.sha256,
            "subject": record.subject,
            "trust_class": record.trust_class,
            "added": record.added,
        }
    )
