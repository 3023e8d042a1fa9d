"""A state as an event log that replays to its PCR values: how a predicted state is handed on, and judged again.

The log is crypto-agile with SHA-256 alone. Digests are those of the state; types and data are labels, as in any log.
"""

from __future__ import annotations

import struct
from typing import Final

from sealvm.attest.state import MeasuredState, local_state
from sealvm.errors import EvidenceRefused
from sealvm.tcg.events_types import EV_NO_ACTION

_SHA256: Final = 0x000B
_LOCALITIES: Final = (None, 3, 4)


def replayable(state: MeasuredState) -> tuple[bytes, tuple[bytes, ...]]:
    """An event log and preimages from which `local_state` gives `state` again.

    Raises EvidenceRefused for a state whose events do not lead to its PCR values.
    """
    preimages = tuple(
        dict.fromkeys(e.content for e in state.events if e.content is not None and e.content_from == "preimage")
    )
    events = b"".join(_event(e.pcr, e.event_type, e.digest, e.data) for e in state.events)
    for locality in _LOCALITIES:
        log = _header() + (b"" if locality is None else _startup(locality)) + events
        if not local_state(state.pcr_values, log, preimages).flaws:
            return log, preimages
    flaw = local_state(state.pcr_values, _header() + events, preimages).flaws[0]
    raise EvidenceRefused(f"the state cannot be written as an event log: {flaw.message}", pcr=flaw.pcr)


def _header() -> bytes:
    data = b"Spec ID Event03\0" + bytes(4) + bytes([0, 2, 0, 2]) + struct.pack("<IHHB", 1, _SHA256, 32, 0)
    return struct.pack("<II20sI", 0, EV_NO_ACTION, bytes(20), len(data)) + data


def _startup(locality: int) -> bytes:
    return _event(0, EV_NO_ACTION, bytes(32), b"StartupLocality\0" + bytes([locality]))


def _event(pcr: int, event_type: int, digest: bytes, data: bytes) -> bytes:
    return struct.pack("<IIIH32sI", pcr, event_type, 1, _SHA256, digest, len(data)) + data
