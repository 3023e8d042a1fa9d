"""The whole suite, run as root of one host whose state is not approved for the wanted key."""

from __future__ import annotations

from sealvm.errors import TpmFault
from sealvm.lab.attacks import approvals, duplication, platform, sessions
from sealvm.lab.attacks.view import Attack, AttackerView, AttackResult, attempt
from sealvm.lab.attacks.weak_parents import rewrap_from_srk_duplicate
from sealvm.tpm.connection import Tpm, open_tpm

ATTACKS: tuple[Attack, ...] = (*duplication.ATTACKS, *approvals.ATTACKS, *sessions.ATTACKS, *platform.ATTACKS)


def run_attacks(view: AttackerView) -> list[AttackResult]:
    """Every attack with the TPM's answer, in order; all are refused where sealvm keeps its word.

    Before anything is claimed, the controls: the twin's honest use works, and TPM2_Rewrap does give away a key that was
    duplicated to the SRK. Raises TpmFault when a control fails or an attack breaks down elsewhere than it should, and
    NotFoundError when the view lacks an approval. Leaves PCR 10 extended, and nothing else changed.
    """
    with open_tpm(view.tcti, view.lock) as tpm:
        check_controls(tpm, view)
        return [attempt(attack, tpm, view) for attack in ATTACKS]


def check_controls(tpm: Tpm, view: AttackerView) -> None:
    """Raise TpmFault unless the suite is known to bite on this TPM."""
    sessions.honest_use(tpm, view)
    scalar, recovered = rewrap_from_srk_duplicate(tpm, view)
    if scalar != recovered:
        raise TpmFault("control: TPM2_Rewrap of a key duplicated to the SRK gave something else than the key")
