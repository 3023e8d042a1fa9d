"""Events of a log, each with the bytes that are known to have been hashed into its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sealvm.errors import MalformedError
from sealvm.tcg.eventlog import EventLog
from sealvm.tcg.events_data import (
    TaggedEvent,
    UefiVariable,
    decode_text,
    hashed_text,
    load_option_text,
    parse_tagged,
    parse_variable,
)
from sealvm.tcg.events_types import (
    EV_EFI_ACTION,
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_BOOT2,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EVENT_TAG,
    EV_IPL,
    EV_S_CRTM_VERSION,
    SEPARATOR_DATA,
    SEPARATOR_ERROR_DATA,
    TAG_LOAD_OPTIONS,
    type_name,
)

PREIMAGES_MAX: Final = 64
PREIMAGE_BYTES_MAX: Final = 64 << 10

SEPARATORS: Final = frozenset(hashlib.sha256(data).digest() for data in SEPARATOR_DATA)
SEPARATOR_ERROR: Final = hashlib.sha256(SEPARATOR_ERROR_DATA).digest()

_HASHED_VARIABLES: Final = (EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_VARIABLE_AUTHORITY, EV_EFI_VARIABLE_BOOT2)


@dataclass(frozen=True, slots=True)
class MeasuredEvent:
    """One event that extended a PCR in SHA-256.

    `content` is what was hashed, so that its SHA-256 is `digest`: the event's own data, a text that the data has in
    another form, or a preimage. None when none fits. `event_type` and `data` are what the log claims, and no more.
    """

    index: int
    pcr: int
    event_type: int
    digest: bytes
    data: bytes
    content: bytes | None
    content_from: Literal["data", "text", "preimage", ""]

    @property
    def type_name(self) -> str:
        """The specification's name of the claimed type."""
        return type_name(self.event_type)

    @property
    def is_separator(self) -> bool:
        """Whether this ends the firmware's part of its PCR, by its digest and whatever the log calls it."""
        return self.digest in SEPARATORS

    @property
    def tagged(self) -> TaggedEvent | None:
        """The claimed tag of an EV_EVENT_TAG."""
        return parse_tagged(self.data) if self.event_type == EV_EVENT_TAG else None

    @property
    def variable(self) -> UefiVariable | None:
        """The UEFI variable this event measured, when its digest covers name and value."""
        if self.content_from != "data" or self.event_type not in _HASHED_VARIABLES:
            return None
        return parse_variable(self.data)

    def text(self) -> str | None:
        """What was measured, as one printable line, where the digest proves it; None where only the digest is known."""
        if self.content is None:
            return None
        variable = self.variable
        if variable is not None:
            return f"{variable.name} = {_short(variable.data)}"
        if self.event_type in (EV_IPL, EV_EFI_ACTION):
            return printable_ascii(self.content)
        if self.event_type == EV_EFI_VARIABLE_BOOT:
            return load_option_text(self.content) or _short(self.content)
        tagged = self.tagged
        if self.event_type == EV_S_CRTM_VERSION or (tagged is not None and tagged.tag == TAG_LOAD_OPTIONS):
            return decode_text(self.content)
        return "end of the firmware's measurements" if self.is_separator else None


def printable_ascii(content: bytes) -> str | None:
    """`content` without one terminating NUL, if it is one printable line of ASCII."""
    content = content.removesuffix(b"\0")
    text = content.decode("ascii") if content.isascii() else ""
    return text if text and text.isprintable() else None


def _short(value: bytes) -> str:
    if len(value) <= 16:
        return value.hex() or "(empty)"
    return f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:16]}"


def measured_events(log: EventLog, preimages: Sequence[bytes], pcrs: Iterable[int]) -> tuple[MeasuredEvent, ...]:
    """The log's events that extended one of `pcrs`, each with its content where data or a preimage has its digest.

    Raises MalformedError for more than 64 preimages or one above 64 KiB. A preimage that fits no event is ignored.
    """
    if len(preimages) > PREIMAGES_MAX:
        raise MalformedError(f"preimages: {len(preimages)}, at most {PREIMAGES_MAX} are read")
    by_digest: dict[bytes, bytes] = {}
    for number, preimage in enumerate(preimages):
        if len(preimage) > PREIMAGE_BYTES_MAX:
            raise MalformedError(f"preimage {number}: {len(preimage)} bytes, at most {PREIMAGE_BYTES_MAX} are read")
        by_digest[hashlib.sha256(preimage).digest()] = bytes(preimage)
    wanted = frozenset(pcrs)
    events: list[MeasuredEvent] = []
    for event in log.events:
        if not event.extends or event.pcr not in wanted:
            continue
        digest = event.digests["sha256"]
        content: bytes | None = by_digest.get(digest)
        source: Literal["data", "text", "preimage", ""] = "" if content is None else "preimage"
        text = hashed_text(event.event_type, event.data)
        if text is not None and hashlib.sha256(text).digest() == digest:
            content, source = text, "text"
        if hashlib.sha256(event.data).digest() == digest:
            content, source = event.data, "data"
        events.append(MeasuredEvent(event.index, event.pcr, event.event_type, digest, event.data, content, source))
    return tuple(events)
