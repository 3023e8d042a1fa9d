"""Measured states: what a quote proves, and every way in which a log does not hold together."""

from __future__ import annotations

import hashlib
import struct

import pytest

from sealvm.attest.state import PCRS_REQUIRED, local_state, verify_measured_state
from sealvm.errors import EvidenceRefused, MalformedError
from sealvm.lab.recording import RECORDINGS, load_recording
from sealvm.tcg.attest import ClockInfo, VerifiedQuote
from sealvm.tcg.eventlog import parse_event_log, replay
from sealvm.tcg.pcr import PcrSelection, pcr_digest
from tests.attest.logs import (
    BOOTS,
    FIRMWARE,
    QUOTED,
    E,
    boot,
    header,
    log_of,
    program,
    quote_of,
    secure_boot,
    separator,
    verified,
    version,
)


def quote_of_values(values: dict[int, bytes]) -> VerifiedQuote:
    return VerifiedQuote(PcrSelection(values), pcr_digest(values, values), ClockInfo(1, 1, 0, True), 1)


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recorded_boot_is_verified_against_a_quote_of_its_pcrs(name: str) -> None:
    recording = load_recording(name)
    values = {pcr: recording.pcr_values[pcr] for pcr in QUOTED}
    state = verify_measured_state(quote_of_values(values), recording.eventlog, recording.preimages)
    assert state.pcr_values == values
    assert not state.flaws
    assert [event.index for event in state.events] == list(range(1, 25))
    assert {event.content_from for event in state.events if event.index == 21} == {"preimage"}


def test_events_of_pcrs_that_were_not_quoted_are_left_out() -> None:
    log = log_of(boot())
    state = verify_measured_state(quote_of(log, sorted(PCRS_REQUIRED)), log, [])
    assert {event.pcr for event in state.events} == PCRS_REQUIRED


@pytest.mark.parametrize("selection", [(0, 2, 4), (), (0, 2, 4, 7, 16), (0, 2, 4, 7, 23)])
def test_a_quote_over_too_few_or_resettable_pcrs_is_refused(selection: tuple[int, ...]) -> None:
    log = log_of(boot())
    with pytest.raises(EvidenceRefused, match="must cover 0, 2, 4, 7 and none of 16 to 23"):
        verify_measured_state(quote_of(log, selection), log, [])


def test_another_boots_log_is_refused_and_with_the_values_the_pcr_and_event_named() -> None:
    good, tampered = (load_recording(name) for name in RECORDINGS)
    values = {pcr: tampered.pcr_values[pcr] for pcr in QUOTED}
    quote = quote_of_values(values)
    with pytest.raises(EvidenceRefused, match="does not lead to the quoted values of PCR 0, 1, 2"):
        verify_measured_state(quote, good.eventlog, good.preimages)
    with pytest.raises(EvidenceRefused, match="PCR 9: the log's 2 events up to event 22") as caught:
        verify_measured_state(quote, good.eventlog, good.preimages, values)
    assert (caught.value.fields["pcr"], caught.value.fields["event"]) == (9, 22)


def test_claimed_values_that_were_not_quoted_name_nothing() -> None:
    good, tampered = (load_recording(name) for name in RECORDINGS)
    quote = quote_of_values({pcr: tampered.pcr_values[pcr] for pcr in QUOTED})
    claims: list[dict[int, bytes]] = [{}, dict(good.pcr_values), dict.fromkeys(QUOTED, b"short")]
    for claimed in claims:
        with pytest.raises(EvidenceRefused, match="does not lead to the quoted values"):
            verify_measured_state(quote, good.eventlog, good.preimages, claimed)


def test_an_event_that_the_tpm_never_saw_is_named_without_values() -> None:
    events = boot()
    quote = quote_of(log_of(events))
    forged = log_of([*events, program(b"good kernel")])
    index = len(events) + 1
    with pytest.raises(EvidenceRefused, match=f"PCR 4: event {index} .*the TPM never saw it") as caught:
        verify_measured_state(quote, forged, [])
    assert (caught.value.fields["pcr"], caught.value.fields["event"]) == (4, index)


def test_a_bank_that_the_firmware_left_unextended_is_refused() -> None:
    log = header()
    quote = quote_of_values(dict.fromkeys(QUOTED, bytes(32)))
    with pytest.raises(EvidenceRefused, match="PCR 0 was never extended") as caught:
        verify_measured_state(quote, log, [])
    assert caught.value.fields["pcr"] == 0
    partly = log_of(boot(p2=[]))
    with pytest.raises(EvidenceRefused, match="PCR 2 was never extended"):
        verify_measured_state(quote_of(partly), partly, [])


