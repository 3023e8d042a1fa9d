"""Host 1's files on a fourth TPM: a computer that was never enrolled, whatever it has copied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sealvm.lab.attacks.view import Attack, AttackerView, AttackResult, attempt
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.identity import provision
from sealvm.tpm.profile_key import import_key, loaded


def _parent_blob(tpm: Tpm, view: AttackerView) -> None:
    keys.ensure_srk(tpm)
    with keys.child(tpm, view.blobs.import_parent_public, view.blobs.import_parent_private, "host 1's import parent"):
        pass


def _key_blob(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, provision(tpm), view.key):
        pass


def _duplicate(tpm: Tpm, view: AttackerView) -> None:
    import_key(tpm, provision(tpm), view.duplicate)


ATTACKS = (
    Attack(
        "stranger-parent-blob",
        "host 1's import parent loaded in another TPM",
        _parent_blob,
        "load",
        {"INTEGRITY"},
    ),
    Attack(
        "stranger-key-blob",
        "host 1's profile key loaded under another TPM's import parent",
        _key_blob,
        "load",
        {"INTEGRITY"},
    ),
    Attack(
        "stranger-duplicate",
        "the duplicate sealed to host 1 imported under another TPM's import parent",
        _duplicate,
        "import_",
        {"INTEGRITY"},
    ),
)


def run_stranger_attacks(tcti: str, lock: Path | None, host_1: AttackerView) -> list[AttackResult]:
    """Run them on the TPM at `tcti` with everything in `host_1`. Makes that TPM's own SRK and import parent."""
    view = replace(host_1, tcti=tcti, lock=lock)
    with open_tpm(tcti, lock) as tpm:
        return [attempt(attack, tpm, view) for attack in ATTACKS]
