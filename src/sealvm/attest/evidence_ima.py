"""The fact about files that Linux measured, from PCR 10 and IMA's log.

Each entry's digest covers the path and the file's digest, and root on the host can only add entries, never take one
away. So all files measured are known, and that each is a known one (`in`) is worth as much as the kernel, which must be
asked about as well: it must be one that measures (`ima_policy=` among its options). That a file is in the log proves
little: root can extend PCR 10 with its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sealvm.attest.facts import Fact, absent, known, unknown
from sealvm.tcg.imalog import BOOT_AGGREGATE, IMA_PCR, ImaEntry

_NAME: Final = "ima.files"
_AGGREGATED: Final = range(10)


def ima_files(entries: Sequence[ImaEntry], values: Mapping[int, bytes], explained: Collection[int]) -> Fact:
    """`ima.files`: the SHA-256 of every file measured, in order, the boot aggregate left out.

    Unknown when a file changed while it was measured, when an entry has no SHA-256 of a file, and when the boot
    aggregate is missing or is not that of PCR 0 to 9, where all of these were quoted.
    """
    own = [entry for entry in entries if entry.pcr == IMA_PCR]
    if not own:
        return absent(_NAME, "Linux measured no file")
    if (problem := _aggregate_problem(own[0], values, explained)) is not None:
        return unknown(_NAME, problem, own[0].index)
    digests: list[str] = []
    for entry in own[1:]:
        if entry.violation:
            return unknown(_NAME, f"IMA entry {entry.index}: a file changed while it was measured", entry.index)
        if entry.file_digest is None or entry.file_algorithm != "sha256":
            reason = f"IMA entry {entry.index} (template {entry.template}) has no SHA-256 of a file"
            return unknown(_NAME, reason, entry.index)
        digests.append(entry.file_digest.hex())
    if not digests:
        return absent(_NAME, "Linux measured no file")
    indices = tuple(entry.index for entry in own[1:])
    return known(_NAME, tuple(digests), indices, f"IMA entries {indices[0]} to {indices[-1]}")


def _aggregate_problem(entry: ImaEntry, values: Mapping[int, bytes], explained: Collection[int]) -> str | None:
    if entry.violation or entry.path != BOOT_AGGREGATE:
        return f"IMA entry {entry.index} is not the boot aggregate, with which the kernel begins"
    if entry.file_algorithm == "sha256" and all(pcr in explained for pcr in _AGGREGATED):
        aggregate = hashlib.sha256(b"".join(values[pcr] for pcr in _AGGREGATED)).digest()
        if entry.file_digest != aggregate:
            return f"the boot aggregate of IMA entry {entry.index} is not that of PCR 0 to 9: of another boot"
    return None
