"""Requirements: every predicate, met and not, and the event that decides."""

from __future__ import annotations

import fnmatch
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.attest.evaluate import (
    RequirementResult,
    evaluate,
    evaluate_sealed,
    has_option,
    options,
    render_evaluation,
    wildcard,
)
from sealvm.attest.profile import load_profile
from tests.attest.logs import E, boot, load_options, program, recorded, separator, verified
from tests.attest.logs import options as hashed

STARTER = load_profile(
    (Path(__file__).parents[2] / "examples/profiles/measured-kernel.yaml").read_text(), "measured-kernel.yaml"
)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def answers(requirements: str, *preimages: bytes, **parts: list[E]) -> tuple[RequirementResult, ...]:
    text = "name: p\npcrs: [0, 2, 4, 7, 9]\nrequirements:\n"
    for number, requirement in enumerate(requirements.split(";")):
        text += f"- {{name: r{number}, says: it holds, {requirement}}}\n"
    state = verified(boot(**parts), preimages or (hashed("root=/dev/vda ro"),))
    return evaluate(load_profile(text, "p"), state.evidence).results


def met(requirement: str, *preimages: bytes, **parts: list[E]) -> bool:
    (result,) = answers(requirement, *preimages, **parts)
    return result.met


def test_the_starter_profile_accepts_the_good_boot_and_not_the_tampered_one() -> None:
    good = evaluate(STARTER, recorded("good").evidence)
    tampered = evaluate(STARTER, recorded("tampered").evidence)
    assert good.satisfied
    assert [result.event_index for result in good.results] == [10, 10, 21, 22]
    assert not tampered.satisfied
    assert [(result.name, result.met) for result in tampered.results if not result.met] == [("cmdline-exact", False)]


def test_evaluations_as_lines() -> None:
    lines = render_evaluation(evaluate(STARTER, recorded("tampered").evidence))
    assert lines[0] == "met      kernel-known   linux-6.1.0-56-cloud (a2ac884f67a0…), event 10"
    assert lines[2:4] == [
        'not met  cmdline-exact  "root=/dev/vda ro init=/bin/sh initrd=initrd", preimage of event 21',
        '                        expected: equals "root=/dev/vda ro lockdown=integrity initrd=initrd"',
    ]


def test_equals() -> None:
    assert met("fact: secureboot.enabled, equals: true")
    assert not met("fact: secureboot.enabled, equals: false")
    assert met("fact: kernel.cmdline, equals: root=/dev/vda ro")
    assert not met("fact: kernel.cmdline, equals: root=/dev/vda")
    assert met(f"fact: bootapps, equals: [{sha(b'kernel')}]")


def test_equals_of_lists_names_the_first_event_that_differs() -> None:
    parts = [separator(4), program(b"a"), program(b"b")]
    both = f"fact: bootapps, equals: [{sha(b'a')}, {sha(b'b')}]"
    assert met(both, p4=parts)
    (swapped,) = answers(both, p4=[separator(4), program(b"b"), program(b"a")])
    (longer,) = answers(both, p4=[*parts, program(b"c")])
    (shorter,) = answers(both, p4=parts[:2])
    first = swapped.event_index
    assert first is not None
    assert not (swapped.met or longer.met or shorter.met)
    assert (longer.event_index, shorter.event_index) == (first + 2, first)


def test_in_asks_for_every_element_and_names_the_stranger() -> None:
    known = f"fact: bootapps, in: {{shim: {sha(b'shim')}, kernel: {sha(b'kernel')}}}"
    assert met(known)
    assert met(known, p4=[separator(4), program(b"shim"), program(b"kernel")])
    (result,) = answers(known, p4=[separator(4), program(b"shim"), program(b"bad"), program(b"kernel")])
    (position,) = [
        event.index
        for event in verified(boot(p4=[separator(4), program(b"shim"), program(b"bad")])).events
        if event.digest.hex() == sha(b"bad")
    ]
    assert not result.met
    assert result.event_index == position
    assert result.found == f"{sha(b'shim')}, {sha(b'bad')}, {sha(b'kernel')}"
    assert result.detail.startswith(f"shim ({sha(b'shim')[:12]}…), {sha(b'bad')}, kernel (")
    assert met("fact: kernel.cmdline, in: [other, root=/dev/vda ro]")
    assert not met("fact: kernel.cmdline, in: [other]")


def test_contains() -> None:
    assert met(f"fact: firmware.digests, contains: {sha(b'firmware')}")
    assert not met(f"fact: firmware.digests, contains: {sha(b'other')}")
    assert met("fact: kernel.cmdline, contains: ro")
    assert not met("fact: kernel.cmdline, contains: root")


def test_matches() -> None:
    assert met("fact: kernel.cmdline, matches: root=/dev/vd? *")
    assert not met("fact: kernel.cmdline, matches: root=/dev/vda")


