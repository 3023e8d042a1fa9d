"""Attacks on what the TPM signs: quotes that it did not make, and approvals signed without the approver's key.

The AK is restricted: it signs what the TPM made, and hashes whose ticket says that their message does not begin as an
attestation does. An authority that took a forged quote would renew a lease, or enroll a host, in any state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.statements.approval import digest_to_sign
from sealvm.tcg import templates
from sealvm.tpm import identity, keys
from sealvm.tpm.authorization import signer_key
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import ESYS_TR, TPM2_ALG, ecdsa_scheme, no_hash_ticket, signature_der


@contextmanager
def _ak(tpm: Tpm) -> Iterator[Any]:
    with keys.primary(tpm, templates.AK, ESYS_TR.ENDORSEMENT, "the AK") as (handle, _public):
        yield handle


def _forged_quote(tpm: Tpm, view: AttackerView) -> bytes:
    """A genuine quote of this host with the approved PCR digest, which ends it, in place of the true one."""
    approval = view.approval_of_another_state()
    genuine, _signature = identity.quote(tpm, approval.selection, bytes(32))
    return genuine[: -len(approval.pcr_digest)] + approval.pcr_digest


def _sign(tpm: Tpm, handle: Any, digest: bytes, ticket: Any) -> None:
    tpm.run(
        "sign",
        "signing a forged quote",
        key_handle=handle,
        digest=digest,
        in_scheme=ecdsa_scheme(),
        validation=ticket,
        session1=ESYS_TR.PASSWORD,
    )


def _without_ticket(tpm: Tpm, view: AttackerView) -> None:
    digest = hashlib.sha256(_forged_quote(tpm, view)).digest()
    with _ak(tpm) as ak:
        _sign(tpm, ak, digest, no_hash_ticket())


def _hashed_by_tpm(tpm: Tpm, view: AttackerView) -> None:
    forged = _forged_quote(tpm, view)
    digest, ticket = tpm.run("hash", data=forged, hash_alg=TPM2_ALG.SHA256, hierarchy=ESYS_TR.OWNER)
    with _ak(tpm) as ak:
        _sign(tpm, ak, bytes(digest), ticket)


def _sequence(tpm: Tpm, *parts: bytes) -> tuple[bytes, Any]:
    """Digest and ticket of a hash sequence, updated with each part."""
    sequence = tpm.run("hash_sequence_start", auth=b"", hash_alg=TPM2_ALG.SHA256)
    for part in parts:
        tpm.run("sequence_update", sequence_handle=sequence, buffer=part, session1=ESYS_TR.PASSWORD)
    digest, ticket = tpm.run(
        "sequence_complete",
        sequence_handle=sequence,
        buffer=b"",
        hierarchy=ESYS_TR.OWNER,
        session1=ESYS_TR.PASSWORD,
    )
    return bytes(digest), ticket


def _by_sequence(tpm: Tpm, view: AttackerView) -> None:
    digest, ticket = _sequence(tpm, _forged_quote(tpm, view))
    with _ak(tpm) as ak:
        _sign(tpm, ak, digest, ticket)


def _by_split_sequence(tpm: Tpm, view: AttackerView) -> None:
    """The four bytes that mark an attestation, cut in two parts."""
    forged = _forged_quote(tpm, view)
    digest, ticket = _sequence(tpm, forged[:2], forged[2:])
    with _ak(tpm) as ak:
        _sign(tpm, ak, digest, ticket)


def _by_event_sequence(tpm: Tpm, view: AttackerView) -> None:
    """An event sequence gives the digest without a ticket; the ticket is another message's."""
    forged = _forged_quote(tpm, view)
    sequence = tpm.run("hash_sequence_start", auth=b"", hash_alg=TPM2_ALG.NULL)
    tpm.run("sequence_update", sequence_handle=sequence, buffer=forged, session1=ESYS_TR.PASSWORD)
    digests = tpm.run(
        "event_sequence_complete",
        pcr_handle=ESYS_TR.NULL,
        sequence_handle=sequence,
        buffer=b"",
        session1=ESYS_TR.PASSWORD,
        session2=ESYS_TR.PASSWORD,
    )
    digest = next(bytes(each.digest.sha256) for each in digests.digests if each.hashAlg == TPM2_ALG.SHA256)
    _another, ticket = _sequence(tpm, b"an innocent message")
    with _ak(tpm) as ak:
        _sign(tpm, ak, digest, ticket)


