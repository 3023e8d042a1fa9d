"""The firmware's event log: bytes to events, and events to the PCR values they lead to.

Reads both forms of TCG PC Client Platform Firmware Profile 1.06, section 10, all little-endian: the crypto-agile one, a
first event in the old form whose data is the `Spec ID Event03` header, then TCG_PCR_EVENT2 structures; and the old one,
TCG_PCClientPCREvent structures with a SHA-1 digest each, which firmware writes for a TPM 1.2. Pure: no I/O.

Nothing in a log is trusted for being in it. Only the digests are bound to the TPM, and only after the replay was
compared with quoted PCRs; an event's type and data are labels that anybody who can edit the log can change (see
`sealvm.attest`, which knows what may be concluded).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sealvm.errors import MalformedError
from sealvm.tcg.events_types import EV_NO_ACTION, type_name
from sealvm.tcg.pcr import PCR_COUNT

LOG_BYTES_MAX: Final = 1 << 20
EVENTS_MAX: Final = 4096
ALGORITHMS_MAX: Final = 8
EVENT_DATA_BYTES_MAX: Final = 256 << 10

_ALGORITHMS: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512", 0x0012: "sm3_256"}
_DIGEST_BYTES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3_256": 32}
_SIGNATURE: Final = b"Spec ID Event03\x00"
_STARTUP_LOCALITY: Final = b"StartupLocality\x00"
_NO_PCR: Final = 0xFFFFFFFF  # SP800-155 events of section 10.4.5.3 belong to no PCR
_WHAT: Final = "event log"


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log. `index` counts from 0, which is the header of a crypto-agile log, as tpm2_eventlog does."""

    index: int
    pcr: int
    event_type: int
    digests: Mapping[str, bytes]
    data: bytes

    @property
    def type_name(self) -> str:
        """The specification's name of the event's type."""
        return type_name(self.event_type)

    @property
    def extends(self) -> bool:
        """Whether the firmware extended a PCR with this event; EV_NO_ACTION only informs (section 10.4.1)."""
        return self.event_type != EV_NO_ACTION


@dataclass(frozen=True, slots=True)
class EventLog:
    """A whole log in the order in which it was written, the header event first where there is one.

    `algorithms` are those whose digests each event carries; ("sha1",) for a log in the old form.
    """

    algorithms: tuple[str, ...]
    events: tuple[Event, ...]
    startup_locality: int


class _Cursor:
    """A bounded little-endian reader; whatever runs past the end is a MalformedError that names the event."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.event = 0

    def take(self, length: int, what: str) -> bytes:
        left = len(self._data) - self._at
        if length > left:
            raise malformed(self.event, f"{what} needs {length} bytes, {left} are left")
        start = self._at
        self._at += length
        return self._data[start : self._at]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def at_end(self) -> bool:
        return self._at == len(self._data)


def malformed(event: int, problem: str) -> MalformedError:
    """The one form of error this reader raises, naming the event in its message and fields."""
    return MalformedError(f"{_WHAT}, event {event}: {problem}", event=event)


def parse_event_log(data: bytes) -> EventLog:
    """Read a whole log; every byte of it belongs to an event.

    Takes at most 1 MiB, 4096 events and 256 KiB of data in one event. Raises MalformedError for anything else: a log
    cut short, with trailing bytes, or with a PCR above 23. A log without SHA-256 digests is read as well, and proves
    nothing: `replay` refuses it. The caller must compare `replay` with quoted PCR values before it believes any of it.
    """
    if len(data) > LOG_BYTES_MAX:
        raise MalformedError(f"{_WHAT}: {len(data)} bytes, at most {LOG_BYTES_MAX} are read")
    cursor = _Cursor(data)
    first = _old_event(cursor)
    agile = first.event_type == EV_NO_ACTION and first.data.startswith(_SIGNATURE)
    sizes = _header_algorithms(first.data) if agile else {"sha1": _DIGEST_BYTES["sha1"]}
    events = [first]
    while not cursor.at_end():
        cursor.event = len(events)
        if cursor.event >= EVENTS_MAX:
            raise MalformedError(f"{_WHAT}: more than {EVENTS_MAX} events")
        events.append(_event2(cursor, sizes) if agile else _old_event(cursor))
    return EventLog(tuple(sizes), tuple(events), _startup_locality(events))


def _old_event(cursor: _Cursor) -> Event:
    """TCG_PCClientPCREvent (section 10.2.1): all events of the old form, and the first of the crypto-agile one."""
    pcr = cursor.number(4, "PCR")
    event_type = cursor.number(4, "type")
    if pcr >= PCR_COUNT:
        raise malformed(cursor.event, f"PCR {pcr}, expected 0 to {PCR_COUNT - 1}")
    digest = cursor.take(_DIGEST_BYTES["sha1"], "SHA-1 digest")
    return Event(cursor.event, pcr, event_type, {"sha1": digest}, _data(cursor))


def _header_algorithms(data: bytes) -> dict[str, int]:
    """TCG_EfiSpecIdEvent (section 10.4.5.1): the digests that each later event carries, by name, with their sizes."""
    cursor = _Cursor(data)
    cursor.take(len(_SIGNATURE), "signature")
    cursor.take(8, "platform class and version")
    count = cursor.number(4, "number of algorithms")
    if not 1 <= count <= ALGORITHMS_MAX:
        raise malformed(0, f"{count} digest algorithms, between 1 and {ALGORITHMS_MAX} are read")
    sizes: dict[str, int] = {}
    for _ in range(count):
        number, size = struct.unpack("<HH", cursor.take(4, "algorithm"))
        name = _algorithm(number)
        if not 1 <= size <= 64 or _DIGEST_BYTES.get(name, size) != size or name in sizes:
            raise malformed(0, f"digest algorithm 0x{number:04x} of {size} bytes is doubled or of a wrong size")
        sizes[name] = size
    cursor.take(cursor.number(1, "vendor information size"), "vendor information")
    if not cursor.at_end():
        raise malformed(0, "trailing bytes after the header")
    return sizes


def _algorithm(number: int) -> str:
    """The algorithm's name, or `0x…` for one whose digests are stepped over, as the header gives their size."""
    return _ALGORITHMS.get(number, f"0x{number:04x}")


