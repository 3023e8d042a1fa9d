"""From an RFC 9457 problem back to the error it was made from, by sealvm's code."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import TypeAdapter

from sealvm.crypto import canonical
from sealvm.errors import AuthorityAwayFault, Fault, MalformedError, SealvmError
from sealvm.protocol.operator import Problem
from sealvm.statements.encoding import parse_message

PROBLEM_BYTES_LIMIT = 1024 * 1024
_ADAPTER: TypeAdapter[Problem] = TypeAdapter(Problem)


def error_of(status: int, body: bytes, where: str) -> SealvmError:
    """The error behind an answer with an error status.

    Same class, message, hint and fields as at the authority; a fault of the authority stays a fault, and says whose it
    is. What is no problem of sealvm's becomes AuthorityAwayFault: something else answered.
    """
    try:
        problem = parse_message(_ADAPTER, canonical.loads(body, "problem", PROBLEM_BYTES_LIMIT), "problem")
    except MalformedError:
        return AuthorityAwayFault(
            f"{where} answered with status {status} and no explanation", hint="is this address the authority's?"
        )
    kind = _CLASSES.get(problem.code)
    if kind is None:
        return AuthorityAwayFault(f"{where} answered with an unknown error {problem.code!r}: {problem.detail}")
    message = f"authority: {problem.detail}" if issubclass(kind, Fault) else problem.detail
    fields = {name: value for name, value in problem.fields.items() if name not in ("message", "hint", "self")}
    return kind(message, hint=problem.hint, **fields)


def _classes(kind: type[SealvmError]) -> Iterator[type[SealvmError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _classes(child)


_CLASSES = {kind.code: kind for kind in _classes(SealvmError)}
