"""Every other command that takes a key's handle, tried with the profile key and with the import parent.

What would be an oracle on the private key, or on the duplicate that the import parent can open: TPM2_ZGen_2Phase is
ECDH by another name, TPM2_ActivateCredential and TPM2_Rewrap open seeds. Each is tried with the empty password on the
wanted key, and on the twin in a session that is good for ECDH_ZGen: an approved host has no more than that either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sealvm.lab.attacks.sessions import approved, limit
from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.tcg import templates
from sealvm.tcg.marshal import b2
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.profile_key import loaded
from sealvm.tpm.raw import handle_of, run_raw
from sealvm.tpm.structures import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CC,
    ecc_point,
    ecdsa_scheme,
    encrypted_secret,
    id_object,
    no_creation_ticket,
    no_hash_ticket,
    no_rsa_scheme,
    no_sensitive,
    pcr_selection,
    public_area,
)

_DIGEST = bytes(31) + b"\x01"
_BLOCK_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Use:
    """One command with a key's handle: `run(tpm, view, handle, session)`. A policy session is refused for its command
    code, or with `instead`."""

    name: str
    command: str
    says: str
    run: Callable[[Tpm, AttackerView, Any, Any], Any]
    instead: str = "POLICY_CC"


def _two_phase(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    point = b2(b2(view.wrap_point[1:33]) + b2(view.wrap_point[33:]))
    run_raw(
        tpm,
        "zgen_2phase",
        int(TPM2_CC.ZGen_2Phase),
        handles=[handle_of(tpm, handle)],
        session=handle_of(tpm, session),
        parameters=point + point + int(TPM2_ALG.ECDH).to_bytes(2, "big") + (1).to_bytes(2, "big"),
    )


def _activate(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    """The duplicate's seed offered as a credential's, to get what it encrypts as the credential's secret."""
    with keys.primary(tpm, templates.AK, ESYS_TR.ENDORSEMENT, "the AK") as (ak, _public):
        tpm.run(
            "activate_credential",
            activate_handle=ak,
            key_handle=handle,
            credential_blob=id_object(view.duplicate.duplicate[:104]),
            secret=encrypted_secret(view.duplicate.in_sym_seed),
            session1=ESYS_TR.PASSWORD,
            session2=session,
        )