def _event2(cursor: _Cursor, sizes: Mapping[str, int]) -> Event:
    """TCG_PCR_EVENT2 (section 10.2.2)."""
    pcr = cursor.number(4, "PCR")
    event_type = cursor.number(4, "type")
    if pcr >= PCR_COUNT and not (pcr == _NO_PCR and event_type == EV_NO_ACTION):
        raise malformed(cursor.event, f"PCR {pcr}, expected 0 to {PCR_COUNT - 1}")
    count = cursor.number(4, "number of digests")
    if count != len(sizes):
        raise malformed(cursor.event, f"{count} digests, the header announces {len(sizes)}")
    digests: dict[str, bytes] = {}
    for _ in range(count):
        number = cursor.number(2, "digest algorithm")
        name = _algorithm(number)
        if name not in sizes or name in digests:
            raise malformed(cursor.event, f"digest algorithm 0x{number:04x} is not announced in the header, or doubled")
        digests[name] = cursor.take(sizes[name], f"{name} digest")
    return Event(cursor.event, pcr, event_type, digests, _data(cursor))


def _data(cursor: _Cursor) -> bytes:
    size = cursor.number(4, "data size")
    if size > EVENT_DATA_BYTES_MAX:
        raise malformed(cursor.event, f"{size} bytes of data, at most {EVENT_DATA_BYTES_MAX} are read")
    return cursor.take(size, "data")


def _startup_locality(events: list[Event]) -> int:
    """TCG_EfiStartupLocalityEvent (section 10.4.5.3): the locality of TPM2_Startup, which PCR 0 starts with."""
    found: int | None = None
    extended = False
    for event in events:
        if event.pcr != 0 or event.index == 0:
            continue
        extended = extended or event.extends
        if event.extends or not event.data.startswith(_STARTUP_LOCALITY):
            continue
        locality = event.data[len(_STARTUP_LOCALITY) :]
        if found is not None or extended or locality not in (b"\x00", b"\x03", b"\x04"):
            raise malformed(event.index, "a second, late or impossible startup locality")
        found = locality[0]
    return found or 0


def extends(log: EventLog, algorithm: str = "sha256") -> tuple[tuple[int, bytes], ...]:
    """What was extended in one bank, as (PCR, digest) in the order of the log; a lab replays this into a TPM.

    Raises MalformedError if the log has no digests of `algorithm`.
    """
    if algorithm not in log.algorithms:
        raise MalformedError(
            f"{_WHAT}: has no {algorithm} digests, only {', '.join(log.algorithms)}",
            hint="switch the firmware's TPM measurements to SHA-256; a TPM 1.2 cannot be used",
        )
    return tuple((event.pcr, event.digests[algorithm]) for event in log.events if event.extends)


def initial_pcr(log: EventLog, pcr: int, algorithm: str = "sha256") -> bytes:
    """What `pcr` holds before its first event (PC Client Platform TPM Profile, section 4.6); 32 bytes for SHA-256."""
    size = _DIGEST_BYTES[algorithm]
    if 17 <= pcr <= 22:
        return b"\xff" * size
    return bytes(size - 1) + bytes([log.startup_locality if pcr == 0 else 0])


def extend(value: bytes, digest: bytes) -> bytes:
    """The PCR's next value: SHA-256 of the 32 bytes it holds and the 32 bytes extended."""
    return hashlib.sha256(value + digest).digest()


def replay(log: EventLog, algorithm: Literal["sha1", "sha256"] = "sha256") -> dict[int, bytes]:
    """The value of all 24 PCRs of one bank if exactly the log's events were extended since power-on.

    Only SHA-256, of 32 bytes a value, proves anything here; SHA-1 serves to compare with other readers. Raises
    MalformedError if the log has no digests of `algorithm`.
    """
    values = {pcr: initial_pcr(log, pcr, algorithm) for pcr in range(PCR_COUNT)}
    for pcr, digest in extends(log, algorithm):
        values[pcr] = hashlib.new(algorithm, values[pcr] + digest).digest()
    return values
