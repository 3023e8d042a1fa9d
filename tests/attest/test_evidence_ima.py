"""`ima.files`: recorded boots, and what root on the host tries to make IMA's log say."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest

from sealvm.attest.facts import Fact, FactStatus
from sealvm.attest.state import MeasuredState, local_state, verify_measured_state
from sealvm.errors import EvidenceRefused, MalformedError
from sealvm.tcg.attest import ClockInfo, VerifiedQuote
from sealvm.tcg.eventlog import parse_event_log, replay
from sealvm.tcg.imalog import parse_ima_log, progress
from sealvm.tcg.pcr import PcrSelection, pcr_digest
from tests.attest.logs import BOOTS, boot, booted, log_of, quote_of

SELECTION = tuple(range(11))
BUSYBOX = "3d9f2889d6782537624a4e1a10e68a2ddd53e0ee8bac02676f27308f42ec6bf6"
LOG = log_of(boot())
VALUES = replay(parse_event_log(LOG))
AGGREGATE = hashlib.sha256(b"".join(VALUES[pcr] for pcr in range(10))).digest()


def entry(path: str, digest: bytes, *, violation: bool = False) -> bytes:
    name = f"{path}\0".encode()
    data = struct.pack("<I", 40) + b"sha256:\0" + digest + struct.pack("<I", len(name)) + name
    logged = bytes(20) if violation else hashlib.sha1(data).digest()
    return struct.pack("<I20sI", 10, logged, 6) + b"ima-ng" + struct.pack("<I", len(data)) + data


START = entry("boot_aggregate", AGGREGATE)
GOOD, BAD = entry("/bin/good", b"g" * 32), entry("/bin/bad", b"b" * 32)


def quote_with(ima: bytes) -> VerifiedQuote:
    values = {**VALUES, 10: progress(parse_ima_log(ima))[-1]}
    return VerifiedQuote(PcrSelection(SELECTION), pcr_digest(values, SELECTION), ClockInfo(1, 1, 0, True), 1)


def state(extended: bytes, claimed: bytes | None = None) -> MeasuredState:
    """The TPM took in `extended`; the host hands over `claimed`, or the same."""
    return verify_measured_state(quote_with(extended), LOG, [], ima_log=extended if claimed is None else claimed)


def files(extended: bytes, claimed: bytes | None = None) -> Fact:
    return state(extended, claimed).evidence["ima.files"]


@pytest.mark.parametrize("name", ["ima-ng", "ima-sig"])
def test_files_of_a_recorded_boot(name: str) -> None:
    found = booted(name, SELECTION).evidence["ima.files"]
    assert isinstance(found.value, tuple)
    assert (len(found.value), found.value[1], found.events) == (2, BUSYBOX, (1, 2))


@pytest.mark.parametrize(("name", "reason"), [("ima-old", "no SHA-256"), ("ima-violation", "changed while")])
def test_files_that_a_recorded_boot_does_not_prove(name: str, reason: str) -> None:
    found = booted(name, SELECTION).evidence["ima.files"]
    assert found.status is FactStatus.UNKNOWN
    assert reason in found.reason


def test_every_file_is_listed_in_order() -> None:
    assert files(START + GOOD + BAD).value == ((b"g" * 32).hex(), (b"b" * 32).hex())


def test_entries_after_the_quote_do_not_count() -> None:
    proved = state(START + GOOD, START + GOOD + BAD)
    assert proved.evidence["ima.files"].value == ((b"g" * 32).hex(),)
    assert len(proved.ima) == 2


def test_a_file_left_out_altered_or_moved_is_refused() -> None:
    altered = START + entry("/bin/good", b"x" * 32)
    for claimed in (START, START + GOOD, START + GOOD + BAD, altered + BAD, b""):
        with pytest.raises(EvidenceRefused, match="does not lead to the quoted values"):
            state(START + BAD + GOOD, claimed)


def test_a_forged_path_is_malformed_and_a_forged_violation_refused() -> None:
    with pytest.raises(MalformedError, match="logged digest is not that"):
        state(START + BAD, START + BAD.replace(b"/bin/bad", b"/bin/gud"))
    with pytest.raises(EvidenceRefused):
        state(START + BAD, START + entry("/bin/bad", b"b" * 32, violation=True))


def test_a_violation_makes_all_unknown() -> None:
    found = files(START + GOOD + entry("/etc/x", b"x" * 32, violation=True))
    assert (found.status, found.event_index) == (FactStatus.UNKNOWN, 2)


@pytest.mark.parametrize("log", [GOOD, entry("boot_aggregate", b"o" * 32) + GOOD])
def test_a_log_that_does_not_begin_with_this_boots_aggregate_proves_nothing(log: bytes) -> None:
    found = files(log)
    assert found.status is FactStatus.UNKNOWN
    assert "boot aggregate" in found.reason


def test_without_pcr_10_in_the_quote_the_log_proves_nothing() -> None:
    quoted = verify_measured_state(quote_of(LOG), LOG, [], ima_log=START + GOOD)
    assert quoted.evidence["ima.files"].status is FactStatus.UNKNOWN
    assert quoted.ima == ()


def test_no_file_is_absent() -> None:
    assert files(START).status is FactStatus.ABSENT
    assert files(b"").status is FactStatus.ABSENT


def test_a_log_that_is_none_is_malformed() -> None:
    with pytest.raises(MalformedError, match="IMA log"):
        state(START, START + b"x")


def test_a_local_state_takes_ima_in_and_names_a_log_that_does_not_fit() -> None:
    folder = BOOTS["ima-sig"]
    held = {int(n): bytes.fromhex(value) for n, value in json.loads((folder / "pcrs.json").read_text()).items()}
    values = {pcr: held[pcr] for pcr in SELECTION}
    log, ima = (folder / "eventlog.bin").read_bytes(), (folder / "ima.bin").read_bytes()
    assert local_state(values, log, [], ima).flaws == ()
    (flaw,) = local_state({**values, 10: b"\1" * 32}, log, [], ima).flaws
    assert (flaw.pcr, flaw.event_index) == (10, None)
    assert "no part of IMA's log of 3 entries" in flaw.message
    (flaw,) = local_state(values, log, []).flaws
    assert flaw.message == "PCR 10 was extended, and the log has no event for it"


def test_without_a_log_the_claimed_value_must_be_the_quoted_one_and_proves_no_file() -> None:
    quote = quote_with(START + GOOD)
    value = progress(parse_ima_log(START + GOOD))[-1]
    proved = verify_measured_state(quote, LOG, [], {10: value}, None)
    assert (proved.pcr_values[10], proved.flaws, proved.ima) == (value, (), ())
    assert proved.evidence["ima.files"].status is FactStatus.UNKNOWN
    for claimed in (None, {}, {10: bytes(32)}, {9: value}):
        with pytest.raises(EvidenceRefused):
            verify_measured_state(quote, LOG, [], claimed, None)
    with pytest.raises(EvidenceRefused):  # a log that was given counts, whatever is claimed
        verify_measured_state(quote, LOG, [], {10: value}, START)


def test_the_entry_count_of_a_log_that_does_not_fit_is_named() -> None:
    values = {**VALUES, 10: progress(parse_ima_log(START + BAD))[-1]}
    with pytest.raises(EvidenceRefused, match="no part of IMA's log of 2 entries") as caught:
        verify_measured_state(quote_with(START + BAD), LOG, [], values, START + GOOD)
    assert caught.value.fields["pcr"] == 10
