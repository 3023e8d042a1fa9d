"""What an approved state looked like, kept as JSON beside its approval so that hosts can explain differences.

The approver's signature does not cover it (the trust bundle's does); it decides nothing, the TPM's policy does.

    {"pcrs": {"9": "<64 hex>", …},
     "events": [{"index": 21, "pcr": 9, "type": "EV_EVENT_TAG", "what": "kernel command line",
                 "digest": "<64 hex>", "text": "root=…"}, …]}      text is left out where only the digest is known
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sealvm.attest.state import MeasuredState
from sealvm.attest.words import words_for
from sealvm.errors import MalformedError
from sealvm.tcg.eventlog import EVENTS_MAX

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TEXT_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class ReferenceEvent:
    """One event of a state: where, what it is called, its digest in hex, and its text where the digest proves one."""

    index: int
    pcr: int
    type_name: str
    what: str
    digest: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """PCR values and events of one state."""

    pcr_values: Mapping[int, bytes]
    events: tuple[ReferenceEvent, ...]

    def events_of(self, pcr: int) -> tuple[ReferenceEvent, ...]:
        """The events that extended `pcr`, in order."""
        return tuple(event for event in self.events if event.pcr == pcr)


def reference_from(state: MeasuredState) -> Reference:
    """`state` in the form in which states are compared."""
    return Reference(
        dict(state.pcr_values),
        tuple(
            ReferenceEvent(e.index, e.pcr, e.type_name, words_for(e).what, e.digest.hex(), e.text())
            for e in state.events
        ),
    )


def reference_of(state: MeasuredState, selection: Collection[int] | None = None) -> dict[str, Any]:
    """The JSON object to keep with an approval: PCRs and events of `selection`, or of all that the state has."""
    chosen = state.pcr_values.keys() if selection is None else frozenset(selection)
    reference = reference_from(state)
    events: list[dict[str, Any]] = []
    for event in reference.events:
        if event.pcr not in chosen:
            continue
        entry: dict[str, Any] = {"index": event.index, "pcr": event.pcr, "type": event.type_name, "what": event.what}
        entry["digest"] = event.digest
        events.append(entry if event.text is None else {**entry, "text": event.text})
    pcrs = {str(pcr): value.hex() for pcr, value in sorted(reference.pcr_values.items()) if pcr in chosen}
    return {"pcrs": pcrs, "events": events}


def parse_reference(obj: object) -> Reference:
    """Read what `reference_of` wrote; raises MalformedError for any other form."""
    if not isinstance(obj, Mapping) or set(obj) != {"pcrs", "events"}:
        raise _malformed("expected an object with pcrs and events")
    pcrs, events = obj["pcrs"], obj["events"]
    if not isinstance(pcrs, Mapping) or not isinstance(events, list | tuple) or len(events) > EVENTS_MAX:
        raise _malformed(f"pcrs must be an object, events a list of at most {EVENTS_MAX}")
    values: dict[int, bytes] = {}
    for pcr, value in pcrs.items():
        if pcr not in _PCR_NAMES or not _is_digest(value):
            raise _malformed("pcrs must map 0 to 23 to 64 lower-case hex digits")
        values[int(pcr)] = bytes.fromhex(value)
    return Reference(values, tuple(_parse_event(event) for event in events))


_PCR_NAMES: Final = frozenset(str(pcr) for pcr in range(24))


def _parse_event(obj: object) -> ReferenceEvent:
    if not isinstance(obj, Mapping) or set(obj) - {"text"} != {"index", "pcr", "type", "what", "digest"}:
        raise _malformed("an event needs index, pcr, type, what and digest, and may have text")
    index, pcr, digest, text = obj["index"], obj["pcr"], obj["digest"], obj.get("text")
    if type(index) is not int or not 0 <= index < EVENTS_MAX or type(pcr) is not int or pcr not in range(24):
        raise _malformed("an event's index or pcr is out of range")
    if not _is_digest(digest) or not (text is None or _is_line(text)) or not (_is_line(obj["type"], obj["what"])):
        raise _malformed(f"event {index}: digest must be 64 lower-case hex digits, type, what and text printable lines")
    return ReferenceEvent(index, pcr, obj["type"], obj["what"], digest, text)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_line(*values: object) -> bool:
    return all(isinstance(value, str) and len(value) <= _TEXT_MAX and value.isprintable() for value in values)


def _malformed(problem: str) -> MalformedError:
    return MalformedError(f"reference of an approved state: {problem}")
