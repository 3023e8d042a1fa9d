"""The closed list of facts that a profile can ask about.

A name that is not in FACTS is refused when a profile is loaded. docs/profiles.md describes each; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

FactValue: TypeAlias = bool | str | tuple[str, ...]


class FactKind(Enum):
    """What a fact's value looks like."""

    FLAG = "true or false"
    TEXT = "text"
    DIGEST = "a SHA-256 digest"
    DIGESTS = "a list of SHA-256 digests"


@dataclass(frozen=True, slots=True)
class FactInfo:
    """A fact that exists: its kind, the PCR that proves it, and what it says."""

    kind: FactKind
    pcr: int
    says: str


FACTS: Final[Mapping[str, FactInfo]] = {
    "firmware.digests": FactInfo(FactKind.DIGESTS, 0, "all that the firmware measured of itself, in order"),
    "firmware.version": FactInfo(FactKind.TEXT, 0, "the firmware's version"),
    "firmware.drivers": FactInfo(FactKind.DIGESTS, 2, "drivers and option ROMs that the firmware ran"),
    "bootapps": FactInfo(FactKind.DIGESTS, 4, "programs that the firmware started, in order"),
    "kernel.digest": FactInfo(FactKind.DIGEST, 4, "the last program that the firmware started"),
    "secureboot.enabled": FactInfo(FactKind.FLAG, 7, "whether Secure Boot was on"),
    "kernel.cmdline": FactInfo(FactKind.TEXT, 9, "the options with which Linux started"),
    "initrd.digest": FactInfo(FactKind.DIGEST, 9, "the initial ramdisk that Linux loaded"),
}


class FactStatus(Enum):
    """KNOWN: has a value. ABSENT: proved not to be there. UNKNOWN: the log does not prove either."""

    KNOWN = "known"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fact:
    """One named value of the evidence and the events it came from.

    `events` has one index for a single value and one for each element of a list. `source` says what proves it
    ("event 10", "preimage of event 21"); `reason` says why there is no value.
    """

    name: str
    status: FactStatus
    value: FactValue | None
    events: tuple[int, ...]
    source: str
    reason: str

    @property
    def event_index(self) -> int | None:
        """The last event that decided, if any did."""
        return self.events[-1] if self.events else None


Evidence: TypeAlias = Mapping[str, Fact]


def known(name: str, value: FactValue, events: tuple[int, ...], source: str = "") -> Fact:
    """A fact with a value; `source` defaults to naming the events."""
    return Fact(name, FactStatus.KNOWN, value, events, source or named(events), "")


def absent(name: str, reason: str) -> Fact:
    """A fact that is proved not to be there."""
    return Fact(name, FactStatus.ABSENT, None, (), "", reason)


def unknown(name: str, reason: str, *events: int) -> Fact:
    """A fact about which the log proves nothing; never meets a requirement, `absent` included."""
    return Fact(name, FactStatus.UNKNOWN, None, events, "", reason)


def named(events: tuple[int, ...]) -> str:
    """ "event 10" or "events 10, 12"."""
    return f"event{'s' if len(events) > 1 else ''} {', '.join(map(str, events))}"
