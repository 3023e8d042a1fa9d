"""A host's measured state: PCR values, the events that lead to them, and the facts that follow.

Two ways in. `verify_measured_state` is for evidence from elsewhere: everything hangs from a verified quote, and the
smallest flaw refuses. `local_state` is for a host that explains itself to its own operator: a flaw is reported beside
what is still true, and nothing is proved to anybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sealvm.attest.events import SEPARATOR_ERROR, MeasuredEvent, measured_events
from sealvm.attest.evidence import derive_evidence
from sealvm.attest.facts import Evidence
from sealvm.errors import EvidenceRefused, MalformedError
from sealvm.tcg.attest import VerifiedQuote
from sealvm.tcg.eventlog import EventLog, extend, initial_pcr, parse_event_log, replay
from sealvm.tcg.events_types import EV_SEPARATOR
from sealvm.tcg.imalog import IMA_PCR, ImaEntry, parse_ima_log, progress
from sealvm.tcg.pcr import PCR_BYTES, PcrSelection, pcr_digest

PCRS_REQUIRED: Final = frozenset({0, 2, 4, 7})
PCRS_RESETTABLE: Final = frozenset(range(16, 24))
_PCRS_WITH_SEPARATOR: Final = range(8)


@dataclass(frozen=True, slots=True)
class LogFlaw:
    """Why a PCR's value and its events do not hold together; `event_index` is None where no event can be named."""

    pcr: int
    event_index: int | None
    message: str


@dataclass(frozen=True, slots=True)
class MeasuredState:
    """Values of the PCRs looked at, their events in the order of the log, and all facts.

    `flaws` is empty when it comes from `verify_measured_state`. Facts of a flawed PCR are unknown. `ima` has the
    entries of IMA's log that the value of PCR 10 covers.
    """

    pcr_values: Mapping[int, bytes]
    events: tuple[MeasuredEvent, ...]
    evidence: Evidence
    flaws: tuple[LogFlaw, ...]
    ima: tuple[ImaEntry, ...] = ()


def verify_measured_state(
    quote: VerifiedQuote,
    log: bytes,
    preimages: Sequence[bytes],
    claimed_values: Mapping[int, bytes] | None = None,
    ima_log: bytes | None = b"",
) -> MeasuredState:
    """The state that `quote` proves, with evidence only from events that lead to the quoted PCR digest.

    1. The quote covers PCR 0, 2, 4 and 7 at least, and none of 16 to 23, which anybody can reset.
    2. The logs are well-formed (MalformedError otherwise, also for too many or too large preimages), and the boot log
       has SHA-256 digests.
    3. Their replay gives the quoted digest. IMA's log counts only where PCR 10 was quoted, and only up to the entry at
       which it does: it grows between the quote and its reading. None says that the host gave no IMA log: then the
       value of PCR 10 that it claims must lead to the quoted digest, and nothing is known of the files behind it.
    4. Each of PCR 0 to 7 that was quoted was extended by the firmware and has exactly one separator.

    Raises EvidenceRefused, naming PCR and event in message and fields where they can be told. `claimed_values` are PCR
    values as the host read them; beside that they serve only to name the PCR when step 3 fails, and only if they have
    the quoted digest. That the quote is fresh and of the right AK was for `sealvm.tcg.attest.verify_quote` to check.
    """
    selection = frozenset(quote.selection)
    if not selection >= PCRS_REQUIRED or selection & PCRS_RESETTABLE:
        raise EvidenceRefused(
            f"the quote covers PCR {_listed(selection)}; it must cover {_listed(PCRS_REQUIRED)} and none of 16 to 23"
        )
    parsed = _with_sha256(parse_event_log(log))
    entries = parse_ima_log(ima_log or b"")
    replayed = replay(parsed)
    if IMA_PCR in selection and ima_log is None:
        replayed[IMA_PCR] = (claimed_values or {}).get(IMA_PCR, replayed[IMA_PCR])
    elif IMA_PCR in selection:
        values = progress(entries, replayed[IMA_PCR])
        covered = _covered(
            values, lambda value: pcr_digest({**replayed, IMA_PCR: value}, selection) == quote.pcr_digest
        )
        replayed[IMA_PCR], entries = values[covered], entries[:covered]
    if pcr_digest(replayed, selection) != quote.pcr_digest:
        raise _refused(_unexplained(parsed, replayed, quote, claimed_values, len(entries)))
    state = _state(
        {pcr: replayed[pcr] for pcr in sorted(selection)}, parsed, preimages, None if ima_log is None else entries
    )
    if state.flaws:
        raise _refused(state.flaws[0])
    return state


