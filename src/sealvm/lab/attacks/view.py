"""What the attacker has, what an attack is, and when it counts as refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sealvm.crypto.ec import Signer
from sealvm.errors import NotFoundError, SignatureRefused, TpmFault
from sealvm.statements.approval import Approval, sign_approval
from sealvm.tcg.duplicate import DuplicateBlob
from sealvm.tpm.connection import Tpm
from sealvm.tpm.identity import HostIdentityBlobs
from sealvm.tpm.profile_key import SealedKey


@dataclass(frozen=True, slots=True)
class AttackerView:
    """Everything root of one host has, whose state is not approved for `key`.

    The TPM's address and lock; the host's blobs; the profile key's blob, and the duplicate as it came over the network;
    every approval, among them ones for other profiles and epochs that fit this host's state; the ephemeral point (65
    bytes) of the package's wrap, whose shared point with the key is what every use of the key is after.
    """

    tcti: str
    lock: Path | None
    blobs: HostIdentityBlobs
    key: SealedKey
    duplicate: DuplicateBlob
    approvals: tuple[Approval, ...]
    wrap_point: bytes

    def approval_of_another_state(self) -> Approval:
        """An approval for the very key, of a state that is not this host's."""
        return self._approval(
            "this profile and epoch", lambda a: (a.profile, a.epoch) == (self.key.profile, self.key.epoch)
        )

    def approval_of_another_profile(self) -> Approval:
        """An approval that fits this host's state, for a key of another profile."""
        return self._approval("another profile", lambda a: a.profile != self.key.profile)

    def approval_of_another_epoch(self) -> Approval:
        """An approval that fits this host's state, for another epoch of the key's profile."""
        return self._approval("another epoch", lambda a: a.profile == self.key.profile and a.epoch != self.key.epoch)

    def _approval(self, what: str, wanted: Callable[[Approval], bool]) -> Approval:
        found = next((approval for approval in self.approvals if wanted(approval)), None)
        if found is None:
            raise NotFoundError(f"the attacker's view has no approval of {what}", hint="add tempting_approvals to it")
        return found


def tempting_approvals(
    approver: Signer, key: SealedKey, pcr_values: Mapping[int, bytes], selection: Collection[int]
) -> tuple[Approval, Approval]:
    """What the genuine approver may well have signed: this host's state, for another profile and for another epoch."""
    return (
        sign_approval(
            approver,
            profile="anything-goes",
            epoch=key.epoch,
            cell=key.cell,
            selection=selection,
            pcr_values=pcr_values,
        ),
        sign_approval(
            approver,
            profile=key.profile,
            epoch=key.epoch + 1,
            cell=key.cell,
            selection=selection,
            pcr_values=pcr_values,
        ),
    )


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: `run` goes through with it, and returns only if nothing stopped it.

    It counts as refused when the TPM answers `command` with one of `codes` (names without TPM_RC_); any other fault
    means that the suite itself is broken, and passes through.
    """

    name: str
    says: str
    run: Callable[[Tpm, AttackerView], None]
    command: str
    codes: Collection[str]


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What came of one attack. `by` is the command and the TPM's decoded answer; empty when nothing refused it."""

    name: str
    says: str
    refused: bool
    by: str


def attempt(attack: Attack, tpm: Tpm, view: AttackerView) -> AttackResult:
    """Run one attack. Raises the TpmFault of anything that is not the refusal the attack is about."""
    try:
        attack.run(tpm, view)
    except (TpmFault, SignatureRefused) as error:
        fault = error.__cause__ if isinstance(error, SignatureRefused) else error
        if not isinstance(fault, TpmFault):
            raise
        decoded = str(fault.fields.get("decoded", ""))
        name = decoded.removeprefix("TPM_RC_").partition(" ")[0]
        if fault.fields.get("command") != attack.command or name not in attack.codes:
            raise
        return AttackResult(attack.name, attack.says, True, f"{attack.command}: {decoded}")
    return AttackResult(attack.name, attack.says, False, "")
