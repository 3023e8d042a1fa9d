"""Security profiles: the YAML document an operator writes, checked before anything relies on it.

docs/profiles.md is the reference for people.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sealvm.attest.facts import FACTS, FactKind
from sealvm.attest.profile_yaml import Path, malformed, read_document
from sealvm.attest.state import PCRS_REQUIRED, PCRS_RESETTABLE
from sealvm.tcg.imalog import IMA_PCR

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
REQUIREMENTS_MAX: Final = 64
VALUES_MAX: Final = 256
LEASE_SECONDS_MIN: Final = 2
LEASE_SECONDS_MAX: Final = 31 * 86400

Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN)]
Label: TypeAlias = Annotated[str, Field(min_length=1, max_length=80)]
Line: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
Scalar: TypeAlias = Annotated[str, Field(max_length=4096)] | bool
Values: TypeAlias = Annotated[list[Scalar], Field(min_length=1, max_length=VALUES_MAX)]
Labelled: TypeAlias = Annotated[dict[Label, Scalar], Field(min_length=1, max_length=VALUES_MAX)]
TrustClass: TypeAlias = Literal["hardware", "virtual", "lab"]
Predicate: TypeAlias = Literal["equals", "in", "matches", "contains", "absent"]
OnLeaseEnd: TypeAlias = Literal["keep", "pause", "stop"]

PREDICATES: Final[dict[Predicate, frozenset[FactKind]]] = {
    "equals": frozenset(FactKind),
    "in": frozenset({FactKind.TEXT, FactKind.DIGEST, FactKind.DIGESTS, FactKind.TEXTS}),
    "matches": frozenset({FactKind.TEXT}),
    "contains": frozenset({FactKind.TEXT, FactKind.DIGESTS, FactKind.TEXTS}),
    "absent": frozenset(FactKind),
}

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TERM: Final = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Requirement(BaseModel):
    """One named predicate over one fact. Exactly one of the five predicates is given."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Name
    says: Line
    fact: str
    equals: Scalar | Values | None = None
    in_: Values | Labelled | None = Field(default=None, alias="in")
    matches: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    contains: Scalar | None = None
    absent: Literal[True] | None = None

    @field_validator("says")
    @classmethod
    def _one_line(cls, value: str) -> str:
        return _printable(value)

    @field_validator("in_")
    @classmethod
    def _labels_are_lines(cls, value: list[Scalar] | dict[str, Scalar] | None) -> object:
        for label in value if isinstance(value, dict) else ():
            _printable(label)
        return value

    @field_validator("fact")
    @classmethod
    def _fact_exists(cls, value: str) -> str:
        if value not in FACTS:
            raise ValueError(f"there is no fact '{value[:64]}'; there are {', '.join(FACTS)}")
        return value

    @model_validator(mode="after")
    def _one_predicate_that_fits(self) -> Self:
        given = [name for name in PREDICATES if self._given(name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(PREDICATES)}; has {', '.join(given) or 'none'}")
        kind = FACTS[self.fact].kind
        if kind not in PREDICATES[given[0]]:
            raise ValueError(f"'{given[0]}' does not apply to {self.fact}, which is {kind.value}")
        if given[0] != "absent":
            self._check_values(given[0], kind)
        return self

    def _check_values(self, predicate: Predicate, kind: FactKind) -> None:
        if predicate == "equals" and (kind in (FactKind.DIGESTS, FactKind.TEXTS)) != isinstance(self.equals, list):
            raise ValueError(f"'equals' needs {kind.value} for {self.fact}")
        for value in self.values():
            if kind is FactKind.FLAG and not isinstance(value, bool):
                raise ValueError(f"{self.fact} is true or false, not '{value}'")
            if kind is not FactKind.FLAG and not isinstance(value, str):
                raise ValueError(f"{self.fact} is {kind.value}, not {value}; put the value in quotes")
            if kind in (FactKind.DIGEST, FactKind.DIGESTS) and not _DIGEST.fullmatch(str(value)):
                raise ValueError(f"'{str(value)[:70]}' is not a SHA-256 digest (64 lower-case hex digits)")
            if kind in (FactKind.TEXT, FactKind.TEXTS) and not str(value).isprintable():
                raise ValueError("a text to compare with must be one printable line")

    def _given(self, predicate: Predicate) -> object:
        return self.in_ if predicate == "in" else getattr(self, predicate)

    @property
    def predicate(self) -> Predicate:
        """Which of the five it is."""
        return next(name for name in PREDICATES if self._given(name) is not None)

    def values(self) -> tuple[str | bool, ...]:
        """The value or values it compares with, without labels; empty for `absent`."""
        given = self._given(self.predicate)
        if isinstance(given, dict):
            return tuple(given.values())
        if isinstance(given, list):
            return tuple(given)
        return (given,) if isinstance(given, str | bool) and self.predicate != "absent" else ()

    def label_of(self, value: str) -> str:
        """The label that a labelled `in` gives `value`, or the empty text."""
        if not isinstance(self.in_, dict):
            return ""
        return next((label for label, labelled in self.in_.items() if labelled == value), "")


class Profile(BaseModel):
    """A security profile: which PCRs seal its key, whose TPMs may hold it, and what an approved state must satisfy.

    With `lease` the key is *leased*: usable for that term after the authority renewed it, and never by a standing
    approval.
    `on_lease_end` says what then becomes of VMs that run.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Name
    description: Annotated[str, Field(max_length=2000)] = ""
    pcrs: Annotated[list[int], Field(min_length=1, max_length=24)]
    trust: Annotated[list[TrustClass], Field(min_length=1, max_length=3)] = ["hardware"]
    lease: str | None = None
    on_lease_end: OnLeaseEnd = "keep"
    requirements: Annotated[list[Requirement], Field(min_length=1, max_length=REQUIREMENTS_MAX)]

    @field_validator("description")
    @classmethod
    def _lines(cls, value: str) -> str:
        for line in value.split("\n"):
            _printable(line)
        return value

    @field_validator("pcrs")
    @classmethod
    def _sound_selection(cls, value: list[int]) -> list[int]:
        chosen = set(value)
        if len(chosen) != len(value):
            raise ValueError("a PCR is there twice")
        if outside := sorted(pcr for pcr in chosen if not 0 <= pcr <= 23):
            raise ValueError(f"there is no PCR {outside[0]}")
        if resettable := sorted(chosen & PCRS_RESETTABLE):
            raise ValueError(f"PCR {resettable[0]} can be reset by anybody on the host; none of 16 to 23 may be used")
        if missing := sorted(PCRS_REQUIRED - chosen):
            raise ValueError(f"PCR {', '.join(map(str, missing))} is missing; every profile needs 0, 2, 4 and 7")
        return sorted(value)

    @field_validator("trust")
    @classmethod
    def _no_class_twice(cls, value: list[TrustClass]) -> list[TrustClass]:
        if len(set(value)) != len(value):
            raise ValueError("a trust class is there twice")
        return value

    @field_validator("lease")
    @classmethod
    def _sound_term(cls, value: str | None) -> str | None:
        if value is not None and not LEASE_SECONDS_MIN <= _term_seconds(value) <= LEASE_SECONDS_MAX:
            raise ValueError(f"a lease lasts from {LEASE_SECONDS_MIN}s to {LEASE_SECONDS_MAX // 86400}d, not '{value}'")
        return value

    @property
    def lease_seconds(self) -> int | None:
        """The term of a lease in seconds; None for a profile whose approvals are standing."""
        return None if self.lease is None else _term_seconds(self.lease)

    @model_validator(mode="after")
    def _end_of_a_lease(self) -> Self:
        if self.lease is None and "on_lease_end" in self.model_fields_set:
            raise ValueError("'on_lease_end' is given without 'lease'")
        return self

    @model_validator(mode="after")
    def _requirements_fit(self) -> Self:
        names = [requirement.name for requirement in self.requirements]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two requirements are called '{doubled}'")
        for requirement in self.requirements:
            pcr = FACTS[requirement.fact].pcr
            if pcr == IMA_PCR and self.lease is not None:
                continue  # judged anew from a fresh quote at every renewal; sealing to PCR 10 would lock the host out
            if pcr not in self.pcrs:
                raise ValueError(
                    f"requirement '{requirement.name}' asks about {requirement.fact}, which PCR {pcr} proves; "
                    f"it is not among pcrs, so that a host could change it after the approval"
                )
        return self


def load_profile(text: str, source: str) -> Profile:
    """The profile that `text`, a YAML document, describes; sound in form, whatever it asks for.

    `source` is what the document is called in errors, usually its file name. Raises MalformedError with the line of
    what is wrong: also for unknown keys, facts that do not exist, predicates that do not fit their fact, selections
    without PCR 0, 2, 4 and 7 or with any of 16 to 23, and requirements on PCRs outside the selection.
    """
    document = read_document(text, source)
    if not isinstance(document.value, dict):
        raise malformed(source, document.line_of(()), "a profile is a mapping: name, pcrs, requirements, …")
    try:
        return Profile.model_validate(document.value)
    except ValidationError as error:
        first = error.errors()[0]
        path: Path = tuple(part for part in first["loc"])
        problem = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "missing":
            problem = f"'{path[-1]}' is missing"
        elif first["type"] == "extra_forbidden":
            problem = "there is no such key"
        place = ".".join(str(path[end - 1]) for end in range(1, len(path) + 1) if path[:end] in document.lines)
        raise malformed(source, document.line_of(path), f"{place}: {problem}" if place else problem) from error


def _term_seconds(value: str) -> int:
    found = _TERM.fullmatch(value)
    if found is None:
        raise ValueError(f"'{value[:32]}' is not a term like 90s, 15m, 1h or 7d")
    return int(found[1]) * _UNIT_SECONDS[found[2]]


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one printable line")
    return value
