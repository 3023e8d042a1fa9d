"""Facts from events whose digests were proved by quoted PCRs.

The adversary: whoever runs on the host after the boot. They hand over the log, so types, data and order *between* PCRs
are theirs to write; they can extend any PCR further; they cannot change what a PCR already took in, nor its order. So

1. a fact reads only PCRs that were quoted and that the log explains;
2. data counts only where the event's digest is its hash, or that of a preimage;
3. firmware facts use events before their PCR's separator, which is known by digest and not by label; an event of the
   fact's kind after it, or twice, makes the fact unknown;
4. in PCR 4 whatever has not the digest of an action of the closed list below counts as a program, whatever its label;
5. PCR 9 must have exactly the shape that the kernel's EFI stub gives it: the load options first, then at most an
   initrd. The first event of PCR 9 is then the one that the measured kernel wrote, and nothing can be slipped in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sealvm.attest.events import MeasuredEvent
from sealvm.attest.facts import FACTS, Evidence, Fact, absent, known, named, unknown
from sealvm.tcg.events_data import EFI_GLOBAL_VARIABLE, decode_text
from sealvm.tcg.events_types import (
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_S_CRTM_VERSION,
    TAG_INITRD,
    TAG_LOAD_OPTIONS,
)

# Linux copies at most COMMAND_LINE_SIZE - 1 bytes of the options on x86 and ignores the rest.
CMDLINE_BYTES_MAX: Final = 2047

# PC Client Platform Firmware Profile 1.06, section 10.4.4, the strings of PCR 4.
_BOOT_ACTIONS: Final = frozenset(
    hashlib.sha256(text).digest()
    for text in (
        b"Calling EFI Application from Boot Option",
        b"Returning from EFI Application from Boot Option",
        b"Entering ROM Based Setup",
    )
)


def derive_evidence(events: Sequence[MeasuredEvent], explained: Collection[int]) -> Evidence:
    """Every fact of FACTS, known, absent or unknown. `explained`: the PCRs that were quoted and that the log explains.

    The caller must have checked that `events` replay to the quoted values of those PCRs, and that PCR 0 to 7 have
    exactly one separator each (`sealvm.attest.state` does both).
    """
    by_pcr: Mapping[int, list[MeasuredEvent]] = {info.pcr: [] for info in FACTS.values()}
    for event in events:
        if event.pcr in by_pcr:
            by_pcr[event.pcr].append(event)
    facts = [
        _firmware_list("firmware.digests", by_pcr[0]),
        _firmware_version(by_pcr[0]),
        _firmware_list("firmware.drivers", by_pcr[2]),
        *_programs(by_pcr[4]),
        _secure_boot(by_pcr[7]),
        *_stub(by_pcr[9]),
    ]
    return {fact.name: fact if FACTS[fact.name].pcr in explained else _unquoted(fact.name) for fact in facts}


def _unquoted(name: str) -> Fact:
    return unknown(name, f"PCR {FACTS[name].pcr}, which would prove it, is not quoted or not explained by the log")


def _split(events: Sequence[MeasuredEvent]) -> tuple[list[MeasuredEvent], list[MeasuredEvent]]:
    """Events before and after the separator; all are 'before' when there is none, which the state's check refuses."""
    for position, event in enumerate(events):
        if event.is_separator:
            return list(events[:position]), list(events[position + 1 :])
    return list(events), []


def _firmware_list(name: str, events: Sequence[MeasuredEvent]) -> Fact:
    before, after = _split(events)
    if after:
        return unknown(
            name, f"event {after[0].index} came after the firmware had finished PCR {after[0].pcr}", after[0].index
        )
    if not before:
        return absent(name, "the firmware measured none")
    return known(name, tuple(event.digest.hex() for event in before), tuple(event.index for event in before))


def _firmware_version(events: Sequence[MeasuredEvent]) -> Fact:
    name = "firmware.version"
    before, after = _split(events)
    claimed = [event for event in (*before, *after) if event.event_type == EV_S_CRTM_VERSION]
    event = _one(claimed, before)
    if event is None:
        return unknown(name, _not_one("version events", claimed), *(event.index for event in claimed))
    text = decode_text(event.content) if event.content is not None and event.content_from == "data" else None
    if text is None:
        return unknown(name, f"the digest of event {event.index} is not that of a printable version", event.index)
    return known(name, text, (event.index,))


