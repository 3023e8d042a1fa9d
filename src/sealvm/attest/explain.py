"""Why a profile's key cannot be used in a host's state: which PCR, which event, what was approved, what to do.

For people. It decides nothing: the TPM does, by the approvals. Texts come from events whose digest proves them, what is
known by digest only is shown as a digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any, Final

from sealvm.attest.evaluate import Evaluation, evaluate
from sealvm.attest.profile import Profile, load_profile
from sealvm.attest.reference import Reference, ReferenceEvent, parse_reference, reference_from, reference_of
from sealvm.attest.state import MeasuredState
from sealvm.attest.words import words_for
from sealvm.errors import MalformedError
from sealvm.tcg.imalog import IMA_PCR

__all__ = ["BrokenRequirement", "Explanation", "PcrDifference", "explain", "reference_of", "render"]

DIFFERENCES_PER_PCR_MAX: Final = 8
_IMA_ADVICE: Final = "reboot, and use the key before other files are opened; better, leave PCR 10 out of the profile"
_UNEXPLAINED: Final = "an event log that does not fit the TPM's value"
_UNEXPLAINED_ADVICE: Final = "reboot, to start again with PCRs that the log explains"


@dataclass(frozen=True, slots=True)
class PcrDifference:
    """One thing that differs from the nearest approved state.

    `event_index` counts in this host's log, or in the approved one's where this host lacks the event; None where no
    event can be named. `approved` and `found` are texts, `sha256 …`, or `(nothing)`.
    """

    pcr: int
    event_index: int | None
    event_type: str
    what: str
    approved: str
    found: str
    advice: str


@dataclass(frozen=True, slots=True)
class BrokenRequirement:
    """A requirement that this state does not meet, and why."""

    name: str
    says: str
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to "why not now?". `satisfied` means that the state's PCRs are exactly those of an approved state."""

    profile: str
    satisfied: bool
    approved_states: int
    differences: tuple[PcrDifference, ...]
    breaks: tuple[BrokenRequirement, ...]
    to_do: str

    def to_json(self) -> dict[str, Any]:
        """Stable JSON: the fields by their names."""
        return asdict(self)


def explain(profile: Profile | str, references: Sequence[Mapping[str, Any]], state: MeasuredState) -> Explanation:
    """Compare `state` with the approved states of `profile` (or of the profile's document) and with its requirements.

    `references` are what `reference_of` gave for each approval of the profile. The differences are those from the
    approved state that is nearest: fewest PCRs, then fewest events. Raises MalformedError for a profile or reference
    that cannot be read, and when `state` lacks a PCR of the profile.
    """
    judged = load_profile(profile, "profile") if isinstance(profile, str) else profile
    if missing := [pcr for pcr in judged.pcrs if pcr not in state.pcr_values]:
        raise MalformedError(f"profile '{judged.name}': the state has no value of PCR {missing[0]}", pcr=missing[0])
    approved = [parse_reference(reference) for reference in references]
    compared = [_differences(judged.pcrs, reference, state) for reference in approved]
    nearest = min(compared, key=lambda found: (len({difference.pcr for difference in found}), len(found)), default=())
    satisfied = any(not found for found in compared)
    evaluation = evaluate(judged, state.evidence)
    breaks = tuple(BrokenRequirement(r.name, r.says, r.detail) for r in evaluation.results if not r.met)
    return Explanation(
        profile=judged.name,
        satisfied=satisfied,
        approved_states=len(approved),
        differences=nearest,
        breaks=breaks,
        to_do="" if satisfied else _to_do(judged.name, nearest, evaluation, bool(approved)),
    )


