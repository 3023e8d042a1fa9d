"""Enrollment, both sides, free of I/O (DESIGN section 4; docs/spec/enrollment-v1.md).

The authority's side, in order. Each step takes what the step before returned, so none can be skipped, and refuses with
EnrollmentRefused (or EvidenceRefused for the quote), whose `check` field names the check that failed:

    check_start    1 ek-registered         the EK is the one that was registered for this join token
                   2 ek.certificate-chain  its certificate leads to an accepted root, whose trust class the host gets
                   3 ek.certificate-key    the certificate certifies this very EK
                   4 KEY.FIELD             every field of every public area equals its template
                   5 tpm-barred            no operator barred this TPM's model or firmware
    challenge      6                       MakeCredential(EK, AK Name) over a fresh secret; a fresh nonce
    check_finish   7 activation            the host opened the credential: EK and AK are in one TPM
                   8 KEY.certify-...       SRK, import parent, request key are certified by that AK over that nonce
                   9 quote-...             the quote is that AK's over that nonce and those PCRs; the log replays

The host's side is `finish` and `accept_answer` (in protocol.answer). The caller checks the join token before
step 1, keeps the pending enrollment for a few minutes at most, and takes it away before step 7: one answer, one try.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from sealvm.crypto.labels import label_bytes, label_digest
from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.protocol.messages import (
    NONCE_BYTES,
    Certification,
    EnrollChallenge,
    EnrollFinish,
    EnrollStart,
    QuotedState,
    SessionId,
)
from sealvm.protocol.state import ProvedState, prove_state
from sealvm.protocol.tpm_model import Bar, TpmModel, check_not_barred
from sealvm.secret import Secret
from sealvm.statements.encoding import Base64Bytes, Digest, PcrIndex, parse_message
from sealvm.tcg.attest import verify_certify
from sealvm.tcg.credential import make_credential
from sealvm.tcg.ekcert import TrustRoot, ek_digest, ek_matches, verify_ek_certificate
from sealvm.tcg.imalog import IMA_PCR
from sealvm.tcg.public import name_of
from sealvm.tcg.templates import AK, IMPORT_PARENT, REQUEST_KEY, SRK, check_template, ek_template_of

SECRET_BYTES = 32
ALWAYS_QUOTED = frozenset(range(10))
NEVER_SELECTED = frozenset({IMA_PCR, *range(16, 24)})


@dataclass(frozen=True, slots=True)
class HostPublics:
    """The public areas (TPMT_PUBLIC) of a host's keys."""

    ek: Annotated[Base64Bytes, Field(max_length=1024)]
    ak: Annotated[Base64Bytes, Field(max_length=1024)]
    srk: Annotated[Base64Bytes, Field(max_length=1024)]
    import_parent: Annotated[Base64Bytes, Field(max_length=1024)]
    request_key: Annotated[Base64Bytes, Field(max_length=1024)]


@dataclass(frozen=True, slots=True)
class PresentedHost:
    """A host that showed a certified EK and well-formed keys; nothing ties those keys to that EK yet.

    `ek_root` is the SHA-256 of the root certificate that vouches for the EK.
    """

    publics: HostPublics
    trust_class: str
    tpm: TpmModel
    ek_root: bytes


