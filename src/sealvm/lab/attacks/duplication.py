"""Attacks that want the private key itself: out of the duplicate, out of the loaded key, out of the import parent."""

from __future__ import annotations

from typing import Any

from sealvm.lab.attacks.software_parent import SoftwareParent
from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.secret import Secret
from sealvm.tcg.marshal import Reader
from sealvm.tcg.public import name_of
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.profile_key import loaded
from sealvm.tpm.structures import (
    ESYS_TR,
    TPM2_CC,
    digest_list,
    ecc_point,
    encrypted_secret,
    no_symmetric,
    private_area,
    public_area,
)

_USER_WITH_AUTH = 0x00000040


def rewrap(tpm: Tpm, view: AttackerView, old_parent: Any, session: Any) -> Secret:
    """TPM2_Rewrap of the duplicate from `old_parent` to a software parent, and its scalar out of the answer."""
    software = SoftwareParent()
    with software.loaded(tpm) as new_parent:
        duplicate, seed = tpm.run(
            "rewrap",
            "rewrapping the duplicate",
            old_parent=old_parent,
            new_parent=new_parent,
            in_duplicate=private_area(view.duplicate.duplicate),
            name=name_of(view.duplicate.public),
            in_sym_seed=encrypted_secret(view.duplicate.in_sym_seed),
            session1=session,
        )
    return software.open(bytes(duplicate.buffer), bytes(seed.secret), view.duplicate.public)


def _rewrap_by_password(tpm: Tpm, view: AttackerView) -> None:
    with _parent(tpm, view) as parent:
        rewrap(tpm, view, parent, ESYS_TR.PASSWORD)


def _rewrap_by_import_policy(tpm: Tpm, view: AttackerView) -> None:
    with _parent(tpm, view) as parent, keys.import_parent_session(tpm, TPM2_CC.Import) as session:
        rewrap(tpm, view, parent, session)


def _rewrap_by_own_branch(tpm: Tpm, view: AttackerView) -> None:
    with _parent(tpm, view) as parent, keys.import_parent_session(tpm, TPM2_CC.Rewrap) as session:
        rewrap(tpm, view, parent, session)


def _rewrap_by_forged_branch(tpm: Tpm, view: AttackerView) -> None:
    with _parent(tpm, view) as parent, tpm.policy_session() as session:
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.Rewrap)
        own = tpm.run("policy_get_digest", policy_session=session)
        tpm.run("policy_or", policy_session=session, p_hash_list=digest_list([bytes(own), bytes(own)]))
        rewrap(tpm, view, parent, session)


def _rewrap_from_srk(tpm: Tpm, view: AttackerView) -> None:
    rewrap(tpm, view, keys.srk(tpm), ESYS_TR.PASSWORD)


def duplicate_to_software(tpm: Tpm, handle: Any, session: Any) -> None:
    """TPM2_Duplicate of a loaded key to a software parent, authorized by `session`."""
    with SoftwareParent().loaded(tpm) as new_parent:
        tpm.run(
            "duplicate",
            "duplicating a key",
            object_handle=handle,
            new_parent_handle=new_parent,
            encryption_key_in=b"",
            symmetric_alg=no_symmetric(),
            session1=session,
        )


def _duplicate_by_password(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, view.blobs, view.key) as handle:
        duplicate_to_software(tpm, handle, ESYS_TR.PASSWORD)


def _duplicate_by_policy(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, view.blobs, view.key) as handle, tpm.policy_session() as session:
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.Duplicate)
        duplicate_to_software(tpm, handle, session)


def _duplicate_parent(tpm: Tpm, view: AttackerView) -> None:
    with _parent(tpm, view) as parent, tpm.policy_session() as session:
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.Duplicate)
        duplicate_to_software(tpm, parent, session)


def _seed_by_ecdh(tpm: Tpm, view: AttackerView) -> None:
    reader = Reader(view.duplicate.in_sym_seed, "duplication seed")
    point = b"\x04" + reader.sized16().rjust(32, b"\0") + reader.sized16().rjust(32, b"\0")
    with _parent(tpm, view) as parent, keys.import_parent_session(tpm, TPM2_CC.Import) as session:
        tpm.run("ecdh_zgen", key_handle=parent, in_point=ecc_point(point), session1=session)


def _import_with_password(tpm: Tpm, view: AttackerView) -> None:
    """The same duplicate imported with userWithAuth set in the public area: usable then with an empty password."""
    head, attributes, rest = view.key.public[:4], view.key.public[4:8], view.key.public[8:]
    weaker = head + (int.from_bytes(attributes, "big") | _USER_WITH_AUTH).to_bytes(4, "big") + rest
    with _parent(tpm, view) as parent, keys.import_parent_session(tpm, TPM2_CC.Import) as session:
        tpm.run(
            "import_",
            parent_handle=parent,
            encryption_key=b"",
            object_public=public_area(weaker, "weaker public area"),
            duplicate=private_area(view.duplicate.duplicate),
            in_sym_seed=encrypted_secret(view.duplicate.in_sym_seed),
            symmetric_alg=no_symmetric(),
            session1=session,
        )


def _parent(tpm: Tpm, view: AttackerView) -> Any:
    return keys.import_parent(tpm, view.blobs.import_parent_public, view.blobs.import_parent_private)


ATTACKS = (
    Attack(
        "rewrap-password",
        "TPM2_Rewrap of the duplicate to a software parent, import parent authorized by its empty password",
        _rewrap_by_password,
        "rewrap",
        {"AUTH_UNAVAILABLE"},
    ),
    Attack(
        "rewrap-import-policy",
        "TPM2_Rewrap authorized by the session that is good for Import",
        _rewrap_by_import_policy,
        "rewrap",
        {"POLICY_CC"},
    ),
    Attack(
        "rewrap-own-branch",
        "TPM2_Rewrap in a session for Rewrap, presented as a branch of the parent's PolicyOR",
        _rewrap_by_own_branch,
        "policy_or",
        {"VALUE"},
    ),
    Attack(
        "rewrap-forged-or",
        "TPM2_Rewrap in a session whose PolicyOR lists Rewrap",
        _rewrap_by_forged_branch,
        "rewrap",
        {"POLICY_FAIL"},
    ),
    Attack(
        "rewrap-from-srk",
        "TPM2_Rewrap of the duplicate with the SRK, which has an empty password, as old parent",
        _rewrap_from_srk,
        "rewrap",
        {"INTEGRITY"},
    ),
    Attack(
        "duplicate-password",
        "TPM2_Duplicate of the loaded profile key to a software parent, with a password",
        _duplicate_by_password,
        "duplicate",
        {"AUTH_TYPE", "AUTH_UNAVAILABLE"},
    ),
    Attack(
        "duplicate-policy",
        "TPM2_Duplicate of the loaded profile key in a session for Duplicate",
        _duplicate_by_policy,
        "duplicate",
        {"POLICY_FAIL"},
    ),
    Attack(
        "duplicate-parent",
        "TPM2_Duplicate of the import parent itself",
        _duplicate_parent,
        "duplicate",
        {"ATTRIBUTES", "POLICY_FAIL"},
    ),
    Attack(
        "seed-by-ecdh",
        "TPM2_ECDH_ZGen with the import parent on the duplicate's seed, to open the duplicate in software",
        _seed_by_ecdh,
        "ecdh_zgen",
        {"POLICY_CC", "ATTRIBUTES", "KEY"},
    ),
    Attack(
        "import-with-password",
        "TPM2_Import of the duplicate with userWithAuth set in its public area",
        _import_with_password,
        "import_",
        {"INTEGRITY"},
    ),
)
