"""What is to be approved: a state proved anew from its evidence, judged by the profile's requirements.

Three sources. The newest verified state of an enrolled host; an observed state from the queue, by its digest; a
prediction, which nobody has quoted yet. A prediction is a log and the PCR values it gives: since a host that reaches
these values has extended these very digests, facts drawn from it are as good as from a quoted log.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealvm.attest.evaluate import Evaluation, RequirementResult, evaluate_sealed
from sealvm.attest.explain import PcrDifference, explain
from sealvm.attest.profile import load_profile
from sealvm.attest.state import MeasuredState, local_state
from sealvm.authority import observed
from sealvm.authority.ports import Transaction
from sealvm.authority.records import ApprovalRecord, ObservedRecord, ProfileRecord
from sealvm.errors import ConflictError, EvidenceRefused, NotFoundError
from sealvm.protocol.operator import RequirementView
from sealvm.protocol.trust import Prediction
from sealvm.statements.times import format_time

LABEL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Candidate:
    """A state and its evaluation. `host` showed it, "" for a predicted one; the evidence lets others judge it again."""

    host: str
    state: MeasuredState
    evaluation: Evaluation
    label: str
    event_log: bytes
    preimages: tuple[bytes, ...]

    @property
    def pcr_values(self) -> dict[int, bytes]:
        """By PCR index."""
        return dict(self.state.pcr_values)

    @property
    def what(self) -> str:
        """For messages."""
        return f"the state of host {self.host}" if self.host else f"the predicted state {self.label!r}"


def from_host(tx: Transaction, profile: ProfileRecord, name: str) -> Candidate:
    """The state in which host `name` was last verified. NotFoundError, EvidenceRefused for another trust class."""
    host, record = tx.host(name), tx.state(name)
    if host is None or host.enrolled is None or record is None:
        raise NotFoundError(f"host {name} is not enrolled", hint="`sealvm host list` shows those that are")
    return from_observed(profile, observed.of_host(host, record))


def from_digest(tx: Transaction, profile: ProfileRecord, selection: tuple[int, ...], prefix: str) -> Candidate:
    """The observed state whose PCR digest over `selection` begins with `prefix` (hex), in a trust class it may have.

    NotFoundError when there is none, ConflictError when the prefix fits several digests.
    """
    found: dict[bytes, ObservedRecord] = {}
    for seen in tx.observed_values():
        digest = observed.digest_in(seen.pcr_values, selection)
        if digest is not None and digest.hex().startswith(prefix) and seen.trust_class in profile.trust:
            found.setdefault(digest, seen)  # the newest comes first
    if not found:
        raise NotFoundError(
            f"no host was seen in a state {prefix} that profile {profile.name} could approve",
            hint=f"sealvm profile queue {profile.name}",
        )
    if len(found) > 1:
        raise ConflictError(f"{prefix} fits {len(found)} states", hint="give more digits")
    (light,) = found.values()
    record = tx.observed(light.state_id)
    if record is None:
        raise NotFoundError(f"the state {prefix} is not kept any more")
    return from_observed(profile, record)


def from_observed(profile: ProfileRecord, record: ObservedRecord) -> Candidate:
    """An observed state, verified again. EvidenceRefused."""
    if record.trust_class not in profile.trust:
        raise EvidenceRefused(
            f"host {record.host} is of trust class {record.trust_class}, profile {profile.name} accepts "
            f"{', '.join(profile.trust)}: what it measures proves nothing to this profile",
            check="trust-class",
        )
    state = observed.proved(record)
    unseen = sorted(set(profile.pcrs) - set(state.pcr_values))
    if unseen:
        raise EvidenceRefused(
            f"host {record.host} was last verified before profile {profile.name} asked for PCR {unseen[0]}",
            hint=f"run `sealvm host sync` on {record.host}, then approve again",
            check="quote-selection",
            pcr=unseen[0],
        )
    document = load_profile(profile.document, profile.name)
    label = f"{record.host} {format_time(record.last_seen)}"
    evaluation = evaluate_sealed(document, state.evidence)
    return Candidate(record.host, state, evaluation, label, record.event_log, record.preimages)


def from_prediction(profile: ProfileRecord, prediction: Prediction) -> Candidate:
    """A predicted state, its log replayed here. EvidenceRefused when the log does not lead to the values it states."""
    state = local_state(prediction.pcr_values, prediction.event_log, prediction.preimages)
    missing = [pcr for pcr in profile.pcrs if pcr not in state.pcr_values]
    if missing:
        raise EvidenceRefused(f"the prediction has no value of PCR {missing[0]}", check="prediction")
    if state.flaws:
        raise EvidenceRefused(f"the prediction does not hold together: {state.flaws[0].message}", check="prediction")
    document = load_profile(profile.document, profile.name)
    label = f"predicted: {prediction.label}"[:LABEL_CHARACTERS]
    evaluation = evaluate_sealed(document, state.evidence)
    return Candidate("", state, evaluation, label, prediction.event_log, tuple(prediction.preimages))


def differences(
    profile: ProfileRecord, approved: list[ApprovalRecord], candidate: Candidate
) -> tuple[PcrDifference, ...]:
    """Event by event, what differs from the nearest of the approved states; nothing where none is approved."""
    references = [record.body["reference"] for record in approved]
    return explain(load_profile(profile.document, profile.name), references, candidate.state).differences


def refuse_unmet(name: str, candidate: Candidate) -> None:
    """EvidenceRefused, with every answer in the field `requirements`, unless every requirement is met."""
    unmet = [result for result in candidate.evaluation.results if not result.met]
    if not unmet:
        return
    first = unmet[0]
    raise EvidenceRefused(
        f"{candidate.what} does not satisfy profile {name}: {first.name} ({first.says}): "
        f"expected {first.expected}, {first.detail}" + (f"; and {len(unmet) - 1} more" if len(unmet) > 1 else ""),
        hint="approve a state that meets every requirement, or change the profile's requirements",
        check="requirements",
        requirements=[requirement_view(result).model_dump(mode="json") for result in candidate.evaluation.results],
    )


def requirement_view(result: RequirementResult) -> RequirementView:
    """One answer as an operator sees it."""
    return RequirementView(
        name=result.name,
        says=result.says,
        met=result.met,
        fact=result.fact,
        expected=result.expected,
        found=result.found,
        event_index=result.event_index,
        detail=result.detail,
    )
