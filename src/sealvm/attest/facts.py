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
    TEXTS = "a list of texts"


@dataclass(frozen=True, slots=True)
class FactInfo:
    """A fact that exists: its kind, the PCR that proves it, and what it says.

    `grows`: a list to which whoever runs later on the host can add, though not take away; that something is in it
    proves nothing unless all of it is judged (`sealvm.attest.evaluate`).
    """

    kind: FactKind
    pcr: int
    says: str
    grows: bool = False


FACTS: Final[Mapping[str, FactInfo]] = {
    "firmware.digests": FactInfo(FactKind.DIGESTS, 0, "all that the firmware measured of itself, in order"),
    "firmware.version": FactInfo(FactKind.TEXT, 0, "the firmware's version"),
    "firmware.drivers": FactInfo(FactKind.DIGESTS, 2, "drivers and option ROMs that the firmware ran"),
    "bootapps": FactInfo(FactKind.DIGESTS, 4, "programs that the firmware started, in order", grows=True),
    "bootloader.digest": FactInfo(FactKind.DIGEST, 4, "the first program that the firmware started"),
    "kernel.digest": FactInfo(FactKind.DIGEST, 4, "the last program that the firmware started"),
    "secureboot.enabled": FactInfo(FactKind.FLAG, 7, "whether Secure Boot was on"),
    "secureboot.pk": FactInfo(FactKind.DIGEST, 7, "the variable PK: who may change the keys below"),
    "secureboot.kek": FactInfo(FactKind.DIGEST, 7, "the variable KEK: who may change db and dbx"),
    "secureboot.db": FactInfo(FactKind.DIGEST, 7, "the variable db: keys that programs are accepted by"),
    "secureboot.dbx": FactInfo(FactKind.DIGEST, 7, "the variable dbx: what was revoked"),
    "secureboot.authorities": FactInfo(
        FactKind.DIGESTS, 7, "keys by which programs were in fact accepted, in order", grows=True
    ),
    "grub.commands": FactInfo(FactKind.TEXTS, 8, "commands that GRUB ran and options it gave, in order", grows=True),
    "grub.files": FactInfo(FactKind.DIGESTS, 9, "files that GRUB read, in order", grows=True),
    "kernel.cmdline": FactInfo(FactKind.TEXT, 9, "the options with which Linux started"),
    "initrd.digest": FactInfo(FactKind.DIGEST, 9, "the initial ramdisk that Linux loaded"),
    "ima.files": FactInfo(FactKind.DIGESTS, 10, "files that Linux measured, in order", grows=True),
    "uki.sections": FactInfo(FactKind.DIGESTS, 11, "parts of the unified kernel image, in order", grows=True),
    "uki.parameters": FactInfo(FactKind.DIGESTS, 12, "options and credentials from outside the image", grows=True),
    "uki.extensions": FactInfo(FactKind.DIGESTS, 13, "system extensions from outside the image", grows=True),
    "shim.digests": FactInfo(FactKind.DIGESTS, 14, "shim's own keys and settings, in order", grows=True),
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
