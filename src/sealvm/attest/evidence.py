"""Facts from events whose digests were proved by quoted PCRs.

The adversary: whoever runs on the host after the boot. They hand over the log, so types, data and order *between* PCRs
are theirs to write; they can extend any PCR further; they cannot change what a PCR already took in, nor its order. So

1. a fact reads only PCRs that were quoted and that the log explains;
2. data counts only where the event's digest is its hash, or that of a preimage;
3. firmware facts use events before their PCR's separator, which is known by digest and not by label; an event of the
   fact's kind after it, or twice, makes the fact unknown;
4. in PCR 4 whatever has not the digest of an action of the closed list below counts as a program, whatever its label;
5. PCR 9 must have exactly the shape that the kernel's EFI stub gives it: the load options first, then at most an
   initrd. The first event of PCR 9 is then the one that the measured kernel wrote, and nothing can be slipped in. A
   kernel that reads an initrd named in its options does not measure it: nothing is then known of the initrd;
6. of what boot loaders and shim measured, a fact is the whole of a PCR in order, never one event picked by its label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sealvm.attest.events import MeasuredEvent, printable_ascii
from sealvm.attest.evidence_ima import ima_files
from sealvm.attest.evidence_keys import secure_boot_keys
from sealvm.attest.facts import FACTS, Evidence, Fact, absent, known, named, unknown
from sealvm.tcg.events_data import EFI_GLOBAL_VARIABLE, decode_text
from sealvm.tcg.events_types import (
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_S_CRTM_VERSION,
    TAG_INITRD,
    TAG_LOAD_OPTIONS,
)
from sealvm.tcg.imalog import ImaEntry

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


def derive_evidence(
    events: Sequence[MeasuredEvent],
    values: Mapping[int, bytes],
    explained: Collection[int],
    ima: Sequence[ImaEntry] = (),
) -> Evidence:
    """Every fact of FACTS, known, absent or unknown. `explained`: the PCRs that were quoted and that the logs explain.

    The caller must have checked that `events`, and for PCR 10 `ima`, replay to the quoted `values` of those PCRs, and
    that PCR 0 to 7 have exactly one separator each (`sealvm.attest.state` does both).
    """
    by_pcr: Mapping[int, list[MeasuredEvent]] = {info.pcr: [] for info in FACTS.values()}
    for event in events:
        if event.pcr in by_pcr:
            by_pcr[event.pcr].append(event)
    whole = [(name, info.pcr) for name, info in FACTS.items() if info.pcr in (11, 12, 13, 14) or name == "grub.files"]
    facts = [
        _firmware_list("firmware.digests", by_pcr[0]),
        _firmware_version(by_pcr[0]),
        _firmware_list("firmware.drivers", by_pcr[2]),
        *_programs(by_pcr[4]),
        _secure_boot(by_pcr[7]),
        *secure_boot_keys(by_pcr[7]),
        _commands(by_pcr[8]),
        *_stub(by_pcr[9]),
        ima_files(ima, values, explained),
        *(_whole(name, pcr, by_pcr[pcr]) for name, pcr in whole),
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


def is_program(event: MeasuredEvent) -> bool:
    """Whether an event of PCR 4 counts as a program: all but separators and known actions, told by their digests."""
    return not event.is_separator and event.digest not in _BOOT_ACTIONS


def _programs(events: Sequence[MeasuredEvent]) -> tuple[Fact, Fact, Fact]:
    """`bootapps`, `bootloader.digest` and `kernel.digest`: all of PCR 4 that is a program, the first, and the last."""
    programs = [event for event in events if is_program(event)]
    names = ("bootapps", "bootloader.digest", "kernel.digest")
    if not programs:
        # Something runs on this host; OVMF for one starts a kernel whose signature does not fit without measuring it.
        all_apps, first, last = (unknown(name, "the firmware measured no program that it started") for name in names)
        return all_apps, first, last
    digests = tuple(event.digest.hex() for event in programs)
    indices = tuple(event.index for event in programs)
    return (
        known("bootapps", digests, indices),
        known("bootloader.digest", digests[0], indices[:1]),
        known("kernel.digest", digests[-1], indices[-1:]),
    )


def _whole(name: str, pcr: int, events: Sequence[MeasuredEvent]) -> Fact:
    """All digests that a PCR took in, in order."""
    if not events:
        return absent(name, f"nothing was measured into PCR {pcr}")
    return known(name, tuple(event.digest.hex() for event in events), tuple(event.index for event in events))


def _commands(events: Sequence[MeasuredEvent]) -> Fact:
    """`grub.commands`: all texts that PCR 8 took in. The words before a text in the log are not hashed: no part."""
    name = "grub.commands"
    if not events:
        return absent(name, "nothing was measured into PCR 8")
    texts: list[str] = []
    for event in events:
        text = None if event.content is None else printable_ascii(event.content)
        if text is None:
            return unknown(name, f"the digest of event {event.index} is not that of a printable line", event.index)
        texts.append(text)
    return known(name, tuple(texts), tuple(event.index for event in events))


def _stub(events: Sequence[MeasuredEvent]) -> tuple[Fact, Fact]:
    """`kernel.cmdline` and `initrd.digest`, from a PCR 9 in which only the kernel's EFI stub measured."""
    cmdline, initrd = "kernel.cmdline", "initrd.digest"
    if not events:
        reason = "nothing was measured into PCR 9: whoever started the kernel did not let its EFI stub do so"
        return unknown(cmdline, reason), unknown(initrd, reason)
    if (stray := _stray(events)) is not None:
        reason = f"event {stray} in PCR 9 is not what the kernel's EFI stub measures there: options, then an initrd"
        return unknown(cmdline, reason, stray), unknown(initrd, reason, stray)
    given = _cmdline(events[0])
    if len(events) == 2:
        return given, known(initrd, events[1].digest.hex(), (events[1].index,))
    if not isinstance(given.value, str):
        return given, unknown(initrd, "the kernel measured no initrd, and its options are not known", events[0].index)
    if "initrd=" in given.value:
        reason = f"the options of event {events[0].index} name an initrd, which the kernel then loads without measuring"
        return given, unknown(initrd, reason, events[0].index)
    return given, absent(initrd, "the kernel measured no initrd")


def _stray(events: Sequence[MeasuredEvent]) -> int | None:
    """The first event of PCR 9 that the EFI stub does not measure there, by tag and place; None if there is none."""
    shape = (TAG_LOAD_OPTIONS, TAG_INITRD)
    for place, event in enumerate(events):
        if place >= len(shape) or event.tagged is None or event.tagged.tag != shape[place]:
            return event.index
    return None


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
