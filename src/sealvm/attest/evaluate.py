"""Does the evidence meet a profile? Every requirement is answered, with the event that decides.

A missing fact is not met, an unknown one neither, not even for `absent`: nothing is met by silence.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from sealvm.attest.facts import FACTS, Evidence, Fact, FactKind, FactStatus, FactValue, named
from sealvm.attest.profile import Profile, Requirement

VALUES_SHOWN_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class RequirementResult:
    """One requirement's answer.

    `found` is the bare value, list elements separated by a comma and a space, at most 32 of them and then "and N more",
    and empty where there is none. `event_index` counts in the boot log, for IMA facts in IMA's log. `detail` is for
    people: the value, labelled digests shortened, and where it comes from, or why there is none.
    """

    name: str
    says: str
    met: bool
    fact: str
    expected: str
    found: str
    event_index: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The answers to all requirements of one profile, in its order."""

    profile: str
    results: tuple[RequirementResult, ...]

    @property
    def satisfied(self) -> bool:
        """Whether every requirement is met; there is at least one."""
        return bool(self.results) and all(result.met for result in self.results)


def evaluate(profile: Profile, evidence: Evidence) -> Evaluation:
    """Answer each requirement of `profile` from `evidence`, which must come from the state that is to be judged."""
    judged = frozenset(r.fact for r in profile.requirements if r.predicate in ("equals", "in"))
    results = tuple(_answer(requirement, evidence, judged) for requirement in profile.requirements)
    return Evaluation(profile.name, results)


def evaluate_sealed(profile: Profile, evidence: Evidence) -> Evaluation:
    """Answer the requirements that the profile's own PCRs prove: what can be said of a state when it is approved.

    All of them but those of a leased profile on what keeps moving (`ima.files`), which `evaluate` judges from a fresh
    quote at each renewal; no approval covers them.
    """
    sealed = [one for one in profile.requirements if FACTS[one.fact].pcr in profile.pcrs]
    return evaluate(profile.model_copy(update={"requirements": sealed}), evidence)


def _answer(requirement: Requirement, evidence: Evidence, judged: Collection[str]) -> RequirementResult:
    """`judged`: the facts of which another requirement says all that they may be."""
    fact = evidence[requirement.fact]
    if fact.status is not FactStatus.KNOWN or fact.value is None:
        met = requirement.predicate == "absent" and fact.status is FactStatus.ABSENT
        return _result(requirement, met, "", fact.event_index, fact.reason)
    if requirement.predicate == "absent":
        return _result(requirement, False, _bare(fact.value), fact.event_index, f"is there, {fact.source}")
    met, event = _holds(requirement, fact)
    detail = f"{_shown(requirement, fact)}, {fact.source}"
    earlier = evidence["bootapps"].events[:-1]
    if met and requirement.predicate == "contains" and FACTS[requirement.fact].grows and requirement.fact not in judged:
        met = False
        detail += (
            "; but whoever runs later on the host can add to this list, "
            f"and no requirement says with `in` or `equals` what {requirement.fact} may be"
        )
    if met and requirement.fact == "kernel.digest" and earlier and "bootapps" not in judged:
        met, event = False, earlier[0]
        detail += (
            f"; but {named(earlier)} measured what ran before it and can claim any successor, "
            "and no requirement says with `in` or `equals` what bootapps may be"
        )
    return _result(requirement, met, _bare(fact.value), event, detail)


def _result(requirement: Requirement, met: bool, found: str, event: int | None, detail: str) -> RequirementResult:
    return RequirementResult(
        requirement.name, requirement.says, met, requirement.fact, _expected(requirement), found, event, detail
    )


def _holds(requirement: Requirement, fact: Fact) -> tuple[bool, int | None]:
    """Whether a known fact fits, and the event that decides: for a list the first that does not."""
    values = requirement.values()
    last = fact.event_index
    if isinstance(fact.value, tuple):
        return _list_holds(requirement, fact.value, fact.events)
    if isinstance(fact.value, bool):
        return fact.value is values[0], last
    text = fact.value if fact.value is not None else ""
    match requirement.predicate:
        case "matches":
            return wildcard(str(values[0]), text), last
        case "contains":
            return has_option(text, str(values[0])), last
        case _:
            return text in values, last


