"""What the approver's own machine makes of a request file, with no authority in reach: judge each request, then sign.

It believes no word of the file. A state's digest is computed from the PCR values, these from the boot log, the facts
from the log, the answers from the profile's document; a digest that comes out otherwise is refused. What it cannot see
is whether a genuine TPM quoted that log: that is the authority's word, and harmless to a state that meets the
requirements, since only a computer that measured these very digests reaches its PCR values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from sealvm.attest.evaluate import evaluate_sealed, render_evaluation
from sealvm.attest.profile import load_profile
from sealvm.attest.reference import reference_of
from sealvm.attest.state import local_state
from sealvm.crypto.ec import Signer
from sealvm.errors import IntegrityRefused, UntrustedRefused
from sealvm.protocol.trust import ANSWER_FORMAT, ApproverAnswer, ApproverRequest, SignedRequest, SigningRequest
from sealvm.statements.approval import digest_to_sign, unsigned_approval
from sealvm.statements.encoding import CellName, Epoch, ObjectName, PcrIndex, Point, parse_message
from sealvm.statements.rule import Delegation
from sealvm.tcg.policy import profile_ref

UNMET = "does not meet every requirement"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One request as this machine understands it: the digest it would sign, lines for the approver, and `refused`, why
    it will not sign ("" when it will)."""

    request_id: str
    digest: bytes
    lines: tuple[str, ...]
    refused: str
    unseen: bool


def review(request: ApproverRequest, approver_point: bytes) -> list[Reviewed]:
    """Every request of the file, judged here. UntrustedRefused for a file that is meant for another approver.

    IntegrityRefused when a request's digest is not that of what it says.
    """
    if request.approver != approver_point:
        raise UntrustedRefused("the request is for another approver's key than this one")
    return [
        _approval(item, approver_point) if item.kind == "approval" else _delegation(item, approver_point)
        for item in request.requests
    ]


def sign(reviewed: Sequence[Reviewed], signer: Signer, *, unseen: bool = False) -> ApproverAnswer:
    """Sign what was reviewed and is not refused; requests without evidence only when `unseen` says so."""
    signed = [
        SignedRequest(request_id=item.request_id, signature=signer.sign_digest(item.digest))
        for item in reviewed
        if not item.refused and (unseen or not item.unseen)
    ]
    return ApproverAnswer(format=ANSWER_FORMAT, approver=signer.point, signed=tuple(signed))


@dataclass(frozen=True, slots=True)
class _Claims:
    """The fields of an unsigned approval from which its digest is computed; others are not believed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore", hide_input_in_errors=True)

    profile: ObjectName
    epoch: Epoch
    cell: CellName
    mode: Annotated[str, Field(max_length=16)]
    selection: Annotated[tuple[PcrIndex, ...], Field(min_length=1, max_length=24)]
    label: Annotated[str, Field(max_length=256)]
    lease_key: Point | None = None


@dataclass(frozen=True, slots=True)
class _DelegatedKey:
    """The fields of an unsigned delegation from which its digest is computed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore", hide_input_in_errors=True)

    profile: ObjectName
    epoch: Epoch
    cell: CellName
    mode: Annotated[str, Field(max_length=16)]
    rule_point: Point


_CLAIMS: TypeAdapter[_Claims] = TypeAdapter(_Claims)
_KEYS: TypeAdapter[_DelegatedKey] = TypeAdapter(_DelegatedKey)


def _approval(item: SigningRequest, approver_point: bytes) -> Reviewed:
    claims = parse_message(_CLAIMS, item.statement, "approver request")
    unsigned = unsigned_approval(
        approver_point,
        profile_ref(claims.profile, claims.epoch, claims.cell, claims.mode),
        profile=claims.profile,
        epoch=claims.epoch,
        cell=claims.cell,
        selection=claims.selection,
        pcr_values=item.pcr_values,
        mode=claims.mode,
        lease_point=claims.lease_key or b"",
        label=claims.label,
        reference=None,
    )
    digest = _checked(item, digest_to_sign(unsigned.approved_policy, unsigned.policy_ref))
    head = f"approve a state for profile '{claims.profile}' epoch {claims.epoch}{_cell(claims.cell)}, {claims.mode}"
    values = [f"PCR {index}: {item.pcr_values[index].hex()}" for index in claims.selection]
    document = f"  profile's document: SHA-256 {hashlib.sha256(item.document.encode()).hexdigest()}"
    lines = [head, f"  label: {_line(claims.label)}", document, *(f"  {line}" for line in values)]
    judged, refused = _judged(item, claims)
    return Reviewed(item.request_id, digest, (*lines, *judged), refused, unseen=not item.event_log)


def _judged(item: SigningRequest, claims: _Claims) -> tuple[list[str], str]:
    """The requirements, answered from the log; why not to sign."""
    document = load_profile(item.document, "profile in the request")
    if document.name != claims.profile or not set(document.pcrs) <= set(claims.selection):
        return ["  the profile's document is another profile's"], "its document is another profile's"
    if not item.event_log:
        return ["  it comes without a boot log: nothing is known of it but its PCR values"], ""
    state = local_state(item.pcr_values, item.event_log, item.preimages)
    if state.flaws:
        return [f"  {state.flaws[0].message}"], "its boot log does not lead to its PCR values"
    evaluation = evaluate_sealed(document, state.evidence)
    lines = [f"  {line}" for line in render_evaluation(evaluation)]
    events = reference_of(state, claims.selection)["events"]
    lines += [f"  event {event['index']}, PCR {event['pcr']}: {event['what']}: {_text(event)}" for event in events]
    return lines, "" if evaluation.satisfied else UNMET


def _delegation(item: SigningRequest, approver_point: bytes) -> Reviewed:
    claims = parse_message(_KEYS, item.statement, "approver request")
    key = (claims.profile, claims.epoch, claims.cell, claims.mode)
    unsigned = Delegation(*key, claims.rule_point, approver_point, b"")
    digest = _checked(item, digest_to_sign(unsigned.approved_policy, unsigned.policy_ref))
    lines = (
        f"delegate profile '{claims.profile}' epoch {claims.epoch}{_cell(claims.cell)} to a rule key",
        f"  rule key: {claims.rule_point.hex()}",
        f"  the authority says it will approve states that equal an approved one in PCR "
        f"{', '.join(map(str, item.match))}; the key itself can approve any state of this epoch and cell",
    )
    return Reviewed(item.request_id, digest, lines, "", unseen=False)


def _checked(item: SigningRequest, digest: bytes) -> bytes:
    if digest.hex() != item.request_id:
        raise IntegrityRefused(
            f"approver request {item.request_id[:16]}: what it says gives the digest {digest.hex()[:16]}",
            hint="export the requests again",
        )
    return digest


def _cell(cell: str) -> str:
    return f" cell '{cell}'" if cell else ""


def _text(event: dict[str, object]) -> str:
    return str(event.get("text") or f"sha256 {str(event['digest'])[:16]}…")


def _line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
