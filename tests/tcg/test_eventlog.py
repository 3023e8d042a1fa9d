"""The event log reader, against two recorded boots, tpm2-tools' reader, and bytes that are no log."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from sealvm.errors import MalformedError, NotFoundError
from sealvm.lab.recording import RECORDINGS, load_recording
from sealvm.tcg import eventlog
from sealvm.tcg.eventlog import extends, parse_event_log, replay
from sealvm.tcg.events_data import (
    decode_text,
    device_path_text,
    hashed_text,
    image_path,
    load_option_text,
    parse_tagged,
    parse_variable,
)
from sealvm.tcg.events_types import EVENT_TYPES, type_name

SHA256 = (0x000B, 32)
ROOT = Path(__file__).parents[2]
BOOTS = {
    path.parent.name: path.parent
    for folder in ("tests/data/eventlogs", "src/sealvm/lab/recordings")
    for path in sorted((ROOT / folder).glob("*/eventlog.bin"))
}


def header(algorithms: tuple[tuple[int, int], ...] = (SHA256,), *, tail: bytes = b"\0", event_type: int = 3) -> bytes:
    data = b"Spec ID Event03\0" + bytes(8) + struct.pack("<I", len(algorithms))
    data += b"".join(struct.pack("<HH", *algorithm) for algorithm in algorithms) + tail
    return struct.pack("<II20sI", 0, event_type, bytes(20), len(data)) + data


def event(pcr: int = 0, event_type: int = 1, data: bytes = b"data", digest: bytes = b"\x11" * 32) -> bytes:
    return struct.pack("<IIIH32sI", pcr, event_type, 1, 0x000B, digest, len(data)) + data


def second_opinion(path: Path) -> Any:
    """What tpm2_eventlog of tpm2-tools reads. It forgets the dashes of the list in its YAML for a SHA-1 log."""
    output = subprocess.run(["tpm2_eventlog", path], check=True, capture_output=True, text=True).stdout
    if output.startswith("---\nversion: 1\nevents:\n  PCRIndex"):
        number = itertools.count()
        output = re.sub(
            r"^  PCRIndex:", lambda _: f"- EventNum: {next(number)}\n  PCRIndex:", output, flags=re.MULTILINE
        )
    return YAML(typ="safe").load(output)


@pytest.mark.parametrize("name", BOOTS)
def test_every_event_is_what_tpm2_eventlog_reads(name: str) -> None:
    theirs = second_opinion(BOOTS[name] / "eventlog.bin")
    ours = parse_event_log((BOOTS[name] / "eventlog.bin").read_bytes())
    old = ours.algorithms == ("sha1",)
    assert old == (name == "tpm12")
    assert len(ours.events) == len(theirs["events"]) > 15
    for mine, other in zip(ours.events, theirs["events"], strict=True):
        assert (mine.index, mine.pcr, mine.type_name) == (other["EventNum"], other["PCRIndex"], other["EventType"])
        assert len(mine.data) == other["EventSize"]
        if mine.index or old:
            digests = {entry["AlgorithmId"]: entry["Digest"] for entry in other["Digests"]}
            assert {name: digest.hex() for name, digest in mine.digests.items()} == digests
    for bank, size in (("sha1", 20), ("sha256", 32)):
        assert (bank in theirs["pcrs"]) == (bank in ours.algorithms)
        values = replay(ours, bank) if bank in ours.algorithms else {}
        for pcr, value in theirs["pcrs"].get(bank, {}).items():
            assert values[int(pcr)] == int(value).to_bytes(size, "big")


@pytest.mark.parametrize("name", BOOTS)
def test_a_recorded_log_leads_to_what_the_tpm_held(name: str) -> None:
    values = replay(
        parse_event_log((BOOTS[name] / "eventlog.bin").read_bytes()), "sha1" if name == "tpm12" else "sha256"
    )
    held = json.loads((BOOTS[name] / "pcrs.json").read_text())
    # PCR 10 is IMA's, which the firmware's log does not have; the kernel's IMA knows no TPM 1.2 of this kind
    assert [pcr for pcr in range(16) if values[pcr].hex() != held[str(pcr)]] in ([10], [])


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_replay_gives_what_the_tpm_held(name: str) -> None:
    recording = load_recording(name)
    values = replay(parse_event_log(recording.eventlog))
    # PCR 10 holds the boot aggregate that the kernel's IMA extended, which is not in the firmware's log
    assert [pcr for pcr in range(24) if values[pcr] != recording.pcr_values[pcr]] == [10]


def test_the_recordings_differ_in_one_event_of_pcr_9_alone() -> None:
    good, tampered = (parse_event_log(load_recording(name).eventlog).events for name in RECORDINGS)
    differing = [one.index for one, other in zip(good, tampered, strict=True) if one != other]
    assert differing == [21]
    assert good[21].pcr == 9


def test_preimages_of_the_recordings_are_what_was_hashed() -> None:
    for name in RECORDINGS:
        recording = load_recording(name)
        (preimage,) = recording.preimages
        assert hashlib.sha256(preimage).digest() == parse_event_log(recording.eventlog).events[21].digests["sha256"]


def test_an_unknown_recording_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="no recorded boot 'other'"):
        load_recording("other")


def test_extends_lists_what_a_lab_replays_and_leaves_out_no_action() -> None:
    log = parse_event_log(header() + event(1) + event(0, 3) + event(7, 2))
    assert [pcr for pcr, _ in extends(log)] == [1, 7]


def test_startup_locality_is_where_pcr_0_begins() -> None:
    locality = event(0, 3, b"StartupLocality\0\x03")
    values = replay(parse_event_log(header() + locality + event(0)))
    assert values[0] == hashlib.sha256(bytes(31) + b"\x03" + b"\x11" * 32).digest()
    assert values[1] == bytes(32)
    assert values[17] == b"\xff" * 32


def test_an_event_without_a_pcr_only_informs() -> None:
    assert replay(parse_event_log(header() + event(0xFFFFFFFF, 3)))[0] == bytes(32)


@pytest.mark.parametrize("log", [header(((0x0004, 20),)), struct.pack("<II20sI", 0, 8, bytes(20), 1) + b"x"])
def test_a_log_without_sha256_is_read_and_proves_nothing(log: bytes) -> None:
    parsed = parse_event_log(log)
    assert parsed.algorithms == ("sha1",)
    for use in (replay, extends):
        with pytest.raises(MalformedError, match="has no sha256 digests, only sha1"):
            use(parsed)
    assert len(replay(parsed, "sha1")[0]) == 20


def test_several_algorithms_in_any_order() -> None:
    algorithms = ((0x000C, 48), (0x000B, 32), (0x0004, 20), (0x0027, 32))
    body = struct.pack("<III", 2, 1, 4) + struct.pack("<H32s", 0x27, b"d")
    body += struct.pack("<H20s", 4, b"a") + struct.pack("<H32s", 0xB, b"b") + struct.pack("<H48s", 0xC, b"c")
    log = parse_event_log(header(algorithms) + body + struct.pack("<I", 0))
    assert log.algorithms == ("sha384", "sha256", "sha1", "0x0027")
    assert log.events[1].digests["sha256"] == b"b".ljust(32, b"\0")


LOCALITY = event(0, 3, b"StartupLocality\0\x03")

REFUSED = {
    "empty": (b"", "event 0: PCR needs 4 bytes"),
    "SHA-1 form, cut": (struct.pack("<II20sI", 0, 8, bytes(20), 2) + b"x", "event 0: data needs 2 bytes, 1 are left"),
    "SHA-1 form, PCR 24": (struct.pack("<II20sI", 24, 8, bytes(20), 0), "event 0: PCR 24, expected 0 to 23"),
    "SHA-1 form with crypto-agile events": (header(event_type=1) + event(), "event 1: 286331153 bytes of data"),
    "no algorithm": (header(()), "0 digest algorithms"),
    "nine algorithms": (header((SHA256,) * 9), "9 digest algorithms"),
    "huge digest": (header(((0x00FF, 65),)), "0x00ff of 65 bytes"),
    "wrong digest size": (header(((0x000B, 20),)), "0x000b of 20 bytes"),
    "doubled algorithm": (header((SHA256, SHA256)), "doubled"),
    "tail in the header": (header(tail=b"\0x"), "trailing bytes"),
    "vendor information cut": (header(tail=b"\x05x"), "vendor information needs 5 bytes"),
    "cut event": (header() + event()[:-1], "event 1: data needs 4 bytes, 3 are left"),
    "trailing bytes": (header() + event() + b"\0\0", "event 2: PCR needs 4 bytes, 2 are left"),
    "PCR 24": (header() + event(24), "event 1: PCR 24, expected 0 to 23"),
    "no PCR, but measured": (header() + event(0xFFFFFFFF), "PCR 4294967295"),
    "no digests": (header() + struct.pack("<III", 0, 1, 0), "0 digests, the header announces 1"),
    "unannounced digest": (header() + struct.pack("<IIIH20s", 0, 1, 1, 4, b""), "0x0004 is not announced"),
    "huge data": (header() + event()[:-8] + struct.pack("<I", 1 << 31), "2147483648 bytes of data"),
    "too long": (bytes(eventlog.LOG_BYTES_MAX + 1), "at most 1048576"),
    "too many events": (header() + event(data=b"") * 4096, "more than 4096 events"),
    "second locality": (header() + LOCALITY + LOCALITY, "event 2: a second, late or impossible startup locality"),
    "late locality": (header() + event() + LOCALITY, "event 2: a second, late"),
    "impossible locality": (header() + event(0, 3, b"StartupLocality\0\x05"), "impossible startup locality"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_log_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match="event log") as caught:
        parse_event_log(data)
    assert message in caught.value.message


@given(st.binary(max_size=400))
def test_any_bytes_give_a_log_or_a_malformed_error(data: bytes) -> None:
    for candidate in (data, header() + data, struct.pack("<II20sI", 0, 8, bytes(20), 0) + data):
        try:
            parse_event_log(candidate)
        except MalformedError:
            continue


@given(st.data(), st.sampled_from(sorted(BOOTS)))
def test_a_damaged_recording_gives_a_log_or_a_malformed_error(data: st.DataObject, name: str) -> None:
    log = bytearray((BOOTS[name] / "eventlog.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        log[data.draw(st.integers(0, len(log) - 1))] = data.draw(st.integers(0, 255))
    del log[data.draw(st.integers(1, len(log))) :]
    try:
        replay(parse_event_log(bytes(log)))
    except MalformedError:
        return


@given(st.binary(max_size=200))
def test_readers_of_event_data_never_raise(data: bytes) -> None:
    parse_variable(data)
    parse_tagged(data)
    decode_text(data)
    device_path_text(data)
    image_path(data)
    load_option_text(data)
    for event_type in EVENT_TYPES:
        hashed_text(event_type, data)
    image_path(bytes(24) + struct.pack("<Q", len(data)) + data)


def test_a_program_says_where_it_came_from() -> None:
    log = parse_event_log(load_recording("good").eventlog)
    assert image_path(log.events[10].data) == "Media(1428f772-b64a-441e-b8c3-9ebdd7f893c7)/kernel"


def test_a_device_path_of_a_disk() -> None:
    node = struct.pack("<BBHIB3x", 2, 1, 12, 0x0A0341D0, 0)[:12]
    file = "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le")
    path = node + struct.pack("<BBHBB", 1, 1, 6, 0, 0x1F) + struct.pack("<BBH", 4, 4, 4 + len(file)) + file
    assert device_path_text(path + b"\x7f\xff\x04\x00") == "Acpi(d041030a,0)/Pci(1f.0)/\\EFI\\BOOT\\BOOTX64.EFI"
    assert device_path_text(path) is None
    assert device_path_text(path + b"\x7f\xff\x04\x00x") is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\0b\0", "ab"),
        (b"a\0b\0\0\0", "ab"),
        (b"", ""),
        (b"a\0\0\0b\0", None),
        (b"a\0\n\0", None),
        (b"a\0\x1b\0", None),
        (b"a", None),
        (b"\x00\xd8", None),
        (b"a\0" * 4098, None),
    ],
)
def test_text_is_one_printable_line_or_nothing(data: bytes, text: str | None) -> None:
    assert decode_text(data) == text


def test_types_have_names_and_unknown_ones_numbers() -> None:
    assert type_name(0x80000003) == "EV_EFI_BOOT_SERVICES_APPLICATION"
    assert type_name(0x1234) == "0x00001234"
    assert len(set(EVENT_TYPES.values())) == len(EVENT_TYPES)
