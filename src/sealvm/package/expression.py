"""Which profiles open a package: a tree of anyOf and allOf over profile names (docs/spec/package-v1.md, section 7).

    {"profile": NAME} | {"anyOf": [node, ...]} | {"allOf": [node, ...]}

Signed as part of the header; the recipients must have the same shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sealvm.errors import InputError, MalformedError

MAX_LEAVES = 64
MAX_DEPTH = 4
_PROFILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ProfileLeaf:
    """Satisfied by a host whose state satisfies this profile."""

    profile: str


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Satisfied when one child is."""

    children: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Satisfied when every child is."""

    children: tuple[Expression, ...]


Expression = ProfileLeaf | AnyOf | AllOf
_GROUPS: dict[str, type[AnyOf | AllOf]] = {"anyOf": AnyOf, "allOf": AllOf}


def any_of(profiles: list[str]) -> Expression:
    """The expression that any one of these profiles satisfies. Raises InputError for none, doubles or bad names."""
    if not profiles:
        raise InputError("a package needs at least one profile", hint="name one with --profile")
    leaves = [{"profile": name} for name in profiles]
    try:
        return parse_expression(leaves[0] if len(leaves) == 1 else {"anyOf": leaves})
    except MalformedError as problem:
        raise InputError(problem.message) from problem


def parse_expression(obj: Any) -> Expression:
    """The expression that this JSON value states.

    Raises MalformedError for another shape, a bad name, a group of fewer than two or with equal children, more than 64
    leaves, or nesting deeper than 4.
    """
    expression = _parse(obj, 1)
    count = sum(1 for _ in leaves_of(expression))
    if count > MAX_LEAVES:
        raise MalformedError(f"profile expression: {count} leaves, at most {MAX_LEAVES} are allowed")
    return expression


def _parse(obj: Any, depth: int) -> Expression:
    if depth > MAX_DEPTH:
        raise MalformedError(f"profile expression: nested deeper than {MAX_DEPTH}")
    if not isinstance(obj, dict) or len(obj) != 1:
        raise MalformedError("profile expression: expected an object with one of profile, anyOf, allOf")
    kind, value = next(iter(obj.items()))
    if kind == "profile":
        if not isinstance(value, str) or not _PROFILE.fullmatch(value):
            raise MalformedError(f"profile expression: {str(value)[:80]!r} is no profile name")
        return ProfileLeaf(value)
    if kind not in _GROUPS or not isinstance(value, list):
        raise MalformedError(f"profile expression: unknown node {kind[:40]!r}")
    if not 2 <= len(value) <= MAX_LEAVES:
        raise MalformedError(f"profile expression: {kind} of {len(value)}, expected 2 to {MAX_LEAVES}")
    children = tuple(_parse(child, depth + 1) for child in value)
    if len(set(children)) != len(children):
        raise MalformedError(f"profile expression: {kind} names the same thing twice")
    return _GROUPS[kind](children)


def expression_json(expression: Expression) -> dict[str, Any]:
    """The JSON value that `parse_expression` reads back."""
    match expression:
        case ProfileLeaf(profile):
            return {"profile": profile}
        case AnyOf(children):
            return {"anyOf": [expression_json(child) for child in children]}
        case AllOf(children):
            return {"allOf": [expression_json(child) for child in children]}


def leaves_of(expression: Expression) -> Iterator[str]:
    """The profile names in the expression, in order, with repetitions."""
    if isinstance(expression, ProfileLeaf):
        yield expression.profile
    else:
        for child in expression.children:
            yield from leaves_of(child)


def describe(expression: Expression) -> str:
    """The expression for people: `a`, `a or b`, `(a or b) and c`."""
    if isinstance(expression, ProfileLeaf):
        return expression.profile
    word = " or " if isinstance(expression, AnyOf) else " and "
    parts = [describe(c) if isinstance(c, ProfileLeaf) else f"({describe(c)})" for c in expression.children]
    return word.join(parts)
