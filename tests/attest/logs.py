"""Event logs made for tests: the recorded boots, and logs built event by event."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sealvm.attest.state import MeasuredState, local_state, verify_measured_state
from sealvm.lab.recording import load_recording
from sealvm.tcg.attest import ClockInfo, VerifiedQuote
from sealvm.tcg.eventlog import parse_event_log, replay
from sealvm.tcg.pcr import PcrSelection, pcr_digest

QUOTED = tuple(range(10))
BOOTS = {
    path.parent.name: path.parent for path in (Path(__file__).parents[1] / "data/eventlogs").glob("*/eventlog.bin")
}
BOOTS_WITH_SHA256 = sorted(BOOTS.keys() - {"tpm12"})
BOOT_PCRS = (*range(10), *range(11, 15))
SEPARATOR = 4
GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
SECURITY_DATABASE = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")


@dataclass(frozen=True)
class E:
    """One event; the digest is that of `hashed`, or of the data."""

    pcr: int
    event_type: int
    data: bytes = b""
    hashed: bytes | None = None

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.data if self.hashed is None else self.hashed).digest()


def header(algorithms: Sequence[tuple[int, int]] = ((0x000B, 32),), vendor: bytes = b"") -> bytes:
    data = b"Spec ID Event03\0" + bytes(4) + bytes([0, 2, 0, 2]) + struct.pack("<I", len(algorithms))
    data += b"".join(struct.pack("<HH", *algorithm) for algorithm in algorithms) + bytes([len(vendor)]) + vendor
    return struct.pack("<II20sI", 0, 3, bytes(20), len(data)) + data


def encode_event(pcr: int, event_type: int, digest: bytes, data: bytes) -> bytes:
    return struct.pack("<IIIH32sI", pcr, event_type, 1, 0x000B, digest, len(data)) + data


def log_of(events: Sequence[E]) -> bytes:
    return header() + b"".join(encode_event(e.pcr, e.event_type, e.digest, e.data) for e in events)


def variable(name: str, value: bytes, vendor: uuid.UUID = GLOBAL) -> bytes:
    return vendor.bytes_le + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def tagged(tag: int, text: bytes = b"x") -> bytes:
    return struct.pack("<II", tag, len(text)) + text


def options(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le")


def version(text: str) -> E:
    return E(0, 0x8, options(text))


def separator(pcr: int, data: bytes = bytes(4)) -> E:
    return E(pcr, SEPARATOR, data)


def program(content: bytes) -> E:
    return E(4, 0x80000003, b"device path", content)


def secure_boot(value: bytes = b"\x01") -> E:
    return E(7, 0x80000001, variable("SecureBoot", value))


def load_options(text: str) -> E:
    return E(9, 0x6, tagged(0x8F3B22ED), options(text))


def initrd(content: bytes) -> E:
    return E(9, 0x6, tagged(0x8F3B22EC), content)


CMDLINE = "root=/dev/vda ro"
FIRMWARE = E(0, 0x80000008, b"where", b"firmware")


def boot(**changed: Sequence[E]) -> list[E]:
    """A sound boot in which each of p0, p2, p4, p7, p8, p9 can be replaced as a whole, separators included."""
    parts: dict[str, Sequence[E]] = {
        "p0": [version("1.2"), FIRMWARE, separator(0)],
        "p1": [separator(1)],
        "p2": [separator(2)],
        "p3": [separator(3)],
        "p4": [E(4, 0x80000007, b"Calling EFI Application from Boot Option"), separator(4), program(b"kernel")],
        "p5": [separator(5)],
        "p6": [separator(6)],
        "p7": [secure_boot(), separator(7)],
        "p8": [],
        "p9": [load_options(CMDLINE), initrd(b"initrd")],
    }
    parts.update(changed)
    return [event for events in parts.values() for event in events]


def quote_of(log: bytes, selection: Sequence[int] = QUOTED) -> VerifiedQuote:
    """What a verified quote says of a TPM into which exactly `log` was extended."""
    digest = pcr_digest(replay(parse_event_log(log)), selection)
    return VerifiedQuote(PcrSelection(selection), digest, ClockInfo(1, 1, 0, True), 1)


def verified(events: Sequence[E], preimages: Sequence[bytes] = (options(CMDLINE),)) -> MeasuredState:
    log = log_of(events)
    return verify_measured_state(quote_of(log), log, preimages)


def recorded(name: str) -> MeasuredState:
    recording = load_recording(name)
    values = {pcr: recording.pcr_values[pcr] for pcr in QUOTED}
    return local_state(values, recording.eventlog, recording.preimages)


def booted(name: str, selection: Sequence[int] = BOOT_PCRS) -> MeasuredState:
    """The state of one of the recorded boots of tests/data/eventlogs, verified against the PCRs that its TPM held."""
    folder = BOOTS[name]
    held = {int(pcr): bytes.fromhex(value) for pcr, value in json.loads((folder / "pcrs.json").read_text()).items()}
    preimages = [base64.b64decode(text) for text in json.loads((folder / "preimages.json").read_text())]
    quote = VerifiedQuote(PcrSelection(selection), pcr_digest(held, selection), ClockInfo(1, 1, 0, True), 1)
    ima = (folder / "ima.bin").read_bytes() if (folder / "ima.bin").exists() else b""
    return verify_measured_state(quote, (folder / "eventlog.bin").read_bytes(), preimages, ima_log=ima)