def _differences(pcrs: Iterable[int], approved: Reference, state: MeasuredState) -> tuple[PcrDifference, ...]:
    differences: list[PcrDifference] = []
    for pcr in pcrs:
        value = approved.pcr_values.get(pcr)
        if value is None:
            raise MalformedError(f"reference of an approved state: no value of PCR {pcr}", pcr=pcr)
        if value == state.pcr_values[pcr]:
            continue
        by_event = _event_differences(pcr, approved, state)
        flaw = next((flaw for flaw in state.flaws if flaw.pcr == pcr), None)
        if flaw is None and pcr == IMA_PCR:
            by_event = [_ima_difference(value, state)]
        elif flaw is not None or not by_event:
            found = flaw.message if flaw is not None else f"PCR value {state.pcr_values[pcr].hex()[:16]}…"
            was = f"PCR value {value.hex()[:16]}…"
            by_event.append(PcrDifference(pcr, None, "", _UNEXPLAINED, was, found, _UNEXPLAINED_ADVICE))
        differences += by_event
    return tuple(differences)


def _ima_difference(approved: bytes, state: MeasuredState) -> PcrDifference:
    """IMA's entries are not kept with an approval: there are thousands, and they change while the host runs."""
    found = f"{len(state.ima)} entries in IMA's log, PCR value {state.pcr_values[IMA_PCR].hex()[:16]}…"
    was = f"PCR value {approved.hex()[:16]}…"
    return PcrDifference(IMA_PCR, None, "", "files that Linux measured (IMA)", was, found, _IMA_ADVICE)


def _event_differences(pcr: int, approved: Reference, state: MeasuredState) -> list[PcrDifference]:
    """Events of `pcr` that are not the approved ones, aligned so that one insertion does not shift all that follow."""
    old = approved.events_of(pcr)
    new = reference_from(state).events_of(pcr)
    advice = {event.index: words_for(event).advice for event in state.events}
    matcher = SequenceMatcher(None, [e.digest for e in old], [e.digest for e in new], autojunk=False)
    found: list[PcrDifference] = []
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        for offset in range(max(old_end - old_start, new_end - new_start)):
            was = old[old_start + offset] if old_start + offset < old_end else None
            now = new[new_start + offset] if new_start + offset < new_end else None
            found.append(_difference(pcr, was, now, advice))
    return found[:DIFFERENCES_PER_PCR_MAX]


def _difference(
    pcr: int, was: ReferenceEvent | None, now: ReferenceEvent | None, advice: Mapping[int, str]
) -> PcrDifference:
    event = now if now is not None else was
    if event is None:
        raise AssertionError("a difference has at least one side")
    return PcrDifference(
        pcr=pcr,
        event_index=event.index,
        event_type=event.type_name,
        what=event.what,
        approved=_side(was),
        found=_side(now),
        advice=advice[now.index] if now is not None else f"bring back the {event.what}",
    )


def _side(event: ReferenceEvent | None) -> str:
    if event is None:
        return "(nothing)"
    return event.text if event.text is not None else f"sha256 {event.digest[:16]}…"


def _to_do(name: str, differences: Sequence[PcrDifference], evaluation: Evaluation, any_approved: bool) -> str:
    if not any_approved:
        if evaluation.satisfied:
            return f"approve this state: no state is approved for profile '{name}' yet"
        return f"no state is approved for profile '{name}' yet; boot as its requirements say, then approve that state"
    advices = list(dict.fromkeys(difference.advice for difference in differences))
    todo = "; ".join(advices)
    return todo if _UNEXPLAINED_ADVICE in advices else f"{todo}, or approve this state"


def render(explanation: Explanation) -> list[str]:
    """The lines that a person reads, without colours: which PCR and event differ, what that breaks, what to do."""
    lines = [] if explanation.approved_states else ["no state is approved"]
    if explanation.satisfied:
        lines = [f"this state is approved for profile '{explanation.profile}'"]
    for difference in explanation.differences:
        place = "" if difference.event_index is None else f", from event {difference.event_index}"
        lines += [
            f"PCR {difference.pcr} differs{place}: {difference.what}",
            f"  approved: {difference.approved}",
            f"  found:    {difference.found}",
        ]
    lines += [f'breaks: {broken.name} "{broken.says}"' for broken in explanation.breaks]
    return [*lines, f"to do: {explanation.to_do}"] if explanation.to_do else lines
