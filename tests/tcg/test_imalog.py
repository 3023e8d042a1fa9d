"""IMA's log: recorded ones against PCR 10, every template, and bytes that are no log."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.errors import MalformedError
from sealvm.tcg import imalog
from sealvm.tcg.imalog import parse_ima_log, progress

LOGS = sorted((Path(__file__).parents[2] / "tests/data/eventlogs").glob("*/ima.bin"))
BUSYBOX = "3d9f2889d6782537624a4e1a10e68a2ddd53e0ee8bac02676f27308f42ec6bf6"


def entry(template: str, data: bytes, *, pcr: int = 10, sha1: bytes | None = None) -> bytes:
    """One entry of any template but `ima`."""
    digest = hashlib.sha1(data).digest() if sha1 is None else sha1
    return struct.pack("<I20sI", pcr, digest, len(template)) + template.encode() + struct.pack("<I", len(data)) + data


def field(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def ng(path: bytes, digest: bytes = bytes(32), algorithm: bytes = b"sha256") -> bytes:
    return field(algorithm + b":\0" + digest) + field(path + b"\0")


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.parent.name)
def test_a_recorded_log_leads_to_the_pcr_10_that_the_tpm_held(path: Path) -> None:
    entries = parse_ima_log(path.read_bytes())
    held = json.loads((path.parent / "pcrs.json").read_text())
    assert progress(entries)[-1].hex() == held["10"]
    assert entries[0].path == imalog.BOOT_AGGREGATE
    if entries[0].file_algorithm == "sha256" and entries[0].file_digest is not None:
        aggregate = hashlib.sha256(b"".join(bytes.fromhex(held[str(pcr)]) for pcr in range(10)))
        assert entries[0].file_digest == aggregate.digest()


@pytest.mark.parametrize("name", ["ima-ng", "ima-sig", "ima-old"])
def test_files_of_a_recorded_boot(name: str) -> None:
    path = next(path for path in LOGS if path.parent.name == name)
    entries = parse_ima_log(path.read_bytes())
    assert [one.path for one in entries] == ["boot_aggregate", "/init", "/bin/busybox"]
    assert {one.template for one in entries} == {"ima" if name == "ima-old" else name}
    assert (entries[2].file_digest or b"").hex() == BUSYBOX or name == "ima-old"
    assert not any(one.violation for one in entries)


def test_a_violation_extends_ones_and_proves_nothing_else() -> None:
    path = next(path for path in LOGS if path.parent.name == "ima-violation")
    last = parse_ima_log(path.read_bytes())[-1]
    assert (last.violation, last.path, last.digest) == (True, "/one", b"\xff" * 32)


def test_progress_counts_the_entries_of_pcr_10_alone() -> None:
    entries = parse_ima_log(entry("ima-ng", ng(b"/a")) + entry("ima-ng", ng(b"/b"), pcr=11))
    values = progress(entries)
    assert len(values) == 3
    assert values[1] == values[2] == hashlib.sha256(bytes(32) + hashlib.sha256(ng(b"/a")).digest()).digest()


def test_templates_that_are_not_known_prove_a_digest_and_no_path() -> None:
    (unknown,) = parse_ima_log(entry("vendor", b"whatever"))
    assert (unknown.path, unknown.file_digest, unknown.digest) == (None, None, hashlib.sha256(b"whatever").digest())
    (custom,) = parse_ima_log(entry("d-ng|n-ng|sig", ng(b"/a") + field(b"signature")))
    assert (custom.path, custom.file_algorithm) == ("/a", "sha256")
    (odd,) = parse_ima_log(entry("ima-ng", ng(b"/a\n")))
    assert odd.path is None


REFUSED = {
    "cut PCR": (b"\x0a\0", "entry 0: PCR needs 4 bytes, 2 are left"),
    "PCR 24": (entry("ima-ng", ng(b"/a"), pcr=24), "entry 0: PCR 24, expected 0 to 23"),
    "cut data": (entry("ima-ng", ng(b"/a"))[:-1], "entry 0: template data needs"),
    "second entry cut": (entry("ima-ng", ng(b"/a")) + b"x", "entry 1: PCR needs"),
    "huge name": (struct.pack("<I20sI", 10, bytes(20), 1 << 20), "template name needs 1048576 bytes"),
    "unprintable name": (entry("a\nb", b""), "template's name is not printable"),
    "another digest": (entry("ima-ng", ng(b"/a"), sha1=b"x" * 20), "logged digest is not that of the template data"),
    "no algorithm": (entry("ima-ng", field(bytes(32)) + field(b"/a\0")), "field d-ng has not the form"),
    "wrong length": (entry("ima-ng", ng(b"/a", bytes(20))), "field d-ng has not the form"),
    "long path": (entry("ima-ng", ng(b"/" * 5000)), "field n-ng needs 5001 bytes"),
    "field past the end": (entry("ima-sig", ng(b"/a") + b"\xff\0\0\0"), "field needs 255 bytes, 0 are left"),
    "huge data": (struct.pack("<I20sI", 10, bytes(20), 1) + b"x" + struct.pack("<I", 1 << 30), "1073741824 bytes"),
    "too long": (bytes(imalog.IMA_LOG_BYTES_MAX + 1), "at most 16777216"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_log_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match="IMA log") as caught:
        parse_ima_log(data)
    assert message in caught.value.message


@given(st.binary(max_size=400))
def test_any_bytes_give_a_log_or_a_malformed_error(data: bytes) -> None:
    for candidate in (
        data,
        entry("ima-ng", ng(b"/a")) + data,
        entry("ima-ng", data),
        struct.pack("<I20sI3s", 10, b"", 3, b"ima") + data,
    ):
        try:
            parse_ima_log(candidate)
        except MalformedError:
            continue


@given(st.data())
def test_a_damaged_recording_gives_a_log_or_a_malformed_error(data: st.DataObject) -> None:
    log = bytearray(data.draw(st.sampled_from(LOGS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        log[data.draw(st.integers(0, len(log) - 1))] = data.draw(st.integers(0, 255))
    del log[data.draw(st.integers(1, len(log))) :]
    try:
        parse_ima_log(bytes(log))
    except MalformedError:
        return
