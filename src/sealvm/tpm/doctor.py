"""Whether a TPM can do what sealvm asks of it: commands, hash, curve, an EK certificate, and a trial of the parts.

`sealvm doctor` shows the findings. Nothing stays in the TPM.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealvm.errors import Fault, NotFoundError
from sealvm.tcg import templates
from sealvm.tpm import identity, keys, pcr
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import ESYS_TR, TPM2_CAP, TPM2_CC

COMMANDS = (
    "ActivateCredential",
    "Certify",
    "ContextLoad",
    "ContextSave",
    "ECDH_ZGen",
    "Import",
    "LoadExternal",
    "PolicyAuthorize",
    "PolicyCommandCode",
    "PolicyCounterTimer",
    "PolicyOR",
    "PolicyPCR",
    "PolicySecret",
    "PolicySigned",
    "PolicyTicket",
    "Quote",
    "ReadClock",
    "VerifySignature",
)
"""TPM 2.0 commands that sealvm uses and that a TPM may lack (TCG part 3 makes some optional)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked for in a TPM."""

    name: str
    ok: bool
    found: str
    hint: str = ""


def examine(tpm: Tpm) -> list[Finding]:
    """All findings. A TPM error while looking is itself a finding."""
    return [_commands(tpm), _bank(tpm), _ek_certificate(tpm), _storage_keys(tpm)]


def _commands(tpm: Tpm) -> Finding:
    _more, capability = tpm.run(
        "get_capability",
        "listing commands",
        capability=TPM2_CAP.COMMANDS,
        prop=int(TPM2_CC.FIRST),
        property_count=256,
    )
    # commandIndex is the low 16 bits of TPMA_CC (TPM 2.0 part 2, section 8.9)
    there = {int(attributes) & 0xFFFF for attributes in capability.data.command}
    lacking = [name for name in COMMANDS if int(getattr(TPM2_CC, name)) not in there]
    if lacking:
        return Finding("commands", False, "lacks " + ", ".join(lacking), "update the TPM's firmware")
    return Finding("commands", True, f"{len(there)}, all of ours among them")


def _bank(tpm: Tpm) -> Finding:
    try:
        values = pcr.read(tpm, {0})
    except Fault as error:
        return Finding("sha256 bank", False, error.message, "switch on the SHA-256 PCR bank in the firmware's setup")
    extended = any(values[0])
    return Finding(
        "sha256 bank",
        extended,
        "on, PCR 0 extended" if extended else "PCR 0 was never extended",
        "" if extended else "the firmware measures nothing into SHA-256: update or configure it",
    )


def _ek_certificate(tpm: Tpm) -> Finding:
    try:
        index, _certificate = identity.read_ek_certificate(tpm)
    except (NotFoundError, Fault) as error:
        return Finding("EK certificate", False, error.message, error.hint)
    return Finding("EK certificate", True, f"NV {index:08x}")


def _storage_keys(tpm: Tpm) -> Finding:
    """Make and flush an SRK-shaped primary: P-256 and AES-128-CFB work."""
    try:
        with keys.primary(tpm, templates.SRK, ESYS_TR.OWNER, "a trial storage key"):
            pass
    except Fault as error:
        return Finding("P-256 storage keys", False, error.message, error.hint)
    return Finding("P-256 storage keys", True, "a trial one was made")
