"""Attacks on what lies around the key: its blob under other parents and public areas, and the PCRs."""

from __future__ import annotations

from typing import Any

from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.tcg import policy, templates
from sealvm.tcg.public import parse_public
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import ESYS_TR, TPM2_CC, private_area, public_area

_STATE_PCR = 9


def _load(tpm: Tpm, view: AttackerView, parent: Any, session: Any, public: bytes) -> None:
    handle = tpm.run(
        "load",
        "loading the profile key",
        parent_handle=parent,
        in_private=private_area(view.key.private),
        in_public=public_area(public, "profile key"),
        session1=session,
    )
    tpm.flush(handle)


def _under_srk(tpm: Tpm, view: AttackerView) -> None:
    _load(tpm, view, keys.srk(tpm), ESYS_TR.PASSWORD, view.key.public)


def _under_other_policy(tpm: Tpm, view: AttackerView) -> None:
    """The blob with a public area whose authPolicy is PolicyCommandCode(ECDH_ZGen) alone."""
    point = parse_public(view.key.public, "profile key").point
    public = templates.profile_key_public(point, policy.cmd(policy.ZERO, int(TPM2_CC.ECDH_ZGen)))
    with _parent(tpm, view) as parent, keys.import_parent_session(tpm, TPM2_CC.Load) as session:
        _load(tpm, view, parent, session, public)


def _by_password(tpm: Tpm, view: AttackerView) -> None:
    with _parent(tpm, view) as parent:
        _load(tpm, view, parent, ESYS_TR.PASSWORD, view.key.public)


def _reset_pcr(tpm: Tpm, _view: AttackerView) -> None:
    tpm.run("pcr_reset", pcr_handle=ESYS_TR(_STATE_PCR), session1=ESYS_TR.PASSWORD)


def _parent(tpm: Tpm, view: AttackerView) -> Any:
    return keys.import_parent(tpm, view.blobs.import_parent_public, view.blobs.import_parent_private)


ATTACKS = (
    Attack(
        "load-under-srk",
        "the profile key's blob loaded under the SRK instead of the import parent",
        _under_srk,
        "load",
        {"INTEGRITY"},
    ),
    Attack(
        "load-with-other-policy",
        "the profile key's blob loaded with a public area without PolicyAuthorize",
        _under_other_policy,
        "load",
        {"INTEGRITY", "BINDING"},
    ),
    Attack(
        "load-by-password",
        "the import parent used with its empty password",
        _by_password,
        "load",
        {"AUTH_UNAVAILABLE", "AUTH_TYPE"},
    ),
    Attack(
        "reset-pcr",
        f"TPM2_PCR_Reset of PCR {_STATE_PCR}, to replay the approved boot into it",
        _reset_pcr,
        "pcr_reset",
        {"LOCALITY"},
    ),
)