def local_state(
    pcr_values: Mapping[int, bytes], log: bytes, preimages: Sequence[bytes], ima_log: bytes = b""
) -> MeasuredState:
    """The state of a TPM whose PCRs were just read, for a host to explain itself; proves nothing to others.

    Where a value and the log disagree there is a flaw that names PCR and event, and the facts of that PCR are unknown.
    Raises MalformedError for a log or preimages that cannot be read, or a value that is not 32 bytes, and
    EvidenceRefused for a boot log without SHA-256.
    """
    for pcr, value in pcr_values.items():
        if pcr not in range(24) or len(value) != PCR_BYTES:
            raise MalformedError(
                f"PCR {pcr}: value of {len(value)} bytes, expected {PCR_BYTES} for PCR 0 to 23", pcr=pcr
            )
    parsed = _with_sha256(parse_event_log(log))
    return _state(dict(sorted(pcr_values.items())), parsed, preimages, parse_ima_log(ima_log))


def _with_sha256(log: EventLog) -> EventLog:
    if "sha256" not in log.algorithms:
        raise EvidenceRefused(
            f"the boot log has no SHA-256 digests, only {', '.join(log.algorithms)}, which prove nothing",
            hint="switch the firmware's TPM measurements to SHA-256; a TPM 1.2 cannot be used",
        )
    return log


def _covered(values: Sequence[bytes], fits: Callable[[bytes], bool]) -> int:
    """How many entries lead to the value that `fits`, as many as can be; all of them if none does."""
    return next((count for count in range(len(values) - 1, -1, -1) if fits(values[count])), len(values) - 1)


def _state(
    values: Mapping[int, bytes], log: EventLog, preimages: Sequence[bytes], entries: tuple[ImaEntry, ...] | None
) -> MeasuredState:
    """`entries` is None where there is no IMA log: PCR 10 then has no flaw, and is not explained."""
    events = measured_events(log, preimages, values)
    replayed = replay(log)
    ima: tuple[ImaEntry, ...] = ()
    if IMA_PCR in values and entries is not None:
        progressed = progress(entries, replayed[IMA_PCR])
        ima = entries[: _covered(progressed, lambda value: value == values[IMA_PCR])]
        replayed[IMA_PCR] = progressed[len(ima)]
    flaws: list[LogFlaw] = []
    unexplained = {IMA_PCR} if entries is None else set()
    for pcr, value in values.items():
        if pcr in unexplained:
            continue
        own = [event for event in events if event.pcr == pcr]
        flaw = _separator_flaw(pcr, own, value) if pcr in _PCRS_WITH_SEPARATOR else None
        if replayed[pcr] != value:
            flaw = flaw if flaw is not None and not any(value) else _replay_flaw(log, pcr, value, len(ima))
        if flaw is not None:
            flaws.append(flaw)
    explained = values.keys() - {flaw.pcr for flaw in flaws} - unexplained
    return MeasuredState(values, events, derive_evidence(events, values, explained, ima), tuple(flaws), ima)