@dataclass(frozen=True, slots=True)
class PendingEnrollment:
    """What the authority keeps between challenge and answer; not the secret, only what its holder must answer."""

    session: SessionId
    publics: HostPublics
    trust_class: Annotated[str, Field(max_length=16)]
    tpm: TpmModel
    ek_root: Digest
    nonce: Annotated[Base64Bytes, Field(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    pcrs: tuple[PcrIndex, ...]
    expected_activation: Digest


@dataclass(frozen=True, slots=True)
class ProvedHost:
    """A host whose keys lie in one genuine, registered TPM, and the state that TPM vouches for."""

    publics: HostPublics
    trust_class: str
    tpm: TpmModel
    ek_root: bytes
    state: ProvedState


_PENDING: TypeAdapter[PendingEnrollment] = TypeAdapter(PendingEnrollment)


def pending_to_json(pending: PendingEnrollment) -> dict[str, Any]:
    """The pending enrollment as the store keeps it. Holds no secret."""
    body: dict[str, Any] = _PENDING.dump_python(pending, mode="json")
    return body


def pending_from_json(body: Mapping[str, Any]) -> PendingEnrollment:
    """The reverse; MalformedError."""
    return parse_message(_PENDING, dict(body), "pending enrollment")


def quoted_pcrs(profile_pcrs: Iterable[int], *, ima: bool = False) -> tuple[int, ...]:
    """What hosts quote: PCRs 0 to 9 and what profiles select, never 16 to 23 (resettable), and PCR 10 only with `ima`.

    PCR 10 moves while a host runs and is part of no approved state; it proves what a leased profile asks about files.
    """
    pcrs = (ALWAYS_QUOTED | frozenset(profile_pcrs)) - NEVER_SELECTED
    return tuple(sorted(pcrs | {IMA_PCR} if ima else pcrs))


# the authority's side


def check_start(
    start: EnrollStart,
    registered_ek_digest: bytes | None,
    roots: Sequence[TrustRoot],
    now: datetime,
    bars: Iterable[Bar] = (),
) -> PresentedHost:
    """Steps 1 to 5. `registered_ek_digest` is what the join token is bound to.

    None leaves out step 1: the caller must then have an operator approve this EK, and not challenge the host.
    """
    presented = ek_digest(start.ek_public)
    if registered_ek_digest is not None and presented != registered_ek_digest.hex():  # 1
        raise EnrollmentRefused(
            f"the EK presented ({presented[:16]}...) is not the one registered for this join token",
            hint="register this TPM's EK digest, and use the ticket on the host it was issued for",
            check="ek-registered",
        )
    ek = verify_ek_certificate(start.ek_certificate, start.ek_intermediates, roots, now)  # 2
    ek_matches(ek.public_key, start.ek_public)  # 3
    _check_templates(start)  # 4
    tpm = TpmModel(ek.manufacturer, ek.model, ek.version)
    check_not_barred(tpm, bars)  # 5
    publics = HostPublics(
        ek=start.ek_public,
        ak=start.ak_public,
        srk=start.srk_public,
        import_parent=start.import_parent_public,
        request_key=start.request_key_public,
    )
    return PresentedHost(publics=publics, trust_class=ek.trust_class, tpm=tpm, ek_root=ek.root_sha256)


def challenge(
    presented: PresentedHost,
    *,
    session: str,
    nonce: bytes,
    secret: Secret,
    pcrs: Sequence[int],
    expires: datetime,
) -> tuple[PendingEnrollment, EnrollChallenge]:
    """Step 6. `nonce` and `secret` are 32 fresh random bytes each."""
    publics = presented.publics
    id_object, encrypted_secret = make_credential(publics.ek, name_of(publics.ak), secret.reveal())
    pending = PendingEnrollment(
        session=session,
        publics=publics,
        trust_class=presented.trust_class,
        tpm=presented.tpm,
        ek_root=presented.ek_root,
        nonce=nonce,
        pcrs=tuple(pcrs),
        expected_activation=activation_answer(secret, session, nonce),
    )
    message = EnrollChallenge(
        session=session,
        id_object=id_object,
        encrypted_secret=encrypted_secret,
        nonce=nonce,
        pcrs=tuple(pcrs),
        expires=expires,
    )
    return pending, message


def check_finish(pending: PendingEnrollment, message: EnrollFinish) -> ProvedHost:
    """Steps 7 to 9. The caller has taken `pending` out of its store by `message.session`, and it has not expired."""
    if not hmac.compare_digest(message.activation, pending.expected_activation):  # 7
        raise EnrollmentRefused(
            "the host did not open the credential: its AK does not lie in the TPM of its EK", check="activation"
        )
    publics, nonce = pending.publics, certify_nonce(pending.nonce)
    certified: tuple[tuple[str, bytes, Certification, tuple[bytes, ...]], ...] = (  # 8
        ("srk", publics.srk, message.srk, ()),
        ("import-parent", publics.import_parent, message.import_parent, (publics.srk,)),
        ("request-key", publics.request_key, message.request_key, (publics.srk,)),
    )
    for what, public, proof, ancestors in certified:
        verify_certify(proof.attest, proof.signature, publics.ak, public, nonce, what, ancestors=ancestors)
    state = prove_state(message.state, publics.ak, quote_nonce("enroll-quote", pending.nonce), pending.pcrs)  # 9
    return ProvedHost(
        publics=publics, trust_class=pending.trust_class, tpm=pending.tpm, ek_root=pending.ek_root, state=state
    )


# both sides


def activation_answer(secret: Secret, session: str, nonce: bytes) -> bytes:
    """What whoever opened the credential answers: HMAC-SHA256 under the secret, over session and nonce; 32 bytes."""
    return hmac.digest(secret.reveal(), label_bytes("enroll-activation", bytes.fromhex(session), nonce), "sha256")


def certify_nonce(nonce: bytes) -> bytes:
    """Qualifying data of the AK's three certifications; 32 bytes."""
    return label_digest("enroll-certify", nonce)


def quote_nonce(label: str, nonce: bytes) -> bytes:
    """Qualifying data of the quote (`enroll-quote` or `sync-quote`); 32 bytes."""
    return label_digest(label, nonce)


# the host's side


def finish(
    message: EnrollChallenge,
    secret: Secret,
    certified: Mapping[str, tuple[bytes, bytes]],
    state: QuotedState,
) -> EnrollFinish:
    """The answer to a challenge; `certified` has (attest, signature) for srk, import-parent and request-key."""
    if len(secret) != SECRET_BYTES:
        raise MalformedError(f"the activated credential has {len(secret)} bytes, expected {SECRET_BYTES}")
    proofs = {what: Certification(attest=a, signature=s) for what, (a, s) in certified.items()}
    return EnrollFinish(
        session=message.session,
        activation=activation_answer(secret, message.session, message.nonce),
        srk=proofs["srk"],
        import_parent=proofs["import-parent"],
        request_key=proofs["request-key"],
        state=state,
    )


def _check_templates(start: EnrollStart) -> None:
    check_template(start.ek_public, ek_template_of(start.ek_public), "ek")
    check_template(start.ak_public, AK, "ak")
    check_template(start.srk_public, SRK, "srk")
    check_template(start.import_parent_public, IMPORT_PARENT, "import-parent")
    check_template(start.request_key_public, REQUEST_KEY, "request-key")
