"""The whole suite, run as root of one host whose state is not approved for the wanted key."""

from __future__ import annotations

from sealvm.errors import TpmFault
from sealvm.lab.attacks import (
    approvals,
    assertions,
    attestation,
    duplication,
    handles,
    keeping,
    leases,
    platform,
    salts,
    sessions,
)
from sealvm.lab.attacks.leased_twin import honest_lease
from sealvm.lab.attacks.view import Attack, AttackerView, AttackResult, attempt
from sealvm.lab.attacks.weak_parents import rewrap_from_srk_duplicate
from sealvm.lab.attacks.weaker_leases import weaker_designs_are_broken
from sealvm.tpm.connection import Tpm, open_tpm

ATTACKS: tuple[Attack, ...] = (
    *duplication.ATTACKS,
    *approvals.ATTACKS,
    *sessions.ATTACKS,
    *platform.ATTACKS,
    *handles.ATTACKS,
    *assertions.ATTACKS,
    *attestation.ATTACKS,
    *salts.ATTACKS,
    *keeping.ATTACKS,
    *leases.ATTACKS,
)


def run_attacks(view: AttackerView) -> list[AttackResult]:
    """Every attack with the TPM's answer, in order; all are refused where sealvm keeps its word.

    Before anything is claimed, the controls: the twins' honest use works, TPM2_Rewrap does give away a key that was
    duplicated to the SRK, and leases of weaker designs are broken. Takes a few seconds: some leases must end. Raises
    TpmFault when a control fails or an attack breaks down elsewhere than it should, and NotFoundError when the view
    lacks an approval. Leaves PCR 10 extended, and nothing else changed: attacks that cost a TPM its keys or a reset are
    not among them (destructive.py, power.py).
    """
    with open_tpm(view.tcti, view.lock) as tpm:
        check_controls(tpm, view)
        return [attempt(attack, tpm, view) for attack in ATTACKS]


def check_controls(tpm: Tpm, view: AttackerView) -> None:
    """Raise TpmFault unless the suite is known to bite on this TPM."""
    sessions.honest_use(tpm, view)
    honest_lease(tpm, view)
    weaker_designs_are_broken(tpm, view)
    scalar, recovered = rewrap_from_srk_duplicate(tpm, view)
    if scalar != recovered:
        raise TpmFault("control: TPM2_Rewrap of a key duplicated to the SRK gave something else than the key")
