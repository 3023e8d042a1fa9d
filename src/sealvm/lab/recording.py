"""The recorded boots that the lab replays into its TPMs; how they were made is in `recordings/README.md`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from sealvm.errors import NotFoundError

RECORDINGS: Final = ("good", "tampered")


@dataclass(frozen=True, slots=True)
class Recording:
    """One boot: the event log's bytes, the preimages beside it, and all 24 SHA-256 PCRs that the TPM then held.

    PCR 10 holds IMA's boot aggregate, which is no event of the log; the other values follow from it.
    """

    name: str
    eventlog: bytes
    preimages: tuple[bytes, ...]
    pcr_values: Mapping[int, bytes]


def load_recording(name: str) -> Recording:
    """The recording called `name`, one of RECORDINGS; raises NotFoundError for any other."""
    if name not in RECORDINGS:
        raise NotFoundError(f"no recorded boot '{name}'", hint=f"there are: {', '.join(RECORDINGS)}")
    folder = resources.files("sealvm.lab") / "recordings" / name
    preimages = json.loads((folder / "preimages.json").read_text())
    pcrs = json.loads((folder / "pcrs.json").read_text())
    return Recording(
        name=name,
        eventlog=(folder / "eventlog.bin").read_bytes(),
        preimages=tuple(base64.b64decode(preimage, validate=True) for preimage in preimages),
        pcr_values={int(pcr): bytes.fromhex(value) for pcr, value in pcrs.items()},
    )
