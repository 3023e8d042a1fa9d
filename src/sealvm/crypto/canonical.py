"""Canonical JSON for everything that is signed, and a strict reader for JSON from outside.

Canonical form: keys sorted by code point, no white space, UTF-8, non-ASCII characters unescaped, no NaN or infinity.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from sealvm.errors import MalformedError

MAX_NESTING = 32


def dumps(obj: Any) -> bytes:
    """The canonical bytes of `obj`: equal objects give equal bytes.

    ValueError or TypeError for what JSON cannot hold (NaN, bytes, lone surrogates): a caller's mistake.
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def loads(data: bytes, what: str, limit: int) -> Any:
    """Parse JSON of at most `limit` bytes in which nothing is ambiguous.

    Accepts any white space and key order. MalformedError, naming `what`, when the data is longer than `limit`, is not
    UTF-8 or not JSON, repeats a key, holds NaN, an infinity or a lone surrogate, or nests deeper than 32. The caller
    must still check the types of what it gets.
    """
    if len(data) > limit:
        raise MalformedError(f"{what}: {len(data)} bytes, at most {limit} are allowed")
    try:
        text = bytes(data).decode("utf-8")
        obj = json.loads(
            text, object_pairs_hook=_object_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite
        )
    except _AmbiguousError as error:
        raise MalformedError(f"{what}: {error}") from None
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedError(f"{what}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise MalformedError(f"{what}: nested deeper than {MAX_NESTING}") from None
    except ValueError:  # the interpreter's limit on the digits of an integer
        raise MalformedError(f"{what}: a number is too long") from None
    _check_tree(obj, what)
    return obj


class _AmbiguousError(Exception):
    """Raised by the hooks; a plain ValueError would be mistaken for one of the parser's."""


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _AmbiguousError(f"key {key[:64]!r} appears twice in one object")
            seen.add(key)
    return obj


def _refuse_constant(name: str) -> NoReturn:
    raise _AmbiguousError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _AmbiguousError("a number is out of range")
    return number


def _check_tree(obj: Any, what: str) -> None:
    """Depth and surrogates, without recursion: the data comes from outside."""
    pending: list[tuple[Any, int]] = [(obj, 1)]
    while pending:
        node, depth = pending.pop()
        if isinstance(node, (dict, list)):
            if depth > MAX_NESTING:
                raise MalformedError(f"{what}: nested deeper than {MAX_NESTING}")
            children = [*node.keys(), *node.values()] if isinstance(node, dict) else node
            pending.extend((child, depth + 1) for child in children)
        elif isinstance(node, str) and not node.isascii():
            try:
                node.encode("utf-8")
            except UnicodeEncodeError:
                raise MalformedError(f"{what}: a string holds a lone surrogate") from None