def test_a_log_without_sha256_proves_nothing() -> None:
    log = (BOOTS["tpm12"] / "eventlog.bin").read_bytes()
    with pytest.raises(EvidenceRefused, match="no SHA-256 digests, only sha1"):
        verify_measured_state(quote_of(log_of(boot())), log, [])
    with pytest.raises(EvidenceRefused, match="no SHA-256 digests, only sha1"):
        local_state({}, log, [])


SEPARATORS = {
    "missing": ([version("1"), FIRMWARE], "PCR 0 has no separator"),
    "doubled": ([version("1"), separator(0), separator(0)], "second separator in PCR 0"),
    "doubled with the other value": ([version("1"), separator(0), separator(0, b"\xff" * 4)], "second separator"),
    "error": ([version("1"), separator(0, b"\1\0\0\0")], "reports a measurement error"),
    "label only": (
        [version("1"), E(0, 4, bytes(4), b"other")],
        "event 2 in PCR 0: label and digest",
    ),
    "digest only": ([E(0, 8, b"version", bytes(4)), separator(0)], "event 1 in PCR 0: label and digest"),
}


@pytest.mark.parametrize(("events", "message"), SEPARATORS.values(), ids=SEPARATORS.keys())
def test_a_pcr_without_exactly_one_true_separator_is_refused(events: list[E], message: str) -> None:
    with pytest.raises(EvidenceRefused, match=message) as caught:
        verified(boot(p0=events))
    assert caught.value.fields["pcr"] == 0


def test_too_many_or_too_large_preimages_are_malformed() -> None:
    with pytest.raises(MalformedError, match="preimages: 65, at most 64"):
        verified(boot(), [b""] * 65)
    with pytest.raises(MalformedError, match="preimage 1: 65537 bytes"):
        verified(boot(), [b"", bytes(65537)])


def test_content_is_what_the_digest_is_the_hash_of_and_nothing_else() -> None:
    events = boot(p7=[secure_boot(), E(7, 0x80000001, secure_boot(b"\0").data, b"not this data"), separator(7)])
    by_type = {event.index: event for event in verified(events).events if event.pcr == 7}
    contents = [event.content for event in by_type.values()]
    assert contents == [secure_boot().data, None, bytes(4)]


def test_a_local_state_reports_flaws_and_keeps_what_is_true() -> None:
    recording = load_recording("good")
    values = {pcr: recording.pcr_values[pcr] for pcr in QUOTED}
    extended = {**values, 9: hashlib.sha256(values[9] + bytes(32)).digest()}
    state = local_state(extended, recording.eventlog, recording.preimages)
    assert [(flaw.pcr, flaw.event_index) for flaw in state.flaws] == [(9, 22)]
    assert state.evidence["kernel.cmdline"].value is None
    assert state.evidence["kernel.digest"].value is not None


def test_a_local_state_of_a_tpm_that_was_never_extended() -> None:
    recording = load_recording("good")
    state = local_state(dict.fromkeys(QUOTED, bytes(32)), recording.eventlog, [])
    assert [flaw.pcr for flaw in state.flaws] == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    assert "never extended" in state.flaws[0].message
    assert "event 21 (EV_EVENT_TAG) is in the log, but the TPM never saw it" in state.flaws[-1].message


def test_a_local_state_names_a_pcr_that_the_log_does_not_mention() -> None:
    log = log_of(boot(p9=[]))
    values = {**replay(parse_event_log(log)), 9: b"\1" * 32}
    (flaw,) = local_state(values, log, []).flaws
    assert flaw.message == "PCR 9 was extended, and the log has no event for it"


@pytest.mark.parametrize("values", [{0: b"short"}, {24: bytes(32)}])
def test_a_local_state_needs_pcr_values(values: dict[int, bytes]) -> None:
    with pytest.raises(MalformedError, match="PCR"):
        local_state(values, log_of(boot()), [])


def test_a_log_that_cannot_be_read_is_malformed_before_anything_else() -> None:
    log = log_of(boot())
    with pytest.raises(MalformedError, match="event log"):
        verify_measured_state(quote_of(log), log + struct.pack("<I", 1), [])
