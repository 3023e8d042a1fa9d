"""What a TPM's answer means: the one place that decodes response codes.

A *policy refusal* is an answer by which the TPM says that the state, the approval or the way of asking is not the one
that the key's policy wants. It means StateRefused where a profile key is being used, and a fault anywhere else
(DESIGN section 2: an internal fault is never reported as a refusal, nor the other way round).
"""

from __future__ import annotations

from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import TPM2_RC

from sealvm.errors import SealvmError, TpmAwayFault, TpmFault

AWAY_HINT = "check the TPM's address in the host's configuration, and that the device or swtpm is there"
_LAYER_MASK = 0x00FF0000
_LAYER_TCTI = 0x000A0000
_RESOURCE_MANAGER_LAYERS = (0x000B0000, 0x000C0000)

# Authorizing any command: the session's policy is not the object's, or no longer holds.
_REFUSALS_ON_USE = frozenset(
    int(code)
    for code in (
        TPM2_RC.POLICY_FAIL,
        TPM2_RC.POLICY_CC,
        TPM2_RC.POLICY,
        TPM2_RC.PCR_CHANGED,
        TPM2_RC.EXPIRED,
        TPM2_RC.AUTH_TYPE,
        TPM2_RC.AUTH_UNAVAILABLE,
    )
)
# Policy assertions only: PCRs, the digest so far, or the ticket are not what was approved. Elsewhere a bad argument.
_REFUSALS_ON_ASSERTION = frozenset({int(TPM2_RC.VALUE), int(TPM2_RC.TICKET)})
PCR_CHANGED = int(TPM2_RC.PCR_CHANGED)
VALUE = int(TPM2_RC.VALUE)
SIGNATURE = int(TPM2_RC.SIGNATURE)
EXPIRED = int(TPM2_RC.EXPIRED)
_HINTS = {
    int(TPM2_RC.LOCKOUT): "the TPM is in dictionary-attack lockout: wait, or clear it with tpm2_dictionarylockout",
    int(TPM2_RC.INTEGRITY): "the blob belongs to another TPM, or this TPM was cleared: enroll the host again",
    int(TPM2_RC.OBJECT_MEMORY): "transient slots are full: use a resource manager (/dev/tpmrm0), or restart the TPM",
    int(TPM2_RC.SESSION_MEMORY): "session slots are full: use a resource manager (/dev/tpmrm0), or restart the TPM",
    int(TPM2_RC.BAD_AUTH): "a hierarchy of this TPM has a password; sealvm needs owner and endorsement without one",
    int(TPM2_RC.AUTH_FAIL): "a hierarchy of this TPM has a password; sealvm needs owner and endorsement without one",
}


def base_code(failure: TSS2_Exception) -> int:
    """The response code without the number of handle, parameter or session, and without the layer."""
    return int(failure.error) & 0xFFFF


def code_name(failure: TSS2_Exception) -> str:
    """The TCG's name: `TPM_RC_POLICY_FAIL`, or the hexadecimal code if it has none."""
    try:
        return "TPM_RC_" + str(TPM2_RC.to_string(base_code(failure))).partition(".")[2]
    except ValueError:
        return f"0x{int(failure.rc):08x}"


def describe(failure: TSS2_Exception) -> str:
    """Name and place: `TPM_RC_VALUE (parameter 1)`."""
    for place in ("parameter", "session", "handle"):
        number = int(getattr(failure, place))
        if number:
            return f"{code_name(failure)} ({place} {number})"
    return code_name(failure)


def refuses_policy(command: str, code: int) -> bool:
    """Whether this base code, as the answer to this ESAPI command, is a policy refusal."""
    return code in _REFUSALS_ON_USE or (command.startswith("policy_") and code in _REFUSALS_ON_ASSERTION)


def fault_of(failure: TSS2_Exception, command: str, doing: str) -> SealvmError:
    """The fault that a failed `command` is, `doing` saying what it was for.

    TpmAwayFault, or TpmFault with the fields `rc` (as answered), `code` (base code), `decoded`, `command`, and
    `policy`: whether the answer is a policy refusal, which only the user of a profile key turns into StateRefused.
    """
    layer = int(failure.rc) & _LAYER_MASK
    if layer == _LAYER_TCTI:
        return TpmAwayFault(f"{doing}: the TPM does not answer", hint=AWAY_HINT, rc=int(failure.rc), command=command)
    if layer and layer not in _RESOURCE_MANAGER_LAYERS:
        return TpmFault(
            f"{doing}: {failure}",
            rc=int(failure.rc),
            code=int(failure.rc),
            decoded=str(failure),
            policy=False,
            command=command,
        )
    code = base_code(failure)
    return TpmFault(
        f"{doing}: the TPM answered {describe(failure)}",
        hint=_HINTS.get(code, ""),
        rc=int(failure.rc),
        code=code,
        decoded=describe(failure),
        policy=refuses_policy(command, code),
        command=command,
    )
