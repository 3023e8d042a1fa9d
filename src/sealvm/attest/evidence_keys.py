"""Facts about Secure Boot's keys, from PCR 7: which are in force, and by which programs were accepted.

Before the separator only the firmware writes PCR 7, and it measures its variables before it accepts anything by them
(PC Client Platform Firmware Profile 1.06, section 3.3.4.8). So a variable is the *first* event whose proved content
names it, whatever its label says, and everything else is a key that something was accepted by. One event before the
separator whose content is not proved could be any of the variables: then nothing is known of them.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Final

from sealvm.attest.events import MeasuredEvent
from sealvm.attest.facts import Fact, absent, known, unknown
from sealvm.tcg.events_data import EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, parse_variable

_FACTS: Final = {
    "secureboot.pk": (EFI_GLOBAL_VARIABLE, "PK"),
    "secureboot.kek": (EFI_GLOBAL_VARIABLE, "KEK"),
    "secureboot.db": (EFI_IMAGE_SECURITY_DATABASE, "db"),
    "secureboot.dbx": (EFI_IMAGE_SECURITY_DATABASE, "dbx"),
}
_AUTHORITIES: Final = "secureboot.authorities"
_VARIABLES: Final = frozenset(
    {
        *_FACTS.values(),
        (EFI_GLOBAL_VARIABLE, "SecureBoot"),
        (EFI_GLOBAL_VARIABLE, "SetupMode"),
        (EFI_GLOBAL_VARIABLE, "AuditMode"),
        (EFI_GLOBAL_VARIABLE, "DeployedMode"),
        (EFI_IMAGE_SECURITY_DATABASE, "dbt"),
        (EFI_IMAGE_SECURITY_DATABASE, "dbr"),
    }
)


def secure_boot_keys(events: Sequence[MeasuredEvent]) -> list[Fact]:
    """The facts `secureboot.pk`, `.kek`, `.db`, `.dbx` and `.authorities` from the events of PCR 7."""
    first: dict[tuple[uuid.UUID, str], tuple[MeasuredEvent, bytes]] = {}
    accepted: list[MeasuredEvent] = []
    ended = False
    for event in events:
        if event.is_separator:
            ended = True
            continue
        if ended:
            accepted.append(event)
            continue
        if event.content is None:
            reason = f"the digest of event {event.index} is not that of its data: it could be any variable"
            return [unknown(name, reason, event.index) for name in (*_FACTS, _AUTHORITIES)]
        variable = parse_variable(event.content)
        key = (variable.vendor, variable.name) if variable is not None else None
        if variable is None or key is None or key not in _VARIABLES or key in first:
            accepted.append(event)
        else:
            first[key] = (event, variable.data)
    return [*(_key(name, first.get(key)) for name, key in _FACTS.items()), _accepted(accepted)]


def _key(name: str, found: tuple[MeasuredEvent, bytes] | None) -> Fact:
    if found is None:
        return unknown(name, "the firmware did not measure this variable")
    event, value = found
    if not value:
        return absent(name, f"the variable is empty, says event {event.index}")
    return known(name, hashlib.sha256(value).hexdigest(), (event.index,))


def _accepted(events: Sequence[MeasuredEvent]) -> Fact:
    if not events:
        return absent(_AUTHORITIES, "no program was accepted by a key")
    return known(_AUTHORITIES, tuple(event.digest.hex() for event in events), tuple(event.index for event in events))