def _list_holds(requirement: Requirement, found: tuple[str, ...], events: tuple[int, ...]) -> tuple[bool, int | None]:
    values = requirement.values()
    match requirement.predicate:
        case "in":
            stranger = next((i for i, digest in enumerate(found) if digest not in values), None)
            return stranger is None, events[stranger if stranger is not None else -1]
        case "contains":
            at = found.index(str(values[0])) if values[0] in found else None
            return at is not None, events[at if at is not None else -1]
        case _:
            pairs = zip(found, values, strict=False)
            at = next((i for i, (one, other) in enumerate(pairs) if one != other), len(values))
            return found == values, events[min(at, len(events) - 1)]


def wildcard(pattern: str, text: str) -> bool:
    """Whether all of `text` fits `pattern`, in which `*` stands for any run of characters and `?` for any one.

    Takes time in the product of the lengths at worst: no host can stall the authority with a chosen text.
    """
    at = position = 0
    star, mark = -1, 0  # the last `*` in the pattern, and how much of the text it leaves to what follows it
    while position < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, mark = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[position]):
            at += 1
            position += 1
        elif star >= 0:
            mark += 1
            at, position = star + 1, mark
        else:
            return False
    return all(character == "*" for character in pattern[at:])


def has_option(text: str, wanted: str) -> bool:
    """Whether the kernel's options have `wanted`, and no other value for the same name (`-` and `_` are one there)."""

    def key(option: str) -> str:
        return option.partition("=")[0].replace("-", "_").strip('"')

    same_name = {option for option in options(text) if key(option) == key(wanted)}
    return same_name == {wanted}


def options(text: str) -> tuple[str, ...]:
    """The kernel's options as it splits its command line itself (lib/cmdline.c, next_arg).

    Spaces within double quotes do not separate, and what follows a lone `--` is for init and not for the kernel.
    """
    words: list[str] = []
    word, quoted = "", False
    for character in f"{text} ":
        if character == " " and not quoted:
            if word == "--":
                break
            if word:
                words.append(word)
            word = ""
            continue
        quoted ^= character == '"'
        word += character
    if word and quoted:
        words.append(word.removesuffix(" "))
    return tuple(words)


def render_evaluation(evaluation: Evaluation) -> list[str]:
    """Lines for a person, one for each requirement: met or not, its name, the value and the event that decided."""
    width = max((len(result.name) for result in evaluation.results), default=0)
    lines: list[str] = []
    for result in evaluation.results:
        verdict = "met" if result.met else "not met"
        lines.append(f"{verdict:<7}  {result.name:<{width}}  {result.detail}")
        if not result.met:
            lines.append(f"{'':9}{'':<{width}}  expected: {result.expected}")
    return lines


def _expected(requirement: Requirement) -> str:
    if requirement.predicate == "absent":
        return "absent"
    values: Sequence[str | bool] = requirement.values()
    shown = ", ".join(_quoted(requirement, value) for value in values[:4])
    return f"{requirement.predicate} {shown}" + (f" and {len(values) - 4} more" if len(values) > 4 else "")


def _shown(requirement: Requirement, fact: Fact) -> str:
    if isinstance(fact.value, tuple):
        shown = ", ".join(_quoted(requirement, value) for value in fact.value[:VALUES_SHOWN_MAX])
        return shown + _and_more(len(fact.value))
    return "" if fact.value is None else _quoted(requirement, fact.value)


def _quoted(requirement: Requirement, value: str | bool) -> str:
    """A value for people: text in quotes, a digest by its label, or whole so that it can be put into a profile."""
    if isinstance(value, bool):
        return str(value).lower()
    label = requirement.label_of(value)
    if FACTS[requirement.fact].kind in (FactKind.DIGEST, FactKind.DIGESTS):
        return f"{label} ({value[:12]}…)" if label else value
    return f'{label} "{value}"' if label else f'"{value}"'


def _and_more(count: int) -> str:
    return f" and {count - VALUES_SHOWN_MAX} more" if count > VALUES_SHOWN_MAX else ""


def _bare(value: FactValue) -> str:
    if isinstance(value, tuple):
        return ", ".join(value[:VALUES_SHOWN_MAX]) + _and_more(len(value))
    return str(value).lower() if isinstance(value, bool) else value
