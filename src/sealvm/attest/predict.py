"""The state a host will be in after it boots other artefacts, computed before any host boots them.

What the firmware measures of itself is taken over from a state that was observed; what boots is replaced. Pure, and no
more trustworthy than the observed state it starts from: pass one that `verify_measured_state` gave before you approve.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sealvm.attest.artefacts import Artefacts, Boot, boot_of, load_options
from sealvm.attest.events import MeasuredEvent
from sealvm.attest.evidence import derive_evidence, is_program
from sealvm.attest.explain import Explanation, explain
from sealvm.attest.facts import FactStatus
from sealvm.attest.profile import Profile
from sealvm.attest.state import PCRS_REQUIRED, MeasuredState
from sealvm.errors import ConflictError, EvidenceRefused
from sealvm.tcg.eventlog import extend
from sealvm.tcg.events_data import parse_variable
from sealvm.tcg.events_types import (
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EVENT_TAG,
    EV_IPL,
    TAG_INITRD,
    TAG_LOAD_OPTIONS,
)
from sealvm.tcg.pcr import PCR_BYTES

PCRS_TAKEN_OVER: Final = (0, 1, 2, 3, 5, 6, 7)
PCRS_COMPUTED: Final = (4, 8, 9, 11, 12, 13, 14)

_SHIM_LOCK: Final = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
_OPTIONS_NAME: Final = b"LOADED_IMAGE::LoadOptions\0"
_INITRD_NAME: Final = b"Linux initrd\0"


def predict(observed: MeasuredState, artefacts: Artefacts) -> MeasuredState:
    """The state after the next boot of the host that was observed, if it boots `artefacts` and nothing else changes.

    PCR 0, 2 and 7, and 1, 3, 5 and 6 where observed, keep their values, and PCR 4 the firmware's own events; PCR 4, 8,
    9 and 11 to 14 are computed, and PCR 1 when it holds the old options in a boot entry. There is no value of PCR 10,
    which moves. Firmware settings, other boot entries, partition table and, with Secure Boot, the key by which the
    program is accepted are assumed to stay.

    The events are numbered in an order in which they could have happened. Raises EvidenceRefused for an observed state
    with flaws, without PCR 0, 2, 4 and 7, or which does not tell whether Secure Boot is on; ConflictError for a host
    that boots by shim, and for artefacts whose boot is not predictable; MalformedError for artefacts that are none.
    """
    secure_boot = _checked(observed)
    boot = boot_of(artefacts, secure_boot=secure_boot)
    firmware, programs = _of_pcr_4(observed, boot)
    kept = [_entry(event, observed, boot) for event in observed.events if event.pcr in PCRS_TAKEN_OVER]
    early = programs if boot.before_separator else []
    late = [] if boot.before_separator else programs
    ordered = [*kept, *early, *firmware, *late, *_section_events(boot), *_stub_events(boot)]
    events = tuple(replace(event, index=index) for index, event in enumerate(ordered, start=1))
    values = {pcr: observed.pcr_values[pcr] for pcr in PCRS_TAKEN_OVER if pcr in observed.pcr_values}
    computed = (*PCRS_COMPUTED, 1) if 1 in values else PCRS_COMPUTED
    values = dict(sorted((values | {pcr: _value(events, pcr) for pcr in computed}).items()))
    return MeasuredState(values, events, derive_evidence(events, values, values.keys()), ())


def next_boot(
    profile: Profile | str, references: Sequence[Mapping[str, Any]], observed: MeasuredState, artefacts: Artefacts
) -> Explanation:
    """Would this host come back for `profile` after booting `artefacts`? As `explain`, of the predicted state.

    Raises as `predict` and `explain`.
    """
    return explain(profile, references, predict(observed, artefacts))


def _checked(observed: MeasuredState) -> bool:
    """Whether Secure Boot is on, in an observed state from which a prediction can start."""
    if observed.flaws:
        flaw = observed.flaws[0]
        raise EvidenceRefused(f"the observed state is flawed: {flaw.message}", pcr=flaw.pcr, event=flaw.event_index)
    if missing := sorted(PCRS_REQUIRED - observed.pcr_values.keys()):
        raise EvidenceRefused(f"the observed state has no value of PCR {missing[0]}", pcr=missing[0])
    secure = observed.evidence["secureboot.enabled"]
    if secure.status is not FactStatus.KNOWN:
        raise EvidenceRefused(f"the observed state does not tell whether Secure Boot is on: {secure.reason}")
    if any(_by_shim(event) for event in observed.events):
        raise ConflictError(
            "the observed host boots by shim, whose successors cannot be predicted",
            hint="boot the update on one host and approve the state that this host reports",
        )
    return secure.value is True


def _by_shim(event: MeasuredEvent) -> bool:
    if event.pcr != 7:
        return event.pcr == 14
    variable = parse_variable(event.data)
    return variable is not None and variable.vendor == _SHIM_LOCK


def _of_pcr_4(observed: MeasuredState, boot: Boot) -> tuple[list[MeasuredEvent], list[MeasuredEvent]]:
    """The firmware's own events up to the separator, and the programs of the new boot.

    Programs before the separator are the firmware's own (a setup program), unless nothing came after it: then they are
    the kernel that QEMU handed over.
    """
    events = [event for event in observed.events if event.pcr == 4]
    end = next(place for place, event in enumerate(events) if event.is_separator)
    from_qemu = not any(is_program(event) for event in events[end + 1 :])
    firmware = [event for event in events[: end + 1] if not (from_qemu and is_program(event))]
    programs = [_event(4, EV_EFI_BOOT_SERVICES_APPLICATION, digest) for digest in boot.programs]
    return firmware, programs


def _entry(event: MeasuredEvent, observed: MeasuredState, boot: Boot) -> MeasuredEvent:
    """`event`, or if it is the boot entry with the options that were observed, the entry with the new ones."""
    old = observed.evidence["kernel.cmdline"].value
    if event.pcr != 1 or event.content_from != "text" or event.content is None or not isinstance(old, str):
        return event
    ending = load_options(old)
    if not boot.by_entry or not event.content.endswith(ending):
        return event
    content = event.content.removesuffix(ending) + load_options(boot.cmdline)
    head = event.data.removesuffix(event.content)
    data = head[:24] + struct.pack("<Q", len(content)) + head[32:] + content
    return replace(event, digest=hashlib.sha256(content).digest(), data=data, content=content)


def _section_events(boot: Boot) -> Iterator[MeasuredEvent]:
    """systemd-stub: for each section its name as ASCII with a NUL, then its contents, both logged under the name."""
    for name, digest in boot.sections:
        logged, hashed = (name + "\0").encode("utf-16-le"), (name + "\0").encode()
        yield MeasuredEvent(0, 11, EV_IPL, hashlib.sha256(hashed).digest(), logged, hashed, "text")
        yield _event(11, EV_IPL, digest, logged)


def _stub_events(boot: Boot) -> Iterator[MeasuredEvent]:
    """The kernel's EFI stub (drivers/firmware/efi/libstub/efi-stub-helper.c): options, then an initrd it was handed."""
    options = load_options(boot.cmdline)
    tagged = _tagged(TAG_LOAD_OPTIONS, _OPTIONS_NAME)
    yield MeasuredEvent(0, 9, EV_EVENT_TAG, hashlib.sha256(options).digest(), tagged, options, "preimage")
    if boot.initrd_digest is not None:
        yield _event(9, EV_EVENT_TAG, boot.initrd_digest, _tagged(TAG_INITRD, _INITRD_NAME))


def _tagged(tag: int, name: bytes) -> bytes:
    return struct.pack("<II", tag, len(name)) + name


def _event(pcr: int, event_type: int, digest: bytes, data: bytes = b"") -> MeasuredEvent:
    return MeasuredEvent(0, pcr, event_type, digest, data, None, "")


def _value(events: Sequence[MeasuredEvent], pcr: int) -> bytes:
    value = bytes(PCR_BYTES)
    for event in events:
        if event.pcr == pcr:
            value = extend(value, event.digest)
    return value
