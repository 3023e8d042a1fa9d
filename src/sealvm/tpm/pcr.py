"""Reading and extending PCRs of the SHA-256 bank."""

from __future__ import annotations

from collections.abc import Iterable

from sealvm.errors import TpmFault
from sealvm.tcg.pcr import PCR_BYTES, PcrSelection
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import ESYS_TR, pcr_selection, sha256_values

READ_TRIES = 8
_PCRS_AT_ONCE = 8  # a TPML_DIGEST holds eight


def read(tpm: Tpm, selection: Iterable[int]) -> dict[int, bytes]:
    """The values (32 bytes each) of the selected PCRs, all of one moment: none was extended in between.

    Raises TpmFault when a PCR has no SHA-256 value, or when PCRs keep changing for READ_TRIES readings.
    """
    wanted = list(PcrSelection(selection))
    parts = [wanted[start : start + _PCRS_AT_ONCE] for start in range(0, len(wanted), _PCRS_AT_ONCE)]
    for _attempt in range(READ_TRIES):
        values: dict[int, bytes] = {}
        counters: set[int] = set()
        for part in parts:
            counter, _selected, digests = tpm.run("pcr_read", "reading PCRs", pcr_selection_in=pcr_selection(part))
            found = [bytes(digest) for digest in digests]
            if len(found) != len(part) or any(len(value) != PCR_BYTES for value in found):
                raise TpmFault(
                    f"reading PCRs: the TPM gave {len(found)} SHA-256 values, expected {len(part)}",
                    hint="activate the TPM's SHA-256 PCR bank in the firmware settings",
                )
            counters.add(int(counter))
            values.update(zip(part, found, strict=True))
        if len(counters) <= 1:
            return values
    raise TpmFault(f"reading PCRs: they changed during each of {READ_TRIES} readings")


def extend(tpm: Tpm, index: int, digest: bytes) -> None:
    """TPM2_PCR_Extend of one PCR with a SHA-256 digest (32 bytes)."""
    tpm.run(
        "pcr_extend",
        f"extending PCR {index}",
        pcr_handle=ESYS_TR(index),
        digests=sha256_values(digest),
        session1=ESYS_TR.PASSWORD,
    )
