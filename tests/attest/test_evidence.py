"""Facts: what the recorded boots prove, and what somebody who runs after the boot tries to make them say.

Each attack extends a PCR further, relabels events, or both; none may turn into a fact.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.attest.facts import FACTS, Fact, FactStatus
from sealvm.attest.state import verify_measured_state
from sealvm.errors import EvidenceRefused
from sealvm.tcg.eventlog import parse_event_log
from tests.attest.logs import (
    BOOT_PCRS,
    BOOTS,
    BOOTS_WITH_SHA256,
    CMDLINE,
    FIRMWARE,
    GLOBAL,
    SECURITY_DATABASE,
    E,
    boot,
    booted,
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
    assert {name for name in FACTS if good[name] != tampered[name]} == {"kernel.cmdline", "grub.files"}


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


def test_no_measured_program_proves_nothing_because_something_runs() -> None:
    for name in ("bootapps", "bootloader.digest", "kernel.digest"):
        assert fact(name, p4=[separator(4)]).status is FactStatus.UNKNOWN


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


def test_no_initrd_is_absent_unless_the_options_name_one_that_is_not_measured() -> None:
    assert fact("initrd.digest", p9=[load_options(CMDLINE)]).status is FactStatus.ABSENT
    named = "ro initrd=\\initrd.img"
    assert fact("initrd.digest", options(named), p9=[load_options(named)]).status is FactStatus.UNKNOWN
    assert fact("initrd.digest", options("other"), p9=[load_options(CMDLINE)]).status is FactStatus.UNKNOWN


def test_an_empty_pcr_9_proves_nothing_of_options_and_initrd() -> None:
    for name in ("kernel.cmdline", "initrd.digest"):
        assert fact(name, p9=[]).status is FactStatus.UNKNOWN
    assert fact("grub.files", p9=[]).status is FactStatus.ABSENT


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


def key(name: str, value: bytes, event_type: int = 0x80000001) -> E:
    vendor = SECURITY_DATABASE if name in ("db", "dbx") else GLOBAL
    return E(7, event_type, variable(name, value, vendor))


AUTHORITY = 0x800000E0
KEYS = [secure_boot(), key("PK", b"pk"), key("KEK", b"kek"), key("db", b"all keys"), key("dbx", b"")]
DRIVER_KEY, SHIM_KEY = key("db", b"driver's", AUTHORITY), key("db", b"shim's", AUTHORITY)


def test_secure_boot_keys_are_the_firmwares_variables_and_what_they_accepted() -> None:
    evidence = verified(boot(p7=[*KEYS, DRIVER_KEY, separator(7), SHIM_KEY])).evidence
    assert evidence["secureboot.pk"].value == sha(b"pk")
    assert evidence["secureboot.kek"].value == sha(b"kek")
    assert evidence["secureboot.db"].value == sha(b"all keys")
    assert evidence["secureboot.dbx"].status is FactStatus.ABSENT
    assert evidence["secureboot.authorities"].value == (DRIVER_KEY.digest.hex(), SHIM_KEY.digest.hex())


UNPROVED_KEYS = {
    "one variable's data is not what was hashed": [*KEYS[:3], E(7, 0x80000001, KEYS[3].data, b"evil"), separator(7)],
    "not measured": [KEYS[0], separator(7)],
    "only after the separator": [KEYS[0], separator(7), *KEYS[1:]],
}


@pytest.mark.parametrize("events", UNPROVED_KEYS.values(), ids=UNPROVED_KEYS.keys())
def test_secure_boot_keys_are_told_by_the_firmware_or_unknown(events: list[E]) -> None:
    assert fact("secureboot.db", p7=events).status is FactStatus.UNKNOWN


def test_a_key_measured_after_the_boot_is_one_more_authority_and_replaces_nothing() -> None:
    late = [*KEYS, separator(7), SHIM_KEY, key("db", b"forged"), secure_boot(b"\0")]
    assert fact("secureboot.db", p7=late).value == sha(b"all keys")
    assert fact("secureboot.authorities", p7=late).value == tuple(e.digest.hex() for e in late[-3:])


def command(text: str, prefix: str = "grub_cmd: ") -> E:
    return E(8, 0x0D, f"{prefix}{text}\0".encode(), text.encode())


def test_grubs_commands_are_the_texts_without_the_words_before_them() -> None:
    parts = [command("linux /k ro"), command("/k ro", "kernel_cmdline: "), command("boot")]
    assert fact("grub.commands", p8=parts).value == ("linux /k ro", "/k ro", "boot")
    assert fact("grub.commands", p8=[]).status is FactStatus.ABSENT
    relabelled = [command("linux /k ro"), command("/k ro", "grub_cmd: "), E(8, 0x5, b"boot")]
    assert fact("grub.commands", p8=relabelled).value == ("linux /k ro", "/k ro", "boot")
    for stray in (E(8, 0x0D, b"grub_cmd: boot\0", b"init=/bin/sh"), command("a\nb"), command("")):
        assert fact("grub.commands", p8=[*parts, stray]).status is FactStatus.UNKNOWN


def test_an_evil_command_line_stays_in_grubs_commands_whatever_is_added() -> None:
    parts = [command("/k init=/bin/sh", "kernel_cmdline: "), command("/k ro", "kernel_cmdline: ")]
    assert fact("grub.commands", p8=parts).value == ("/k init=/bin/sh", "/k ro")


@pytest.mark.parametrize("name", BOOTS_WITH_SHA256)
def test_facts_of_every_recorded_boot(name: str) -> None:
    about = json.loads((BOOTS[name] / "boot.json").read_text())
    evidence = booted(name).evidence
    secure = about["firmware"] != "plain"
    assert evidence["secureboot.enabled"].value is secure
    for keys in ("pk", "kek", "db", "dbx"):
        assert evidence[f"secureboot.{keys}"].status is (FactStatus.KNOWN if secure else FactStatus.ABSENT)
    by_stub = about["via"] in ("direct", "entry", "uki") and name != "secureboot-direct"
    assert evidence["kernel.cmdline"].value == (about["cmdline"] if by_stub else None)
    assert (evidence["initrd.digest"].value is not None) == (by_stub and name != "entry")
    assert (evidence["uki.sections"].value is not None) == (about["via"] == "uki")
    assert evidence["uki.parameters"].status is evidence["uki.extensions"].status is FactStatus.ABSENT
    assert (evidence["shim.digests"].value is not None) == (about["via"] == "shim")


def test_facts_of_a_boot_by_shim_and_grub() -> None:
    evidence = booted("secureboot-shim-grub").evidence
    commands = evidence["grub.commands"].value
    assert isinstance(commands, tuple)
    assert commands[4:] == (
        "linux /vmlinuz.efi root=/dev/vda ro lockdown=integrity",
        "/vmlinuz.efi root=/dev/vda ro lockdown=integrity",
        "initrd /initrd.img",
        "boot",
    )
    assert len(evidence["bootapps"].value or ()) == 4  # type: ignore[arg-type]
    assert len(evidence["secureboot.authorities"].value or ()) == 3  # type: ignore[arg-type]


def test_a_kernel_that_secure_boot_rejected_and_the_firmware_started_unmeasured_proves_nothing() -> None:
    evidence = booted("secureboot-direct").evidence
    assert evidence["secureboot.enabled"].value is True
    for name in ("bootapps", "kernel.digest", "kernel.cmdline", "initrd.digest"):
        assert evidence[name].status is FactStatus.UNKNOWN


EDIT = st.tuples(st.integers(0, 45), st.sampled_from(["type", "data", "swap"]), st.integers(0, 45))


@given(st.lists(EDIT, min_size=1, max_size=6), st.sampled_from(BOOTS_WITH_SHA256))
def test_no_edit_of_a_log_changes_what_it_proves(edits: list[tuple[int, str, int]], name: str) -> None:
    """Whoever hands over the log may rewrite labels and data and reorder it: a fact stays as it was or gets unknown."""
    folder = BOOTS[name]
    log = (folder / "eventlog.bin").read_bytes()
    preimages = [base64.b64decode(text) for text in json.loads((folder / "preimages.json").read_text())]
    original = parse_event_log(log).events
    events = list(original[1:])
    for first, what, second in edits:
        one, other = events[first % len(events)], events[second % len(events)]
        if what == "type":
            events[first % len(events)] = replace(one, event_type=other.event_type)
        elif what == "data":
            events[first % len(events)] = replace(one, data=other.data)
        else:
            events[first % len(events)], events[second % len(events)] = other, one
    edited = header() + b"".join(encode_event(e.pcr, e.event_type, e.digests["sha256"], e.data) for e in events)
    quote = quote_of(log, BOOT_PCRS)
    truth = verify_measured_state(quote, log, preimages).evidence
    try:
        claimed = verify_measured_state(quote, edited, preimages).evidence
    except EvidenceRefused:
        return
    for fact_name, found in claimed.items():
        assert found.status is FactStatus.UNKNOWN or found.value == truth[fact_name].value, fact_name
