"""Commands as bytes: for those that ESAPI does not offer, or does not pass on as they are.

ESAPI has no TPM2_ZGen_2Phase, makes a session's salt itself, and calls a second TPM2_Startup a success. Who attacks a
TPM is not bound to it. Command and response: TPM 2.0 Library, Part 1, section 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tpm2_pytss import TSS2_Exception

from sealvm.errors import TpmFault
from sealvm.tcg.marshal import Reader, b2
from sealvm.tpm.connection import Tpm
from sealvm.tpm.responses import fault_of
from sealvm.tpm.structures import ESYS_TR, TPM2_ST

RESPONSE_LIMIT_BYTES = 4096
PASSWORD_SESSION = 0x40000009
_CONTINUE_SESSION = 0x01
_AUDIT = 0x80


def run_raw(
    tpm: Tpm,
    command: str,
    code: int,
    *,
    handles: Sequence[int] = (),
    session: int | None = None,
    hmac: bytes = b"",
    audit: bool = False,
    parameters: bytes = b"",
) -> bytes:
    """Send one command with at most one session; the response without its header of 10 bytes.

    `handles` and `session` are TPM handles (`handle_of`); `command` is its name for the fault. Raises the faults that
    `Tpm.run` does. ESAPI does not learn of it: a session that was used this way is out of step with its nonces there.
    """
    tpm.counts[command] += 1
    area = b""
    if session is not None:
        attributes = _CONTINUE_SESSION | (_AUDIT if audit else 0)
        area = session.to_bytes(4, "big") + b2(b"") + bytes([attributes]) + b2(hmac)
        area = len(area).to_bytes(4, "big") + area
    tag = TPM2_ST.NO_SESSIONS if session is None else TPM2_ST.SESSIONS
    body = b"".join(handle.to_bytes(4, "big") for handle in handles) + area + parameters
    head = int(tag).to_bytes(2, "big") + (10 + len(body)).to_bytes(4, "big") + code.to_bytes(4, "big")
    try:
        tcti = tpm.transport
        tcti.transmit(head + body)
        answer = bytes(tcti.receive())
    except TSS2_Exception as failure:
        raise fault_of(failure, command, command) from failure
    reader = Reader(answer, f"response to {command}")
    reader.u16()
    if reader.u32() != len(answer) or len(answer) > RESPONSE_LIMIT_BYTES:
        raise TpmFault(f"{command}: the TPM's response of {len(answer)} bytes is not what its header says")
    rc = reader.u32()
    if rc:
        answered = TSS2_Exception(rc)
        raise fault_of(answered, command, command) from answered
    return answer[10:]


def handle_of(tpm: Tpm, handle: Any) -> int:
    """The TPM's own handle of an object or session that this connection knows."""
    return PASSWORD_SESSION if handle == ESYS_TR.PASSWORD else tpm.tpm_handle(handle)