def _der(tag: int, *parts: bytes) -> bytes:
    """One DER element of fewer than 128 bytes."""
    contents = b"".join(parts)
    return bytes([tag, len(contents)]) + contents


def _partial_certificate() -> bytes:
    """What TPM2_CertifyX509 completes: issuer, validity, subject, and the key usage digitalSignature."""
    name = _der(0x30, _der(0x31, _der(0x30, _der(0x06, b"\x55\x04\x03"), _der(0x0C, b"sealvm"))))
    validity = _der(0x30, _der(0x17, b"260101000000Z"), _der(0x17, b"361231000000Z"))
    usage = _der(0x30, _der(0x06, b"\x55\x1d\x0f"), _der(0x01, b"\xff"), _der(0x04, _der(0x03, b"\x07\x80")))
    return _der(0x30, name, validity, name, _der(0xA3, _der(0x30, usage)))


def x509_by_ak(tpm: Tpm, view: AttackerView) -> tuple[bytes, bytes]:
    """What the AK does sign, by TPM2_CertifyX509, with names of the attacker's choice: (digest of a TBSCertificate,
    signature DER).

    No attack on sealvm, which takes nothing that an AK signed but attestations: a TBSCertificate begins with 30, an
    attestation with FF544347.
    """
    request_key = (view.blobs.request_key_public, view.blobs.request_key_private)
    with _ak(tpm) as ak, keys.child(tpm, *request_key, "the request key") as subject:
        _added, digest, signature = tpm.run(
            "certify_x509",
            object_handle=subject,
            sign_handle=ak,
            partial_certificate=_partial_certificate(),
            in_scheme=ecdsa_scheme(),
            session1=ESYS_TR.PASSWORD,
            session2=ESYS_TR.PASSWORD,
        )
    return bytes(digest), signature_der(signature)


def _as_approver(tpm: Tpm, view: AttackerView) -> None:
    """TPM2_Sign with the approver's public key, which is loaded for TPM2_VerifySignature."""
    approval = view.approval_of_another_state()
    digest = digest_to_sign(bytes(32), approval.policy_ref)
    with signer_key(tpm, approval.approver_point, "approver") as approver:
        _sign(tpm, approver, digest, no_hash_ticket())


ATTACKS = (
    Attack("quote-forged", "TPM2_Sign of a forged quote by the AK", _without_ticket, "sign", {"TICKET"}),
    Attack(
        "quote-hashed",
        "TPM2_Sign of a forged quote by the AK, with TPM2_Hash's ticket",
        _hashed_by_tpm,
        "sign",
        {"TICKET"},
    ),
    Attack(
        "quote-sequence",
        "TPM2_Sign of a forged quote by the AK, with TPM2_SequenceComplete's ticket",
        _by_sequence,
        "sign",
        {"TICKET"},
    ),
    Attack(
        "quote-split-sequence",
        "the same, with the mark of an attestation in two parts",
        _by_split_sequence,
        "sign",
        {"TICKET"},
    ),
    Attack(
        "quote-event-sequence",
        "TPM2_Sign of a forged quote by the AK, hashed by TPM2_EventSequenceComplete, with another message's ticket",
        _by_event_sequence,
        "sign",
        {"TICKET"},
    ),
    Attack(
        "sign-as-approver",
        "TPM2_Sign with the approver's public key",
        _as_approver,
        "sign",
        {"AUTH_UNAVAILABLE", "KEY", "ATTRIBUTES", "HANDLE"},
    ),
)
