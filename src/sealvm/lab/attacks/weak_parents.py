"""Why the import parent is as it is: the same attacks against weaker parents, where they succeed.

`rewrap_from_srk_duplicate` is the control of the whole suite: TPM2_Rewrap of a key duplicated to an SRK gives its
private scalar to a software parent. `weaker_identity` is an import parent that would allow the same, certified by the
genuine AK: what an attacker offers at enrollment, and the authority must refuse.
"""

from __future__ import annotations

from dataclasses import replace

from sealvm.crypto.ec import SoftwareSigner
from sealvm.lab.attacks.duplication import rewrap
from sealvm.lab.attacks.view import AttackerView
from sealvm.secret import Secret
from sealvm.tcg import templates
from sealvm.tcg.duplicate import duplicate_to_any_parent
from sealvm.tcg.public import parse_public
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.identity import HostIdentityBlobs
from sealvm.tpm.structures import ESYS_TR

USER_WITH_AUTH = 0x00000040


def rewrap_from_srk_duplicate(tpm: Tpm, view: AttackerView, scalar: Secret | None = None) -> tuple[Secret, Secret]:
    """A profile key duplicated to the SRK, and what TPM2_Rewrap makes of it: (its scalar, the scalar recovered).

    The key has the wanted key's policy, which nobody asks. The two are equal where the attack succeeds; raises TpmFault
    where the TPM refuses it.
    """
    key = SoftwareSigner.generate() if scalar is None else SoftwareSigner.from_scalar(scalar)
    public = _like(view, key.point)
    doomed = duplicate_to_any_parent(key.scalar(), public, view.blobs.srk_public)
    recovered = rewrap(tpm, replace(view, duplicate=doomed), keys.srk(tpm), ESYS_TR.PASSWORD)
    return key.scalar(), recovered


def rewrap_from_weaker_parent(tpm: Tpm, view: AttackerView) -> tuple[Secret, Secret]:
    """The same with a parent that differs from the import parent in one bit, userWithAuth."""
    weaker = weaker_identity(tpm, view.blobs)
    key = SoftwareSigner.generate()
    public = _like(view, key.point)
    doomed = duplicate_to_any_parent(key.scalar(), public, weaker.import_parent_public)
    with keys.import_parent(tpm, weaker.import_parent_public, weaker.import_parent_private) as parent:
        recovered = rewrap(tpm, replace(view, duplicate=doomed), parent, ESYS_TR.PASSWORD)
    return key.scalar(), recovered


def _like(view: AttackerView, point: bytes) -> bytes:
    """A public area like the wanted key's, with another point."""
    return templates.profile_key_public(point, parse_public(view.key.public, "profile key").auth_policy)


def weaker_identity(tpm: Tpm, blobs: HostIdentityBlobs, attributes: int | None = None) -> HostIdentityBlobs:
    """The host's identity with a recreated import parent: attributes of the template and userWithAuth, or those given.

    Everything else is genuine, so `identity.certify` of it by the AK succeeds. The host's own parent stays where it is.
    """
    weaker = replace(
        templates.IMPORT_PARENT, attributes=attributes or templates.IMPORT_PARENT.attributes | USER_WITH_AUTH
    )
    public, private = keys.create_child(tpm, templates.public_of(weaker), "a weaker import parent")
    return replace(blobs, import_parent_public=public, import_parent_private=private)
