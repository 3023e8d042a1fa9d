"""PCR selections of the SHA-256 bank, and digests over selected PCRs.

Specification: Part 2, section 10.6.2 (TPMS_PCR_SELECTION) and 10.9.7 (TPML_PCR_SELECTION); docs/spec/tpm-policy-v1.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from sealvm.errors import MalformedError
from sealvm.tcg.algorithms import ALG_SHA256
from sealvm.tcg.marshal import Reader

PCR_COUNT = 24
PCR_BYTES = 32
_BITMAP_BYTES = 3


class PcrSelection(frozenset[int]):
    """A set of PCR indices 0 to 23 of the SHA-256 bank; iterates in ascending order. MalformedError for others."""

    __slots__ = ()

    def __new__(cls, indices: Iterable[int] = ()) -> PcrSelection:
        selection = super().__new__(cls, indices)
        for index in frozenset.__iter__(selection):
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < PCR_COUNT:
                raise MalformedError(f"PCR selection: {index!r} is not a PCR index from 0 to {PCR_COUNT - 1}")
        return selection

    @classmethod
    def of(cls, *indices: int) -> PcrSelection:
        """The selection of these indices."""
        return cls(indices)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(super().__iter__()))

    def __repr__(self) -> str:
        return f"PcrSelection.of({', '.join(map(str, self))})"

    def bitmap(self) -> bytes:
        """pcrSelect: 3 bytes; PCR n is bit n mod 8 of byte n div 8."""
        return sum(1 << index for index in self).to_bytes(_BITMAP_BYTES, "little")

    def marshal(self) -> bytes:
        """TPML_PCR_SELECTION with the SHA-256 bank alone: 10 bytes."""
        return (1).to_bytes(4, "big") + ALG_SHA256.to_bytes(2, "big") + bytes([_BITMAP_BYTES]) + self.bitmap()

    @classmethod
    def parse(cls, reader: Reader) -> PcrSelection:
        """Read a TPML_PCR_SELECTION with exactly one bank, SHA-256, of 24 PCRs. MalformedError for any other."""
        count = reader.u32()
        if count != 1:
            raise MalformedError(f"{reader.what}: PCR selection has {count} banks, expected one")
        bank, size = reader.u16(), reader.u8()
        if bank != ALG_SHA256 or size != _BITMAP_BYTES:
            raise MalformedError(f"{reader.what}: PCR bank {bank:04x} of {size} bytes, expected 000b (SHA-256) of 3")
        bits = int.from_bytes(reader.bytes(size), "little")
        return cls(index for index in range(PCR_COUNT) if bits >> index & 1)


def pcr_digest(values: Mapping[int, bytes], selection: Iterable[int]) -> bytes:
    """SHA-256 of the selected PCR values in ascending order, as quotes and PolicyPCR have it; 32 bytes.

    MalformedError when a selected PCR has no value, or one that is not 32 bytes.
    """
    digest = hashlib.sha256()
    for index in PcrSelection(selection):
        value = values.get(index)
        if value is None:
            raise MalformedError(f"PCR {index} is selected but has no value", pcr=index)
        if len(value) != PCR_BYTES:
            raise MalformedError(f"PCR {index}: value of {len(value)} bytes, expected {PCR_BYTES}", pcr=index)
        digest.update(value)
    return digest.digest()
