"""Profiles: the starter profile loads, and each thing a profile must not say is refused with its line."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.attest.evaluate import evaluate
from sealvm.attest.facts import FACTS
from sealvm.attest.lint import lint
from sealvm.attest.profile import PREDICATES, Profile, load_profile
from sealvm.errors import MalformedError
from tests.attest.logs import BOOTS_WITH_SHA256, booted

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "examples/profiles/measured-kernel.yaml"
DIGEST = "ab" * 32


def document(requirement: str = "fact: secureboot.enabled\n    equals: true", **changed: str) -> str:
    """A small profile, each top-level line of which can be replaced or, by an empty text, left out."""
    lines = {
        "name": "name: small",
        "pcrs": "pcrs: [0, 2, 4, 7, 9]",
        "requirements": f"requirements:\n  - name: one\n    says: it holds\n    {requirement}",
    }
    lines.update(changed)
    return "\n".join(line for line in lines.values() if line)


@pytest.mark.parametrize(
    ("name", "boot", "warned"),
    [
        ("secure-boot", "secureboot-uki", {"root-not-bound"}),
        ("uki-verity", "uki-verity", set()),
    ],
)
def test_a_starter_profile_is_met_by_a_recorded_boot_and_no_other(name: str, boot: str, warned: set[str]) -> None:
    text = (STARTER.parent / f"{name}.yaml").read_text()
    profile = load_profile(text, name)
    met = {other for other in BOOTS_WITH_SHA256 if evaluate(profile, booted(other).evidence).satisfied}
    assert met == {boot}
    assert {warning.rule for warning in lint(text, name)} == warned


def test_the_starter_profile_loads() -> None:
    profile = load_profile(STARTER.read_text(), STARTER.name)
    assert (profile.name, profile.pcrs, profile.trust) == ("measured-kernel", [0, 2, 4, 7, 9], ["lab"])
    assert [r.name for r in profile.requirements] == ["kernel-known", "nothing-else", "cmdline-exact", "initrd-known"]
    assert profile.requirements[2].predicate == "equals"
    assert profile.requirements[0].label_of(str(profile.requirements[0].values()[0])) == "linux-6.1.0-56-cloud"


def test_hardware_is_trusted_unless_the_profile_says_otherwise() -> None:
    assert load_profile(document(), "p").trust == ["hardware"]
    assert load_profile(document(trust="trust: [virtual, lab]"), "p").trust == ["virtual", "lab"]


def test_pcrs_are_sorted_and_a_profile_does_not_change() -> None:
    profile = load_profile(document(pcrs="pcrs: [7, 4, 0, 2]"), "p")
    assert profile.pcrs == [0, 2, 4, 7]
    with pytest.raises(ValueError, match="frozen"):
        profile.name = "other"  # type: ignore[misc]


def test_leases() -> None:
    assert load_profile(document(), "p").lease_seconds is None
    profile = load_profile(document(lease="lease: 1h"), "p")
    assert (profile.lease_seconds, profile.on_lease_end) == (3600, "keep")
    for term, seconds in (("2s", 2), ("90s", 90), ("15m", 900), ("31d", 31 * 86400)):
        assert load_profile(document(lease=f"lease: {term}\non_lease_end: pause"), "p").lease_seconds == seconds


REFUSED = {
    "empty": ("", 1, "the document is empty"),
    "not a mapping": ("- a", 1, "a profile is a mapping"),
    "not YAML": ("name: [", 1, "not YAML"),
    "two documents": (document() + "\n---\na: b", 8, "not YAML"),
    "lease that is no term": (document(lease="lease: {seconds: 60}"), 8, "lease: "),
    "lease without a unit": (document(lease="lease: 3600"), 8, "lease: "),
    "lease in other words": (document(lease="lease: one hour"), 8, "not a term like 90s, 15m, 1h or 7d"),
    "lease too short": (document(lease="lease: 1s"), 8, "lasts from 2s to 31d"),
    "lease too long": (document(lease="lease: 32d"), 8, "lasts from 2s to 31d"),
    "end of no lease": (document(lease="on_lease_end: stop"), 1, "without 'lease'"),
    "unknown end": (document(lease="lease: 1h\non_lease_end: kill"), 9, "on_lease_end: "),
    "no name": (document(name=""), 1, "'name' is missing"),
    "bad name": (document(name="name: Small"), 1, "name: "),
    "name with a newline": (document(name='name: "small\\n"'), 1, "name: "),
    "unknown key": (document(lint="lint: true"), 8, "lint: there is no such key"),
    "doubled key": (document(again="name: other"), 8, "key 'name' is there twice"),
    "key that is no text": (document(again="1: other"), 8, "a key must be text"),
    "anchor": (document(trust="trust: &a [lab]"), 8, "anchors and aliases"),
    "alias": (document(trust="trust: *a"), 8, "anchors and aliases"),
    "tag": (document(trust="trust: !!set {lab}"), 8, "tags are not allowed"),
    "null": (document(trust="trust:"), 8, "reads as YAML's null"),
    "deep": ("a: " + "[" * 9 + "]" * 9, 1, "nested more than 8"),
    "missing PCR": (document(pcrs="pcrs: [0, 2, 4]"), 2, "PCR 7 is missing"),
    "resettable PCR": (document(pcrs="pcrs: [0, 2, 4, 7, 16]"), 2, "PCR 16 can be reset"),
    "last resettable PCR": (document(pcrs="pcrs: [0, 2, 4, 7, 23]"), 2, "PCR 23 can be reset"),
    "PCR that does not exist": (document(pcrs="pcrs: [0, 2, 4, 7, 24]"), 2, "there is no PCR 24"),
    "PCR twice": (document(pcrs="pcrs: [0, 2, 4, 7, 7]"), 2, "a PCR is there twice"),
    "PCR that is no number": (document(pcrs="pcrs: [0, 2, 4, '7']"), 2, "pcrs.3"),
    "PCR that is a flag": (document(pcrs="pcrs: [false, 2, 4, 7]"), 2, "pcrs.0"),
    "trust class": (document(trust="trust: [labs]"), 8, "trust.0"),
    "trust class twice": (document(trust="trust: [lab, lab]"), 8, "twice"),
    "no trust class": (document(trust="trust: []"), 8, "trust: "),
    "no requirement": (document(requirements="requirements: []"), 3, "requirements: "),
    "unknown fact": (document("fact: kernel.version\n    equals: x"), 6, "there is no fact 'kernel.version'"),
    "fact outside the PCRs": (
        document("fact: kernel.cmdline\n    equals: x", pcrs="pcrs: [0, 2, 4, 7]"),
        1,
        "which PCR 9 proves",
    ),
    "no predicate": (document("fact: secureboot.enabled"), 4, "has none"),
    "two predicates": (
        document("fact: bootapps\n    absent: true\n    contains: " + DIGEST),
        4,
        "contains, absent",
    ),
    "predicate of another kind": (
        document(f"fact: kernel.digest\n    matches: {DIGEST}"),
        4,
        "'matches' does not apply",
    ),
    "absent: false": (document("fact: bootapps\n    absent: false"), 7, "absent"),
    "flag as text": (document("fact: secureboot.enabled\n    equals: 'true'"), 4, "is true or false"),
    "text as flag": (document("fact: kernel.cmdline\n    equals: true"), 4, "put the value in quotes"),
    "list for a text": (document("fact: kernel.cmdline\n    equals: [a]"), 4, "'equals' needs text"),
    "one for a list": (document(f"fact: bootapps\n    equals: {DIGEST}"), 4, "'equals' needs a list"),
    "not a digest": (document("fact: kernel.digest\n    in: [abc]"), 4, "'abc' is not a SHA-256 digest"),
    "upper-case digest": (document(f"fact: kernel.digest\n    in: [{DIGEST.upper()}]"), 4, "not a SHA-256 digest"),
    "empty list": (document("fact: kernel.digest\n    in: []"), 7, "in"),
    "two lines of text": (document('fact: kernel.cmdline\n    equals: "a\\nb"'), 4, "one printable line"),
    "says with control characters": (document().replace("it holds", '"it \\e[2J holds"'), 5, "one printable line"),
    "description with control characters": (document(description='description: "\\e[2J"'), 8, "one printable line"),
    "label with control characters": (
        document(f'fact: kernel.digest\n    in: {{"\\e[2J": {DIGEST}}}'),
        7,
        "one printable",
    ),
    "surrogate": (document(description='description: "\\uD800"'), 8, ""),
}


@pytest.mark.parametrize(("text", "line", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_profile_must_not_say_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(MalformedError) as caught:
        load_profile(text, "profile.yaml")
    assert message in caught.value.message
    assert caught.value.message.startswith(f"profile.yaml, line {line}: ")
    assert caught.value.fields["line"] == line


def test_two_requirements_of_one_name_are_refused() -> None:
    requirement = "  - name: one\n    says: again\n    fact: bootapps\n    absent: true"
    with pytest.raises(MalformedError, match="two requirements are called 'one'"):
        load_profile(document() + "\n" + requirement, "p")


def test_a_huge_document_is_refused_before_it_is_read() -> None:
    with pytest.raises(MalformedError, match="at most 65536 are read"):
        load_profile(document() + "#" * (64 << 10), "p")
    with pytest.raises(MalformedError, match="more than 10000 values"):
        load_profile("a: [" + "1," * 11_000 + "]", "p")


def test_ima_facts_need_pcr_10_in_a_standing_profile_and_not_in_a_leased_one() -> None:
    requirement = f"fact: ima.files\n    in: [{DIGEST}]"
    with pytest.raises(MalformedError, match="which PCR 10 proves"):
        load_profile(document(requirement), "p")
    assert load_profile(document(requirement, pcrs="pcrs: [0, 2, 4, 7, 9, 10]"), "p")
    assert load_profile(document(requirement, lease="lease: 1h"), "p").lease_seconds == 3600


def test_every_predicate_fits_the_kinds_it_is_for() -> None:
    values = {
        "equals": "true",
        "in": f"[{DIGEST}]",
        "matches": "'*'",
        "contains": DIGEST,
        "absent": "true",
    }
    for name, info in FACTS.items():
        for predicate, kinds in PREDICATES.items():
            value = values[predicate]
            if predicate == "equals" and info.kind.name != "FLAG":
                value = f"[{DIGEST}]" if info.kind.name in ("DIGESTS", "TEXTS") else DIGEST
            text = document(
                f"fact: {name}\n    {predicate}: {value}", pcrs="pcrs: [0, 2, 4, 7, 8, 9, 10, 11, 12, 13, 14]"
            )
            if info.kind in kinds:
                assert load_profile(text, "p").requirements[0].predicate == predicate
            else:
                with pytest.raises(MalformedError, match=f"'{predicate}' does not apply"):
                    load_profile(text, "p")


def test_the_reference_describes_every_fact_and_predicate_and_its_example_loads() -> None:
    text = (ROOT / "docs/profiles.md").read_text()
    for name, info in FACTS.items():
        assert f"| `{name}`" in text, name
        assert info.says in text, name
    for predicate in PREDICATES:
        assert f"| `{predicate}`" in text, predicate
    example = text.split("```yaml\n")[1].split("```")[0]
    assert isinstance(load_profile(example, "docs/profiles.md"), Profile)


YAMLISH = st.text(st.sampled_from(string.ascii_lowercase[:4] + "0:-[]{}&*!|>'\"\\#%,?@ \n\t\x00\ud800~"), max_size=60)


@given(YAMLISH)
def test_any_text_gives_a_profile_or_a_malformed_error(text: str) -> None:
    for candidate in (text, document(trust=text), document(f"fact: {text}")):
        try:
            load_profile(candidate, "p")
        except MalformedError:
            continue
