"""Reading and writing the TPM's big-endian structures.

Specification: TPM 2.0 Library Part 2, section 4 (notation) and 10.4 (TPM2B_: u16 size, then the bytes).
"""

from __future__ import annotations

from typing import TypeAlias

from sealvm.errors import MalformedError

U16_MAX = 0xFFFF
Bytes: TypeAlias = bytes  # inside Reader the name `bytes` is a method


def b2(data: bytes) -> bytes:
    """`data` as a TPM2B: u16 length, then the bytes. ValueError over 65,535 bytes, a caller's mistake."""
    if len(data) > U16_MAX:
        raise ValueError(f"a TPM2B holds at most {U16_MAX} bytes, got {len(data)}")
    return len(data).to_bytes(2, "big") + data


class Reader:
    """A cursor over outside bytes that never reads past the end, and raises nothing but MalformedError."""

    __slots__ = ("_data", "_offset", "what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = bytes(data)
        self._offset = 0
        self.what = what

    def u8(self) -> int:
        """One byte."""
        return self.bytes(1)[0]

    def u16(self) -> int:
        """Two bytes, big-endian."""
        return int.from_bytes(self.bytes(2), "big")

    def u32(self) -> int:
        """Four bytes, big-endian."""
        return int.from_bytes(self.bytes(4), "big")

    def u64(self) -> int:
        """Eight bytes, big-endian."""
        return int.from_bytes(self.bytes(8), "big")

    def bytes(self, n: int) -> Bytes:
        """Exactly `n` bytes. MalformedError if fewer are left."""
        left = len(self._data) - self._offset
        if not 0 <= n <= left:
            raise MalformedError(
                f"{self.what}: ends early: {n} bytes expected at offset {self._offset}, {left} are left",
                offset=self._offset,
            )
        start, self._offset = self._offset, self._offset + n
        return self._data[start : self._offset]

    def sized16(self) -> Bytes:
        """The bytes of a TPM2B: u16 length, then as many. MalformedError if they are not there."""
        return self.bytes(self.u16())

    @property
    def offset(self) -> int:
        """How many bytes were read."""
        return self._offset

    def end(self) -> None:
        """MalformedError unless everything was read."""
        left = len(self._data) - self._offset
        if left:
            raise MalformedError(f"{self.what}: {left} bytes too many after offset {self._offset}")