def _secure_boot(events: Sequence[MeasuredEvent]) -> Fact:
    name = "secureboot.enabled"
    before, after = _split(events)
    claimed = [
        event
        for event in (*before, *after)
        if event.event_type == EV_EFI_VARIABLE_DRIVER_CONFIG
        and (variable := event.variable) is not None
        and (variable.vendor, variable.name) == (EFI_GLOBAL_VARIABLE, "SecureBoot")
    ]
    event = _one(claimed, before)
    if event is None:
        return unknown(
            name, _not_one("events of the variable SecureBoot", claimed), *(event.index for event in claimed)
        )
    value = event.variable.data if event.variable is not None else b""
    if value not in (b"\x00", b"\x01"):
        return unknown(name, f"event {event.index} has neither of the values 0 and 1", event.index)
    return known(name, value == b"\x01", (event.index,))


def _one(claimed: Sequence[MeasuredEvent], before: Sequence[MeasuredEvent]) -> MeasuredEvent | None:
    """The one event that claims to be it, if it is one and before the separator."""
    return claimed[0] if len(claimed) == 1 and claimed[0] in before else None


def _not_one(what: str, claimed: Sequence[MeasuredEvent]) -> str:
    if not claimed:
        return f"the log has no {what} whose digest fits"
    return f"{what} must occur once and before the separator; found {named(tuple(event.index for event in claimed))}"


def _programs(events: Sequence[MeasuredEvent]) -> tuple[Fact, Fact]:
    """`bootapps` and `kernel.digest`: all of PCR 4 but its separator and the known actions, told by their digests."""
    programs = [event for event in events if not event.is_separator and event.digest not in _BOOT_ACTIONS]
    if not programs:
        reason = "the firmware started no program"
        return absent("bootapps", reason), absent("kernel.digest", reason)
    digests = tuple(event.digest.hex() for event in programs)
    indices = tuple(event.index for event in programs)
    return known("bootapps", digests, indices), known("kernel.digest", digests[-1], indices[-1:])


def _stub(events: Sequence[MeasuredEvent]) -> tuple[Fact, Fact]:
    """`kernel.cmdline` and `initrd.digest`, from a PCR 9 in which only the kernel's EFI stub measured."""
    cmdline, initrd = "kernel.cmdline", "initrd.digest"
    if not events:
        return absent(cmdline, "nothing was measured into PCR 9"), absent(initrd, "nothing was measured into PCR 9")
    for event, tag, what in zip(events, (TAG_LOAD_OPTIONS, TAG_INITRD), ("load options", "initrd"), strict=False):
        if event.tagged is None or event.tagged.tag != tag:
            reason = f"event {event.index} in PCR 9 is not the kernel's {what}, which must come there"
            return unknown(cmdline, reason, event.index), unknown(initrd, reason, event.index)
    if len(events) > 2:
        late = events[2].index
        reason = f"event {late} in PCR 9 came after the kernel had measured its options and initrd"
        return unknown(cmdline, reason, late), unknown(initrd, reason, late)
    if len(events) == 1:
        return _cmdline(events[0]), absent(initrd, "the kernel measured no initrd")
    return _cmdline(events[0]), known(initrd, events[1].digest.hex(), (events[1].index,))


def _cmdline(event: MeasuredEvent) -> Fact:
    name = "kernel.cmdline"
    if event.content is None:
        return unknown(name, f"event {event.index} has a digest only, and no preimage fits it", event.index)
    text = decode_text(event.content)
    if text is None or not text.isascii() or len(text) > CMDLINE_BYTES_MAX:
        # Linux ends the options at a control character, cuts long ones, and takes byte A0 of UTF-8 for a space.
        reason = f"what event {event.index} hashed is not one printable ASCII line of at most {CMDLINE_BYTES_MAX} bytes"
        return unknown(name, reason, event.index)
    return known(name, text, (event.index,), f"{event.content_from} of event {event.index}")
