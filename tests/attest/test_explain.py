"""Explanations: the demo's text, the nearest approved state, what is not in the log, and references as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sealvm.attest.explain import explain, reference_of, render
from sealvm.attest.reference import parse_reference, reference_from
from sealvm.attest.state import MeasuredState, local_state
from sealvm.attest.words import UNKNOWN, words_for
from sealvm.errors import MalformedError
from sealvm.lab.recording import RECORDINGS, load_recording
from sealvm.tcg.events_types import EVENT_TYPES
from tests.attest.logs import (
    BOOTS_WITH_SHA256,
    QUOTED,
    E,
    boot,
    booted,
    program,
    recorded,
    secure_boot,
    separator,
    verified,
)
from tests.attest.test_evaluate import STARTER

REFERENCE = Path(__file__).parents[2] / "docs/profiles.md"
SMALL = """
name: small
pcrs: [0, 2, 4, 7, 9]
requirements: [{name: secure, says: Secure Boot is on, fact: secureboot.enabled, equals: true}]
"""


def reference(state: MeasuredState) -> dict[str, Any]:
    """As it comes back from the trust bundle."""
    loaded: dict[str, Any] = json.loads(json.dumps(reference_of(state, STARTER.pcrs)))
    return loaded


def test_the_tampered_host_is_told_which_event_differs_and_what_to_do() -> None:
    explanation = explain(STARTER, [reference(recorded("good"))], recorded("tampered"))
    assert not explanation.satisfied
    assert render(explanation) == [
        "PCR 9 differs, from event 21: kernel command line",
        "  approved: root=/dev/vda ro lockdown=integrity initrd=initrd",
        "  found:    root=/dev/vda ro init=/bin/sh initrd=initrd",
        'breaks: cmdline-exact "the kernel starts with the approved options"',
        "to do: reboot with the approved command line, or approve this state",
    ]
    assert "\n".join(render(explanation)) in REFERENCE.read_text()
    (difference,) = explanation.to_json()["differences"]
    assert (difference["pcr"], difference["event_index"], difference["event_type"]) == (9, 21, "EV_EVENT_TAG")


def test_an_approved_state_needs_nothing() -> None:
    explanation = explain(STARTER, [reference(recorded("tampered")), reference(recorded("good"))], recorded("good"))
    assert explanation.satisfied
    assert render(explanation) == ["this state is approved for profile 'measured-kernel'"]
    assert json.loads(json.dumps(explanation.to_json()))["to_do"] == ""


def test_without_an_approval_it_says_so() -> None:
    assert render(explain(STARTER, [], recorded("good"))) == [
        "no state is approved",
        "to do: approve this state: no state is approved for profile 'measured-kernel' yet",
    ]
    assert "boot as its requirements say" in render(explain(STARTER, [], recorded("tampered")))[-1]


def test_the_nearest_approved_state_is_compared() -> None:
    far = verified(boot(p7=[secure_boot(b"\0"), separator(7)], p9=[]))
    near = verified(boot(p4=[separator(4), program(b"old kernel")]))
    explanation = explain(SMALL, [reference_of(far), reference_of(near)], verified(boot()))
    assert {difference.pcr for difference in explanation.differences} == {4}
    assert explanation.approved_states == 2


def test_ima_that_moved_is_told_as_such() -> None:
    profile = SMALL.replace("9]", "9, 10]")
    old, new = booted("ima-ng", range(11)), booted("ima-sig", range(11))
    explanation = explain(profile, [reference_of(old)], new)
    (moved,) = [difference for difference in explanation.differences if difference.pcr == 10]
    assert moved.what == "files that Linux measured (IMA)"
    assert moved.found.startswith("3 entries in IMA's log")
    assert "leave PCR 10 out" in moved.advice


@pytest.mark.parametrize("approved", BOOTS_WITH_SHA256)
def test_any_recorded_boot_is_explained_against_any_other(approved: str) -> None:
    reference = reference_of(booted(approved))
    for found in BOOTS_WITH_SHA256:
        explanation = explain(SMALL, [reference], booted(found))
        same = {one.pcr for one in explanation.differences} == set()
        assert explanation.satisfied == same
        assert all(one.what and one.advice and one.approved != one.found for one in explanation.differences)
        assert bool(explanation.to_do) != same
        assert all(line.isprintable() for line in render(explanation))


def test_a_kernel_update_is_told_by_its_program() -> None:
    explanation = explain(SMALL, [reference_of(booted("uki"))], booted("uki-update"))
    assert {(one.pcr, one.what) for one in explanation.differences} == {
        (4, "program started by the firmware (boot loader or kernel)")
    }


def test_an_inserted_event_is_one_difference_and_a_missing_one_too() -> None:
    plain = verified(boot())
    more = verified(boot(p4=[separator(4), program(b"shim"), program(b"kernel")]))
    only = verified(boot(p4=[separator(4), program(b"kernel")]))
    (inserted,) = explain(SMALL, [reference_of(only)], more).differences
    assert (inserted.approved, inserted.event_type) == ("(nothing)", "EV_EFI_BOOT_SERVICES_APPLICATION")
    assert inserted.found.startswith("sha256 ")
    (missing,) = explain(SMALL, [reference_of(more)], only).differences
    assert (missing.found, missing.what) == ("(nothing)", "program started by the firmware (boot loader or kernel)")
    assert missing.advice == "bring back the program started by the firmware (boot loader or kernel)"
    (action,) = explain(SMALL, [reference_of(only)], plain).differences
    assert action.found == "Calling EFI Application from Boot Option"


def test_a_variable_is_shown_by_name_and_value() -> None:
    off = verified(boot(p7=[secure_boot(b"\0"), separator(7)]))
    lines = render(explain(SMALL, [reference_of(verified(boot()))], off))
    assert lines == [
        "PCR 7 differs, from event 12: Secure Boot setting",
        "  approved: SecureBoot = 01",
        "  found:    SecureBoot = 00",
        'breaks: secure "Secure Boot is on"',
        "to do: set Secure Boot as approved in the firmware's setup, or approve this state",
    ]


def test_what_the_log_does_not_show_is_said_and_not_offered_for_approval() -> None:
    recording = load_recording("good")
    values = {pcr: recording.pcr_values[pcr] for pcr in QUOTED} | {4: b"\1" * 32}
    state = local_state(values, recording.eventlog, recording.preimages)
    explanation = explain(STARTER, [reference(recorded("good"))], state)
    lines = render(explanation)
    assert lines[0] == "PCR 4 differs: an event log that does not fit the TPM's value"
    assert lines[-1] == "to do: reboot, to start again with PCRs that the log explains"
    assert [broken.name for broken in explanation.breaks] == ["kernel-known", "nothing-else"]


def test_many_differences_of_one_pcr_are_cut() -> None:
    many = verified(boot(p4=[separator(4), *(program(b"%d" % number) for number in range(50))]))
    assert len(explain(SMALL, [reference_of(verified(boot()))], many).differences) == 8


def test_a_state_without_a_pcr_of_the_profile_cannot_be_explained() -> None:
    recording = load_recording("good")
    state = local_state({0: recording.pcr_values[0]}, recording.eventlog, [])
    with pytest.raises(MalformedError, match="no value of PCR 2"):
        explain(STARTER, [], state)


def test_references_come_back_as_they_were() -> None:
    state = recorded("good")
    assert parse_reference(json.loads(json.dumps(reference_of(state)))) == reference_from(state)
    assert set(reference(state)["pcrs"]) == {"0", "2", "4", "7", "9"}
    assert {event["pcr"] for event in reference(state)["events"]} == {0, 2, 4, 7, 9}


EVENT = {"index": 1, "pcr": 0, "type": "EV", "what": "w", "digest": "00" * 32}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {},
        {"pcrs": {}, "events": [], "more": 1},
        {"pcrs": [], "events": []},
        {"pcrs": {}, "events": {}},
        {"pcrs": {}, "events": [EVENT] * 4097},
        {"pcrs": {"24": "00" * 32}, "events": []},
        {"pcrs": {0: "00" * 32}, "events": []},
        {"pcrs": {"0": "00" * 31}, "events": []},
        {"pcrs": {"0": 0}, "events": []},
        {"pcrs": {}, "events": [1]},
        {"pcrs": {}, "events": [EVENT | {"index": True}]},
        {"pcrs": {}, "events": [EVENT | {"index": -1}]},
        {"pcrs": {}, "events": [EVENT | {"pcr": 24}]},
        {"pcrs": {}, "events": [EVENT | {"digest": "00"}]},
        {"pcrs": {}, "events": [EVENT | {"what": "a\nb"}]},
        {"pcrs": {}, "events": [EVENT | {"text": "\x1b[2J"}]},
        {"pcrs": {}, "events": [EVENT | {"text": 1}]},
        {"pcrs": {}, "events": [EVENT | {"more": 1}]},
    ],
)
def test_a_reference_of_another_form_is_malformed(bad: object) -> None:
    with pytest.raises(MalformedError, match="reference of an approved state"):
        parse_reference(bad)


def test_a_reference_without_a_pcr_of_the_profile_is_malformed() -> None:
    with pytest.raises(MalformedError, match="no value of PCR 0"):
        explain(STARTER, [{"pcrs": {}, "events": []}], recorded("good"))


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_event_of_the_recordings_has_words_and_advice(name: str) -> None:
    for event in recorded(name).events:
        words = words_for(event)
        assert words != UNKNOWN, event.type_name
        assert words.what
        assert words.advice


def test_every_type_of_the_specification_has_words() -> None:
    (measured, *_) = recorded("good").events
    unknown = {
        name
        for number, name in EVENT_TYPES.items()
        if words_for(type(measured)(1, 0, number, bytes(32), b"", None, "")) == UNKNOWN
    }
    assert unknown == {"EV_UNUSED", "EV_EFI_EVENT_BASE"}


def test_an_event_of_an_unknown_type_has_words_too() -> None:
    state = verified(boot(p2=[E(2, 0x1234, b"?"), separator(2)]))
    assert words_for(next(event for event in state.events if event.pcr == 2)) == UNKNOWN
