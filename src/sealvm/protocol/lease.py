"""Leases, both sides, free of I/O (docs/spec/lease-v1.md).

    host        begins a policy session in its TPM, asks for a challenge, and quotes over `quote_data`
    authority   check_request: 1 the quote is the host's, fresh, and for this very session and profile key
                               2 its log replays; the resetCount is the quoted one
    authority   judges the state by the profile, and signs authorization and grant (authority.lease)
    host        accept_answer: the lease is the one asked for, and both signatures verify; then the TPM makes the ticket

Types mark how far a request has come: only a `ProvedRequest` names what may be signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sealvm.errors import ConflictError
from sealvm.protocol.messages import NONCE_BYTES, Message, QuotedState, SessionId
from sealvm.protocol.state import ProvedState, prove_state
from sealvm.statements.encoding import Base64Bytes, CellName, Epoch, Moment, ObjectName, PcrIndex
from sealvm.statements.lease import NONCE_TPM_BYTES, LeaseKey, SignedLease, quote_data, verify_lease
from sealvm.tcg.attest import parse_attest

NonceTpm = Annotated[Base64Bytes, Field(min_length=NONCE_TPM_BYTES, max_length=NONCE_TPM_BYTES)]


class LeaseChallenge(Message):
    """What an enrolled host must quote to renew one lease."""

    session: SessionId
    nonce: Annotated[Base64Bytes, Field(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    pcrs: Annotated[tuple[PcrIndex, ...], Field(min_length=1, max_length=24)]
    expires: Moment


class LeaseRequest(Message):
    """Which lease, the nonceTPM of the session that waits for it, and the quoted state."""

    session: SessionId
    profile: ObjectName
    epoch: Epoch
    cell: CellName
    nonce_tpm: NonceTpm
    state: QuotedState


class LeaseAnswer(Message):
    """The lease. `ends` is by the authority's clock, for people; the TPM counts from the start of the session."""

    lease: SignedLease
    ends: Moment


class LeaseView(Message):
    """A host's newest lease for one profile key, as an operator sees it; `ended` by the authority's clock."""

    host: ObjectName
    profile: ObjectName
    epoch: Epoch
    cell: CellName
    seconds: int
    granted: Moment
    ends: Moment
    ended: bool
    renewals: int


@dataclass(frozen=True, slots=True)
class ProvedRequest:
    """A request that a fresh quote of this host's TPM stands behind; the state need not be good enough."""

    key: LeaseKey
    nonce_tpm: bytes
    reset_count: int
    state: ProvedState


def check_request(
    request: LeaseRequest, key: LeaseKey, *, challenge: bytes, pcrs: Sequence[int], ak_public: bytes
) -> ProvedRequest:
    """Steps 1 and 2. EvidenceRefused names the check, PCR and event.

    `key` is made of what the authority knows: the SRK Name stored when the host enrolled, never one from the request.
    `challenge` and `pcrs` are those of a challenge to this very host, taken out of the store.
    """
    data = quote_data(challenge, request.nonce_tpm, key)
    state = prove_state(request.state, ak_public, data, pcrs)
    clock = parse_attest(request.state.attest).clock_info
    return ProvedRequest(key=key, nonce_tpm=request.nonce_tpm, reset_count=clock.reset_count, state=state)


def accept_answer(answer: LeaseAnswer, key: LeaseKey, *, nonce_tpm: bytes, reset_count: int) -> SignedLease:
    """The lease in `answer`, if it is the one that was asked for. SignatureRefused, ConflictError for another boot."""
    lease = answer.lease
    if lease.reset_count != reset_count:
        raise ConflictError(
            f"{key.what}: the answer is for the boot with resetCount {lease.reset_count}, this is {reset_count}",
            hint="renew it again",
        )
    verify_lease(lease, key, nonce_tpm)
    return lease
