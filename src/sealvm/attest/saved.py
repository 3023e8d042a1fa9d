"""Evidence saved to a file: a host's PCR values with its logs, so that its state can be looked at elsewhere.

    {"pcr_values": {"0": "<64 hex>", …}, "event_log": "<base64>", "preimages": ["<base64>", …], "ima_log": "<base64>"}

`preimages` and `ima_log` may be left out. Other keys are ignored, so that the state which a host sends to its
authority, with the quote beside it, is such a file too. It proves nothing: nobody signed it, or nobody checked who did.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from sealvm.attest.state import MeasuredState, local_state
from sealvm.crypto import canonical
from sealvm.errors import MalformedError

SAVED_BYTES_MAX: Final = 32 << 20
_PCR: Final = re.compile(r"(?:[0-9]|1[0-9]|2[0-3])")
_VALUE: Final = re.compile(r"[0-9a-f]{64}")


def load_saved_state(data: bytes, source: str) -> MeasuredState:
    """The state in a saved evidence file, as its host reports it. Raises MalformedError, naming `source`, for a file of
    another form, and EvidenceRefused for a boot log without SHA-256.
    """
    document = canonical.loads(data, source, SAVED_BYTES_MAX)
    if not isinstance(document, dict):
        raise _malformed(source, "expected an object")
    values = document.get("pcr_values")
    if not isinstance(values, dict) or not values:
        raise _malformed(source, "pcr_values must map PCRs to values")
    for pcr, value in values.items():
        if not _PCR.fullmatch(pcr) or not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise _malformed(source, "pcr_values must map 0 to 23 to 64 lower-case hex digits")
    preimages = document.get("preimages", [])
    if not isinstance(preimages, list):
        raise _malformed(source, "preimages must be a list")
    return local_state(
        {int(pcr): bytes.fromhex(value) for pcr, value in values.items()},
        _decoded(document.get("event_log"), source, "event_log"),
        [_decoded(preimage, source, "preimages") for preimage in preimages],
        _decoded(document.get("ima_log") or "", source, "ima_log"),
    )


def _decoded(value: object, source: str, name: str) -> bytes:
    if not isinstance(value, str):
        raise _malformed(source, f"{name} must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{source}: {name} is not base64") from error


def _malformed(source: str, problem: str) -> MalformedError:
    return MalformedError(
        f"{source}: {problem}", hint="a saved evidence file has pcr_values, event_log and, if need be, preimages"
    )
