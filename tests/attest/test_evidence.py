"""Facts: what the recorded boots prove, and what somebody who runs after the boot tries to make them say.

Each attack extends a PCR further, relabels events, or both; none may turn into a fact.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.attest.facts import FACTS, Fact, FactStatus
from sealvm.attest.state import verify_measured_state
from sealvm.errors import EvidenceRefused
from sealvm.lab.recording import RECORDINGS, load_recording
from sealvm.tcg.eventlog import parse_event_log
from tests.attest.logs import (
    CMDLINE,
    FIRMWARE,
    E,
    boot,
    encode_event,
    header,
    initrd,
    load_options,
    log_of,
    options,
    program,
    quote_of,
    recorded,
    secure_boot,
    separator,
    tagged,
    variable,
    verified,
    version,
)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fact(name: str, *preimages: bytes, **parts: list[E]) -> Fact:
    return verified(boot(**parts), preimages or (options(CMDLINE),)).evidence[name]


def test_facts_of_the_recorded_boots() -> None:
    good, tampered = recorded("good").evidence, recorded("tampered").evidence
    assert set(good) == set(tampered) == set(FACTS)
    assert good["secureboot.enabled"].value is False
    assert good["secureboot.enabled"].event_index == 4
    assert good["kernel.digest"].value == "a2ac884f67a07b93461d7199e2097a50ca3474a90b2ee15e61d1a58f80e8c6dd"
    assert good["bootapps"].events == (10,)
    assert good["firmware.drivers"].status is FactStatus.ABSENT
    assert good["firmware.version"].value == ""
    assert good["initrd.digest"].event_index == 22
    assert good["kernel.cmdline"].value == "root=/dev/vda ro lockdown=integrity initrd=initrd"
    assert good["kernel.cmdline"].source == "preimage of event 21"
    assert tampered["kernel.cmdline"].value == "root=/dev/vda ro init=/bin/sh initrd=initrd"
    assert {name for name in FACTS if good[name] != tampered[name]} == {"kernel.cmdline"}


def test_facts_of_a_sound_boot() -> None:
    evidence = verified(boot()).evidence
    assert evidence["firmware.version"].value == "1.2"
    assert evidence["firmware.digests"].value == (version("1.2").digest.hex(), sha(b"firmware"))
    assert evidence["bootapps"].value == (sha(b"kernel"),)
    assert evidence["secureboot.enabled"].value is True
    assert evidence["kernel.cmdline"].value == CMDLINE
    assert evidence["initrd.digest"].value == sha(b"initrd")


def test_facts_of_a_pcr_that_was_not_quoted_are_unknown() -> None:
    log = log_of(boot())
    evidence = verify_measured_state(quote_of(log, [0, 2, 4, 7]), log, [options(CMDLINE)]).evidence
    assert evidence["kernel.cmdline"].status is FactStatus.UNKNOWN
    assert evidence["initrd.digest"].status is FactStatus.UNKNOWN
    assert "PCR 9" in evidence["kernel.cmdline"].reason


def test_all_programs_are_listed_in_order_and_the_kernel_is_the_last() -> None:
    parts = [separator(4), program(b"shim"), program(b"grub"), program(b"kernel")]
    assert fact("bootapps", p4=parts).value == (sha(b"shim"), sha(b"grub"), sha(b"kernel"))
    assert fact("kernel.digest", p4=parts).value == sha(b"kernel")


def test_no_program_is_absent() -> None:
    assert fact("bootapps", p4=[separator(4)]).status is FactStatus.ABSENT
    assert fact("kernel.digest", p4=[separator(4)]).status is FactStatus.ABSENT


@pytest.mark.parametrize(
    "disguise",
    [
        E(4, 0x80000004, b"a driver", b"bad kernel"),
        E(4, 0x0D, b"grub", b"bad kernel"),
        E(4, 0x5, b"bad kernel"),
        E(4, 0x80000007, b"Calling EFI Application from Boot Option", b"bad kernel"),
        E(4, 0x80000007, b"bad kernel"),
        E(4, 0x6, tagged(0x8F3B22ED), b"bad kernel"),
    ],
)
def test_a_program_stays_a_program_under_any_label(disguise: E) -> None:
    found = fact("bootapps", p4=[separator(4), disguise, program(b"good kernel")])
    assert found.value == (sha(b"bad kernel"), sha(b"good kernel"))


UNKNOWN_CMDLINES = {
    "extended after a bad one, as itself": [load_options("bad"), load_options(CMDLINE)],
    "extended after bad options and initrd": [load_options("bad"), initrd(b"i"), load_options(CMDLINE)],
    "bad one hidden as something else": [E(9, 0x0D, b"grub file", options("bad")), load_options(CMDLINE)],
    "bad one hidden as the initrd": [E(9, 6, tagged(0x8F3B22EC), options("bad")), load_options(CMDLINE)],
    "bad one hidden as another tag": [E(9, 6, tagged(7), options("bad")), load_options(CMDLINE)],
    "a third event": [load_options(CMDLINE), initrd(b"i"), E(9, 0x0D, b"more")],
    "initrd twice": [load_options(CMDLINE), initrd(b"i"), initrd(b"j")],
    "malformed tag": [E(9, 6, b"\xed\x22\x3b\x8f\x10\0\0\0", options(CMDLINE))],
    "another type with the tag": [E(9, 0x0D, tagged(0x8F3B22ED), options(CMDLINE))],
}


@pytest.mark.parametrize("events", UNKNOWN_CMDLINES.values(), ids=UNKNOWN_CMDLINES.keys())
def test_pcr_9_has_the_kernels_shape_or_proves_nothing(events: list[E]) -> None:
    for name in ("kernel.cmdline", "initrd.digest"):
        assert fact(name, options("bad"), options(CMDLINE), p9=events).status is FactStatus.UNKNOWN


def test_a_bad_command_line_cannot_be_passed_off_as_the_initrd() -> None:
    parts = [load_options("bad"), E(9, 6, tagged(0x8F3B22EC), options(CMDLINE))]
    assert fact("kernel.cmdline", options("bad"), options(CMDLINE), p9=parts).value == "bad"


def test_without_a_preimage_that_fits_there_is_no_command_line() -> None:
    found = fact("kernel.cmdline", options("something else"))
    assert found.status is FactStatus.UNKNOWN
    assert "no preimage fits" in found.reason


@pytest.mark.parametrize(
    "hashed",
    [
        options("root=/dev/vda\nro"),
        options("root=/dev/vda\0ro"),
        options("ro \x1b[31m"),
        options("x" * 2048),
        options("caf\u00e9"),
        b"odd",
    ],
)
def test_options_that_the_kernel_would_read_otherwise_prove_nothing(hashed: bytes) -> None:
    found = fact("kernel.cmdline", hashed, p9=[E(9, 6, tagged(0x8F3B22ED), hashed)])
    assert found.status is FactStatus.UNKNOWN
    assert "not one printable ASCII line" in found.reason


def test_no_initrd_and_no_measurement_at_all_are_absent() -> None:
    assert fact("initrd.digest", p9=[load_options(CMDLINE)]).status is FactStatus.ABSENT
    assert fact("kernel.cmdline", p9=[]).status is FactStatus.ABSENT


UNPROVED_SECURE_BOOTS = {
    "after the separator": [secure_boot(b"\0"), separator(7), secure_boot(b"\1")],
    "only after the separator": [separator(7), secure_boot(b"\1")],
    "twice": [secure_boot(b"\1"), secure_boot(b"\1"), separator(7)],
    "data that was not hashed": [E(7, 0x80000001, secure_boot().data, b"off"), separator(7)],
    "another vendor's variable": [
        E(7, 0x80000001, variable("SecureBoot", b"\1", vendor=uuid.UUID(int=1))),
        separator(7),
    ],
    "another variable": [E(7, 0x80000001, variable("SecureBoo", b"\1")), separator(7)],
    "another type": [E(7, 0x80000002, secure_boot().data), separator(7)],
    "another value": [secure_boot(b"\2"), separator(7)],
    "two bytes": [secure_boot(b"\1\1"), separator(7)],
    "none": [separator(7)],
}


@pytest.mark.parametrize("events", UNPROVED_SECURE_BOOTS.values(), ids=UNPROVED_SECURE_BOOTS.keys())
def test_secure_boot_is_told_once_before_the_separator_or_unknown(events: list[E]) -> None:
    assert fact("secureboot.enabled", p7=events).status is FactStatus.UNKNOWN


@pytest.mark.parametrize(
    "events",
    [
        [version("1"), separator(0), version("2")],
        [separator(0), version("1")],
        [version("1"), version("1"), separator(0)],
        [E(0, 8, options("1"), b"other"), separator(0)],
        [E(0, 8, b"odd"), separator(0)],
        [FIRMWARE, separator(0)],
    ],
)
def test_a_firmware_version_is_told_once_before_the_separator_or_unknown(events: list[E]) -> None:
    assert fact("firmware.version", options("1"), p0=events).status is FactStatus.UNKNOWN


def test_firmware_that_measures_after_its_end_proves_nothing() -> None:
    late = E(2, 0x80000004, b"driver", b"late")
    assert fact("firmware.drivers", p2=[separator(2), late]).status is FactStatus.UNKNOWN
    assert fact("firmware.drivers", p2=[late, separator(2)]).value == (sha(b"late"),)
    assert fact("firmware.digests", p0=[FIRMWARE, separator(0), FIRMWARE]).status is FactStatus.UNKNOWN


EDIT = st.tuples(st.integers(1, 24), st.sampled_from(["type", "data", "swap"]), st.integers(1, 24))


@given(st.lists(EDIT, min_size=1, max_size=6), st.sampled_from(RECORDINGS))
def test_no_edit_of_a_log_changes_what_it_proves(edits: list[tuple[int, str, int]], name: str) -> None:
    """Whoever hands over the log may rewrite labels and data and reorder it: a fact stays as it was or gets unknown."""
    recording = load_recording(name)
    original = parse_event_log(recording.eventlog).events
    events = list(original[1:])
    for first, what, second in edits:
        one, other = events[first - 1], events[second - 1]
        if what == "type":
            events[first - 1] = replace(one, event_type=other.event_type)
        elif what == "data":
            events[first - 1] = replace(one, data=other.data)
        else:
            events[first - 1], events[second - 1] = other, one
    edited = header() + b"".join(encode_event(e.pcr, e.event_type, e.digests["sha256"], e.data) for e in events)
    quote = quote_of(recording.eventlog)
    truth = verify_measured_state(quote, recording.eventlog, recording.preimages).evidence
    try:
        claimed = verify_measured_state(quote, edited, recording.preimages).evidence
    except EvidenceRefused:
        return
    for fact_name, found in claimed.items():
        assert found.status is FactStatus.UNKNOWN or found.value == truth[fact_name].value, fact_name
