"""The messages of enrollment and synchronisation, with their limits (docs/spec/enrollment-v1.md, section 3).

JSON objects; unknown fields are refused. Public areas are TPMT_PUBLIC without TPM2B length; `attest` is TPMS_ATTEST;
`signature` is DER ECDSA over SHA-256 of `attest`; `id_object` and `encrypted_secret` are the contents of
TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET without their outer length.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sealvm.crypto import canonical
from sealvm.statements.encoding import (
    Base64Bytes,
    CellName,
    Digest,
    Epoch,
    HexBytes,
    Moment,
    ObjectName,
    PcrIndex,
    Point,
    parse_message,
)
from sealvm.tcg.ekcert import MAX_INTERMEDIATES
from sealvm.tcg.eventlog import LOG_BYTES_MAX

MESSAGE_BYTES_LIMIT = 8 * 1024 * 1024
EVENT_LOG_BYTES_LIMIT = LOG_BYTES_MAX
IMA_LOG_BYTES_LIMIT = 4 * 1024 * 1024
PREIMAGE_BYTES_LIMIT = 64 * 1024
PREIMAGES_LIMIT = 64
KEYS_LIMIT = 4096
NONCE_BYTES = 32

PublicArea = Annotated[Base64Bytes, Field(min_length=10, max_length=1024)]
Certificate = Annotated[Base64Bytes, Field(min_length=1, max_length=8192)]
Attested = Annotated[Base64Bytes, Field(min_length=1, max_length=2048)]
Signature = Annotated[Base64Bytes, Field(min_length=1, max_length=256)]
SessionId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
TpmName = Annotated[HexBytes, Field(min_length=34, max_length=34)]


class Message(BaseModel):
    """Base of all messages: immutable, no unknown fields, complaints that do not repeat the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class EnrollStart(Message):
    """Step 1, host to authority: the join token and everything the TPM says about itself."""

    token: Annotated[str, Field(min_length=20, max_length=128, pattern=r"^[A-Za-z0-9_-]+$")] = Field(repr=False)
    ek_certificate: Certificate
    ek_intermediates: Annotated[tuple[Certificate, ...], Field(max_length=MAX_INTERMEDIATES)] = ()
    ek_public: PublicArea
    ak_public: PublicArea
    srk_public: PublicArea
    import_parent_public: PublicArea
    request_key_public: PublicArea


class EnrollChallenge(Message):
    """Step 2, authority to host: a credential only this TPM can open, and what to quote."""

    session: SessionId
    id_object: Annotated[Base64Bytes, Field(max_length=512)]
    encrypted_secret: Annotated[Base64Bytes, Field(max_length=512)]
    nonce: Annotated[Base64Bytes, Field(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    pcrs: Annotated[tuple[PcrIndex, ...], Field(min_length=1, max_length=24)]
    expires: Moment


class Certification(Message):
    """The AK's TPM2_Certify of one of the host's keys."""

    attest: Attested
    signature: Signature


class QuotedState(Message):
    """The AK's TPM2_Quote, the boot event log and preimages for events whose data the log does not carry.

    `pcr_values` are the values as the host read them; they serve only to name the PCR when the log does not replay.
    `ima_log` is IMA's log where PCR 10 is quoted, read after the quote; None from a host that has none to show, whose
    `pcr_values` must then have the quoted value of PCR 10.
    """

    attest: Attested
    signature: Signature
    event_log: Annotated[Base64Bytes, Field(max_length=EVENT_LOG_BYTES_LIMIT)]
    preimages: Annotated[
        tuple[Annotated[Base64Bytes, Field(max_length=PREIMAGE_BYTES_LIMIT)], ...], Field(max_length=PREIMAGES_LIMIT)
    ] = ()
    pcr_values: dict[PcrIndex, Digest] = Field(default_factory=dict)
    ima_log: Annotated[Base64Bytes, Field(max_length=IMA_LOG_BYTES_LIMIT)] | None = None


class EnrollFinish(Message):
    """Step 3, host to authority: proof of activation, the certified keys, and the quoted state."""

    session: SessionId
    activation: Digest
    srk: Certification
    import_parent: Certification
    request_key: Certification
    state: QuotedState


class SealedKey(Message):
    """A profile key duplicated to this host's import parent; useless to any other TPM."""

    profile: ObjectName
    epoch: Epoch
    cell: CellName
    mode: Annotated[str, Field(max_length=16)]
    public: PublicArea
    duplicate: Annotated[Base64Bytes, Field(max_length=1024)]
    in_sym_seed: Annotated[Base64Bytes, Field(max_length=1024)]
    approver_point: Point


class SyncAnswer(Message):
    """Step 4, authority to host: the keys it lacks, and the trust bundle (a DSSE envelope).

    `trust_class` is the class of the EK's root, `events` the number of events in the log that was replayed, `time` the
    authority's clock: a host that sees its own behind it later knows that it was set back.
    """

    host: ObjectName
    host_id: SessionId
    trust_class: Annotated[str, Field(max_length=16)]
    events: Annotated[int, Field(ge=0)]
    keys: Annotated[tuple[SealedKey, ...], Field(max_length=KEYS_LIMIT)]
    bundle: Annotated[Base64Bytes, Field(max_length=16 * 1024 * 1024)]
    time: Moment | None = None


class SyncChallenge(Message):
    """What an enrolled host must quote to synchronise."""

    session: SessionId
    nonce: Annotated[Base64Bytes, Field(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    pcrs: Annotated[tuple[PcrIndex, ...], Field(min_length=1, max_length=24)]
    expires: Moment


class SyncRequest(Message):
    """The quoted state, and the Names of the profile keys this host already stores."""

    session: SessionId
    have: Annotated[tuple[TpmName, ...], Field(max_length=KEYS_LIMIT)] = ()
    state: QuotedState


class JoinTicket(Message):
    """What an operator hands to a host so that it can enroll once. Secret until used: it holds the join token."""

    url: Annotated[str, Field(pattern=r"^https://[^\s/]+$", max_length=256)]
    ca_pem: Annotated[str, Field(max_length=16 * 1024)]
    anchor: Point
    host: ObjectName
    token: Annotated[str, Field(min_length=20, max_length=128, pattern=r"^[A-Za-z0-9_-]+$")] = Field(repr=False)
    expires: Moment


_TICKET: TypeAdapter[JoinTicket] = TypeAdapter(JoinTicket)


def parse_ticket(data: bytes) -> JoinTicket:
    """The join ticket in a file's bytes; MalformedError names the field that is wrong."""
    return parse_message(_TICKET, canonical.loads(data, "join ticket", 64 * 1024), "join ticket")