def test_absent_needs_proof() -> None:
    assert met("fact: firmware.drivers, absent: true")
    assert not met("fact: bootapps, absent: true")
    assert met("fact: initrd.digest, absent: true", p9=[load_options("root=/dev/vda ro")])
    (unproved,) = answers("fact: kernel.cmdline, absent: true", b"no preimage")
    assert not unproved.met
    assert "no preimage fits" in unproved.detail


def test_a_missing_fact_meets_nothing() -> None:
    for predicate in ("equals: ''", "in: ['']", "matches: '*'", "contains: ''"):
        assert not met(f"fact: kernel.cmdline, {predicate}", p9=[])
        assert not met(f"fact: kernel.cmdline, {predicate}", b"no preimage")


def test_a_kernel_after_other_programs_is_not_enough_alone() -> None:
    parts = [separator(4), program(b"bad kernel"), program(b"kernel")]
    kernel = f"fact: kernel.digest, in: [{sha(b'kernel')}]"
    (alone,) = answers(kernel, p4=parts)
    assert not alone.met
    assert "what bootapps may be" in alone.detail
    judged = answers(f"{kernel};fact: bootapps, in: [{sha(b'kernel')}]", p4=parts)
    assert [result.met for result in judged] == [True, False]
    weak = answers(f"{kernel};fact: bootapps, contains: {sha(b'kernel')}", p4=parts)
    assert [result.met for result in weak] == [False, False]
    assert met(kernel)


def test_a_list_that_can_grow_after_the_boot_does_not_contain_anything_until_all_of_it_is_judged() -> None:
    contains = f"fact: bootapps, contains: {sha(b'kernel')}"
    (alone,) = answers(contains)
    assert not alone.met
    assert "whoever runs later on the host can add to this list" in alone.detail
    both = answers(f"{contains};fact: bootapps, in: [{sha(b'kernel')}, {sha(b'shim')}]")
    assert [result.met for result in both] == [True, True]


def test_long_lists_are_shown_in_part() -> None:
    programs = [program(str(number).encode()) for number in range(40)]
    (result,) = answers(f"fact: bootapps, in: [{sha(b'0')}]", p4=[separator(4), *programs])
    assert result.found.endswith(f"{sha(b'31')} and 8 more")
    assert "and 8 more, events " in result.detail


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("a b=c", ("a", "b=c")),
        ("  a   b ", ("a", "b")),
        ('a="x lockdown=integrity y" b', ('a="x lockdown=integrity y"', "b")),
        ('a="x b', ('a="x b',)),
        ("a -- b", ("a",)),
        ("a --b c", ("a", "--b", "c")),
        ("", ()),
    ],
)
def test_options_are_split_as_the_kernel_splits_them(text: str, split: tuple[str, ...]) -> None:
    assert options(text) == split


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("ro lockdown=integrity", True),
        ("lockdown=integrity lockdown=integrity", True),
        ("lockdown=integrity lockdown=none", False),
        ("lockdown=integrity lockdown", False),
        ("xlockdown=integrity", False),
        ("lockdown=integrityx", False),
        ("-- lockdown=integrity", False),
        ('a="b lockdown=integrity"', False),
        ("", False),
    ],
)
def test_an_option_holds_when_nothing_overrules_it(text: str, holds: bool) -> None:
    assert has_option(text, "lockdown=integrity") is holds


def test_hyphen_and_underscore_are_one_in_an_options_name() -> None:
    assert not has_option("module.sig_enforce=1 module.sig-enforce=0", "module.sig_enforce=1")


@given(st.text("ab*?", max_size=8), st.text("abc", max_size=12))
def test_wildcards_are_those_of_the_shell(pattern: str, text: str) -> None:
    assert wildcard(pattern, text) is fnmatch.fnmatchcase(text, pattern)


def test_a_chosen_text_cannot_make_a_pattern_slow() -> None:
    assert not wildcard("*a" * 40 + "b", "a" * 2047)


def test_at_an_approval_only_what_the_selected_pcrs_prove_is_judged() -> None:
    text = "name: p\npcrs: [0, 2, 4, 7, 9]\nlease: 1h\nrequirements:\n"
    text += "- {name: files, says: known files, fact: ima.files, absent: true}\n"
    text += "- {name: options, says: known options, fact: kernel.cmdline, equals: root=/dev/vda ro}\n"
    profile, evidence = load_profile(text, "p"), verified(boot()).evidence
    assert [(one.name, one.met) for one in evaluate(profile, evidence).results] == [("files", False), ("options", True)]
    assert [(one.name, one.met) for one in evaluate_sealed(profile, evidence).results] == [("options", True)]
    good = recorded("good").evidence
    assert evaluate_sealed(STARTER, good) == evaluate(STARTER, good)