def _separator_flaw(pcr: int, events: Sequence[MeasuredEvent], value: bytes) -> LogFlaw | None:
    """Section 3.3.2.2 of the firmware profile: one separator in each of PCR 0 to 7, and it says that all went well."""
    if not any(value):
        return LogFlaw(pcr, None, f"PCR {pcr} was never extended: the firmware does not measure into the SHA-256 bank")
    seen: int | None = None
    for event in events:
        if event.digest == SEPARATOR_ERROR:
            return LogFlaw(
                pcr, event.index, f"event {event.index}: the firmware reports a measurement error in PCR {pcr}"
            )
        if event.is_separator != (event.event_type == EV_SEPARATOR):
            return LogFlaw(
                pcr, event.index, f"event {event.index} in PCR {pcr}: label and digest of a separator disagree"
            )
        if event.is_separator and seen is not None:
            return LogFlaw(
                pcr, event.index, f"event {event.index} is a second separator in PCR {pcr}, after event {seen}"
            )
        seen = event.index if event.is_separator else seen
    if seen is None:
        last = events[-1].index if events else None
        return LogFlaw(pcr, last, f"PCR {pcr} has no separator: the firmware never finished it")
    return None


def _replay_flaw(log: EventLog, pcr: int, value: bytes, ima_entries: int = 0) -> LogFlaw:
    """Name the first event of `pcr` that the TPM has not seen, or say that the log lacks or altered something."""
    if pcr == IMA_PCR and ima_entries:
        message = f"PCR {pcr}: no part of IMA's log of {ima_entries} entries leads to {value.hex()[:16]}…"
        return LogFlaw(pcr, None, message)
    events = [event for event in log.events if event.extends and event.pcr == pcr]
    current = initial_pcr(log, pcr)
    for event in events:
        if current == value:
            message = f"PCR {pcr}: event {event.index} ({event.type_name}) is in the log, but the TPM never saw it"
            return LogFlaw(pcr, event.index, message)
        current = extend(current, event.digests["sha256"])
    if not events:
        return LogFlaw(pcr, None, f"PCR {pcr} was extended, and the log has no event for it")
    last = events[-1]
    message = (
        f"PCR {pcr}: the log's {len(events)} events up to event {last.index} ({last.type_name}) lead to "
        f"{current.hex()[:16]}…, the TPM has {value.hex()[:16]}…: "
        "an event was altered, left out, or added without logging"
    )
    return LogFlaw(pcr, last.index, message)


def _unexplained(
    log: EventLog,
    replayed: Mapping[int, bytes],
    quote: VerifiedQuote,
    claimed: Mapping[int, bytes] | None,
    ima_entries: int,
) -> LogFlaw | str:
    """What is wrong with a log that does not give the quoted digest."""
    selection, digest = frozenset(quote.selection), quote.pcr_digest
    if claimed is not None and claimed.keys() >= set(selection):
        values = {pcr: claimed[pcr] for pcr in selection}
        if all(len(value) == PCR_BYTES for value in values.values()) and pcr_digest(values, selection) == digest:
            pcr = min(pcr for pcr in selection if values[pcr] != replayed[pcr])
            return _replay_flaw(log, pcr, values[pcr], ima_entries)
    for pcr in PcrSelection(selection):
        current = initial_pcr(log, pcr)
        for event in (event for event in log.events if event.extends and event.pcr == pcr):
            if pcr_digest({**replayed, pcr: current}, selection) == digest:
                return _replay_flaw(log, pcr, current)
            current = extend(current, event.digests["sha256"])
    return f"the event log does not lead to the quoted values of PCR {_listed(selection)}"


def _refused(flaw: LogFlaw | str) -> EvidenceRefused:
    hint = "reboot the host; if it stays, its firmware or its event log cannot be relied on"
    if isinstance(flaw, str):
        return EvidenceRefused(flaw, hint=hint)
    return EvidenceRefused(flaw.message, hint=hint, pcr=flaw.pcr, event=flaw.event_index)


def _listed(pcrs: Collection[int]) -> str:
    return ", ".join(map(str, sorted(pcrs))) or "none"
