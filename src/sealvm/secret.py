"""Key material in memory: a value that does not show itself.

Imports nothing of sealvm. Holds bytes; never writes, logs or pickles them.
"""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Bytes whose repr, str and pickle never reveal them; `reveal()` is the one, greppable way to the value.

    Python cannot promise to wipe memory, so this guards against accidents (logs, tracebacks, serialisation), not
    against a reader of the process's memory. Comparison takes constant time for equal lengths.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves. The caller must not log, print or store them in the clear."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"Secret({len(self._value)} bytes)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never serialised")