def _create(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
    public = public_area(templates.public_of(templates.REQUEST_KEY), "a child")
    tpm.run("create", parent_handle=handle, in_sensitive=no_sensitive(), in_public=public, session1=session)


def _create_loaded(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
    template = templates.public_of(templates.REQUEST_KEY)
    run_raw(
        tpm,
        "create_loaded",
        int(TPM2_CC.CreateLoaded),
        handles=[handle_of(tpm, handle)],
        session=handle_of(tpm, session),
        parameters=b2(b2(b"") + b2(b"")) + b2(template),
    )


def _policy_secret(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
    with tpm.policy_session() as other:
        tpm.run("policy_secret", auth_handle=handle, policy_session=other, expiration=0, session1=session)


def _certify_creation(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
    tpm.run(
        "certify_creation",
        sign_handle=handle,
        object_handle=keys.srk(tpm),
        qualifying_data=b"",
        creation_hash=_DIGEST,
        in_scheme=ecdsa_scheme(),
        creation_ticket=no_creation_ticket(),
        session1=session,
    )


def _certify_with(command: str) -> Callable[[Tpm, AttackerView, Any, Any], None]:
    """The key as signer over the SRK."""
    more = {"partial_certificate": b"\x30\x00"} if command == "certify_x509" else {"qualifying_data": b""}

    def run(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
        srk, scheme = keys.srk(tpm), ecdsa_scheme()
        tpm.run(
            command,
            object_handle=srk,
            sign_handle=handle,
            in_scheme=scheme,
            session1=ESYS_TR.PASSWORD,
            session2=session,
            **more,
        )

    return run


def _certified(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
    """The key as what is certified, by the AK."""
    with keys.primary(tpm, templates.AK, ESYS_TR.ENDORSEMENT, "the AK") as (ak, _public):
        tpm.run(
            "certify",
            object_handle=handle,
            sign_handle=ak,
            qualifying_data=b"",
            in_scheme=ecdsa_scheme(),
            session1=session,
            session2=ESYS_TR.PASSWORD,
        )


def _symmetric(command: str) -> Callable[[Tpm, AttackerView, Any, Any], None]:
    def run(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
        tpm.run(
            command,
            key_handle=handle,
            decrypt=True,
            mode=TPM2_ALG.CFB,
            iv_in=bytes(_BLOCK_BYTES),
            in_data=bytes(_BLOCK_BYTES),
            session1=session,
        )

    return run


def _sign_digest(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
    scheme, ticket = ecdsa_scheme(), no_hash_ticket()
    tpm.run("sign", key_handle=handle, digest=_DIGEST, in_scheme=scheme, validation=ticket, session1=session)


def _rsa_decrypt(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    tpm.run("rsa_decrypt", key_handle=handle, cipher_text=view.wrap_point, in_scheme=no_rsa_scheme(), session1=session)


def _session_audit(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
    with tpm.policy_session(kind=0) as audited:
        tpm.run(
            "get_session_audit_digest",
            sign_handle=handle,
            session_handle=audited,
            qualifying_data=b"",
            session1=ESYS_TR.PASSWORD,
            session2=session,
        )


def _nv_certify(tpm: Tpm, view: AttackerView, handle: Any, session: Any) -> None:
    """The key as signer over the start of the EK certificate, which its index's empty password reads."""
    tpm.run(
        "nv_certify",
        sign_handle=handle,
        nv_index=tpm.persistent(view.blobs.ek_nv_index),
        qualifying_data=b"",
        in_scheme=ecdsa_scheme(),
        size=_BLOCK_BYTES,
        session1=session,
        session2=ESYS_TR.PASSWORD,
    )


def _reporting(command: str) -> Callable[[Tpm, AttackerView, Any, Any], None]:
    """GetTime or GetCommandAuditDigest: endorsement's empty password first, the signing key second."""

    def run(tpm: Tpm, _view: AttackerView, handle: Any, session: Any) -> None:
        tpm.run(command, sign_handle=handle, qualifying_data=b"", session1=ESYS_TR.PASSWORD, session2=session)

    return run


_USES = (
    _Use("zgen-2phase", "zgen_2phase", "TPM2_ZGen_2Phase, another ECDH, on the wrap's point", _two_phase),
    _Use("rsa-decrypt", "rsa_decrypt", "TPM2_RSA_Decrypt of the wrap's point", _rsa_decrypt),
    _Use("encrypt-decrypt", "encrypt_decrypt", "TPM2_EncryptDecrypt", _symmetric("encrypt_decrypt")),
    _Use("encrypt-decrypt2", "encrypt_decrypt_2", "TPM2_EncryptDecrypt2", _symmetric("encrypt_decrypt_2")),
    _Use(
        "unseal",
        "unseal",
        "TPM2_Unseal",
        lambda tpm, _view, handle, session: tpm.run("unseal", item_handle=handle, session1=session),
    ),
    _Use(
        "mac",
        "hmac",
        "TPM2_MAC, the command that is also TPM2_HMAC",
        lambda tpm, _view, handle, session: tpm.run(
            "hmac", handle=handle, buffer=_DIGEST, hash_alg=TPM2_ALG.SHA256, session1=session
        ),
    ),
    _Use(
        "mac-start",
        "hmac_start",
        "TPM2_MAC_Start, the command that is also TPM2_HMAC_Start",
        lambda tpm, _view, handle, session: tpm.run(
            "hmac_start", handle=handle, auth=b"", hash_alg=TPM2_ALG.SHA256, session1=session
        ),
    ),
    _Use("sign", "sign", "TPM2_Sign", _sign_digest),
    _Use(
        "commit",
        "commit",
        "TPM2_Commit, which multiplies a point by the private key",
        lambda tpm, view, handle, session: tpm.run(
            "commit", sign_handle=handle, p1=ecc_point(view.wrap_point), s2=b"", y2=b"", session1=session
        ),
    ),
    _Use(
        "quote",
        "quote",
        "TPM2_Quote",
        lambda tpm, _view, handle, session: tpm.run(
            "quote", sign_handle=handle, pcr_select=pcr_selection((0,)), qualifying_data=b"", session1=session
        ),
    ),
    _Use("certify", "certify", "TPM2_Certify as signer", _certify_with("certify")),
    _Use("certify-x509", "certify_x509", "TPM2_CertifyX509 as signer", _certify_with("certify_x509")),
    _Use("certify-creation", "certify_creation", "TPM2_CertifyCreation as signer", _certify_creation),
    _Use("certified", "certify", "TPM2_Certify by the AK", _certified),
    _Use("get-time", "get_time", "TPM2_GetTime as signer", _reporting("get_time")),
    _Use(
        "command-audit",
        "get_command_audit_digest",
        "TPM2_GetCommandAuditDigest as signer",
        _reporting("get_command_audit_digest"),
    ),
    _Use("session-audit", "get_session_audit_digest", "TPM2_GetSessionAuditDigest as signer", _session_audit),
    _Use("nv-certify", "nv_certify", "TPM2_NV_Certify as signer", _nv_certify),
    _Use("create", "create", "TPM2_Create as parent", _create),
    _Use("create-loaded", "create_loaded", "TPM2_CreateLoaded as parent", _create_loaded),
    _Use("activate", "activate_credential", "TPM2_ActivateCredential on the duplicate's seed", _activate),
    _Use("policy-secret", "policy_secret", "TPM2_PolicySecret as the authorizing object", _policy_secret, "MODE"),
)

_OF_PARENTS = ("zgen-2phase", "create", "create-loaded", "activate", "policy-secret")


def _by_password(use: _Use) -> Attack:
    def run(tpm: Tpm, view: AttackerView) -> None:
        with loaded(tpm, view.blobs, view.key) as handle:
            use.run(tpm, view, handle, ESYS_TR.PASSWORD)

    says = f"{use.says}, with the profile key and its empty password"
    return Attack(f"key-{use.name}", says, run, use.command, {"AUTH_UNAVAILABLE", "AUTH_TYPE"})


def _when_approved(use: _Use) -> Attack:
    def run(tpm: Tpm, view: AttackerView) -> None:
        with approved(tpm, view) as (handle, session):
            limit(tpm, session, TPM2_CC.ECDH_ZGen)
            use.run(tpm, view, handle, session)

    says = f"{use.says}, in an approved session that is good for ECDH_ZGen"
    return Attack(f"approved-{use.name}", says, run, use.command, {use.instead})


def _by_parent(use: _Use) -> Attack:
    def run(tpm: Tpm, view: AttackerView) -> None:
        blobs = view.blobs
        with (
            keys.import_parent(tpm, blobs.import_parent_public, blobs.import_parent_private) as parent,
            keys.import_parent_session(tpm, TPM2_CC.Import) as session,
        ):
            use.run(tpm, view, parent, session)

    says = f"{use.says}, with the import parent in a session that is good for Import"
    return Attack(f"parent-{use.name}", says, run, use.command, {use.instead})


ATTACKS = (
    *(_by_password(use) for use in _USES),
    *(_when_approved(use) for use in _USES),
    *(_by_parent(use) for use in _USES if use.name in _OF_PARENTS),
)
