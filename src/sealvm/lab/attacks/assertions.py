"""Policy assertions in place of those that the wanted key's policy names.

Each assertion hashes its own command code into the session's digest, so none gives the digest of another; PolicyOR,
PolicyAuthorize, PolicyAuthorizeNV and PolicyRestart replace the digest. Here each stands where PolicyPCR should, before
the genuine approval of another state, and after an approval that does fit, on the twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sealvm.crypto.ec import SoftwareSigner
from sealvm.lab.attacks.duplication import duplicate_to_software
from sealvm.lab.attacks.sessions import EXTENDED_PCR, approved, limit
from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.tcg.public import name_of
from sealvm.tpm import keys
from sealvm.tpm.authorization import signer_key
from sealvm.tpm.connection import Tpm
from sealvm.tpm.profile_key import approval_ticket, authorize, loaded
from sealvm.tpm.structures import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CC,
    TPM2_EO,
    digest_list,
    ecc_point,
    nv_space,
    operand,
    pcr_selection,
    signature_area,
)

NV_INDEX = 0x0180F5EA
"""Where the attacker keeps digests for PolicyNV and PolicyAuthorizeNV; removed again."""
_LOCALITY_ZERO = 0x01

Assertion = Callable[[Tpm, AttackerView, Any], None]


def _plain(command: str, **arguments: Any) -> Assertion:
    def run(tpm: Tpm, _view: AttackerView, session: Any) -> None:
        tpm.run(command, policy_session=session, **arguments)

    return run


def _approved_digest(view: AttackerView) -> bytes:
    return view.approval_of_another_state().approved_policy


def _policy_or(tpm: Tpm, view: AttackerView, session: Any) -> None:
    """The session's own digest and the approved one as the two branches."""
    own = bytes(tpm.run("policy_get_digest", policy_session=session))
    tpm.run("policy_or", policy_session=session, p_hash_list=digest_list([own, _approved_digest(view)]))


def _policy_or_alien(tpm: Tpm, view: AttackerView, session: Any) -> None:
    """The approved digest as both branches, without the session's own."""
    digest = _approved_digest(view)
    tpm.run("policy_or", policy_session=session, p_hash_list=digest_list([digest, digest]))


def _policy_secret(tpm: Tpm, _view: AttackerView, session: Any) -> None:
    tpm.run(
        "policy_secret",
        auth_handle=keys.srk(tpm),
        policy_session=session,
        expiration=0,
        session1=ESYS_TR.PASSWORD,
    )


def _policy_signed(tpm: Tpm, view: AttackerView, session: Any) -> None:
    """Signed by a key of the attacker's, over the approved digest as its reference."""
    signer, ref = SoftwareSigner.generate(), _approved_digest(view)
    signature = signer.sign_digest(_sha256(tpm, bytes(4) + ref))
    with signer_key(tpm, signer.point, "attacker") as key:
        tpm.run(
            "policy_signed",
            auth_object=key,
            policy_session=session,
            auth=signature_area(signature),
            policy_ref=ref,
            expiration=0,
        )


def _sha256(tpm: Tpm, data: bytes) -> bytes:
    digest, _ticket = tpm.run("hash", data=data, hash_alg=TPM2_ALG.SHA256)
    return bytes(digest)


@contextmanager
def _nv(tpm: Tpm, contents: bytes) -> Iterator[Any]:
    """An NV index of the attacker's with these contents, for the length of a block."""
    index = tpm.run("nv_define_space", auth=b"", public_info=nv_space(NV_INDEX, len(contents)))
    try:
        tpm.run("nv_write", nv_index=index, data=contents, session1=ESYS_TR.PASSWORD)
        yield index
    finally:
        tpm.run("nv_undefine_space", nv_index=index, session1=ESYS_TR.PASSWORD)


def _policy_nv(tpm: Tpm, view: AttackerView, session: Any) -> None:
    """The approved PCR digest in an index, and compared with itself."""
    digest = view.approval_of_another_state().pcr_digest
    with _nv(tpm, digest) as index:
        tpm.run(
            "policy_nv",
            auth_handle=ESYS_TR.OWNER,
            nv_index=index,
            policy_session=session,
            operand_b=operand(digest),
            operation=TPM2_EO.EQ,
            session1=ESYS_TR.PASSWORD,
        )


def _policy_authorize_nv(tpm: Tpm, _view: AttackerView, session: Any) -> None:
    """The session's own digest in an index: PolicyAuthorizeNV replaces it, by a digest with the index's Name."""
    own = bytes(tpm.run("policy_get_digest", policy_session=session))
    with _nv(tpm, int(TPM2_ALG.SHA256).to_bytes(2, "big") + own) as index:
        tpm.run(
            "policy_authorize_nv",
            nv_index=index,
            policy_session=session,
            auth_handle=ESYS_TR.OWNER,
            session1=ESYS_TR.PASSWORD,
        )


def _counter_timer(tpm: Tpm, _view: AttackerView, session: Any) -> None:
    tpm.run("policy_counter_timer", policy_session=session, operand_b=operand(bytes(8)), operation=TPM2_EO.UNSIGNED_GE)


def _duplication_select(tpm: Tpm, view: AttackerView, session: Any) -> None:
    srk = view.blobs.srk_name
    tpm.run(
        "policy_duplication_select",
        policy_session=session,
        object_name=name_of(view.key.public),
        new_parent_name=srk,
        include_object=True,
    )


ASSERTIONS: tuple[tuple[str, str, Assertion], ...] = (
    ("or", "PolicyOR with the approved policy as a branch", _policy_or),
    ("secret", "PolicySecret of the SRK", _policy_secret),
    ("signed", "PolicySigned by a key of the attacker's", _policy_signed),
    ("nv", "PolicyNV on an index with the approved PCR digest", _policy_nv),
    ("authorize-nv", "PolicyAuthorizeNV on an index of the attacker's", _policy_authorize_nv),
    ("counter-timer", "PolicyCounterTimer that always holds", _counter_timer),
    ("cp-hash", "PolicyCpHash", _plain("policy_cp_hash", cp_hash_a=bytes(32))),
    ("name-hash", "PolicyNameHash", _plain("policy_name_hash", name_hash=bytes(32))),
    ("template", "PolicyTemplate", _plain("policy_template", template_hash=bytes(32))),
    ("locality", "PolicyLocality", _plain("policy_locality", locality=_LOCALITY_ZERO)),
    ("presence", "PolicyPhysicalPresence", _plain("policy_physical_presence")),
    ("auth-value", "PolicyAuthValue", _plain("policy_auth_value")),
    ("password", "PolicyPassword", _plain("policy_password")),
    ("nv-written", "PolicyNvWritten", _plain("policy_nv_written", written_set=True)),
    ("duplication-select", "PolicyDuplicationSelect", _duplication_select),
)


def _instead_of_pcrs(assertion: Assertion) -> Callable[[Tpm, AttackerView], None]:
    def run(tpm: Tpm, view: AttackerView) -> None:
        approval = view.approval_of_another_state()
        ticket = approval_ticket(tpm, approval)
        with tpm.policy_session() as session:
            assertion(tpm, view, session)
            authorize(tpm, session, approval.approved_policy, approval, ticket)

    return run


def _after_approval(assertion: Assertion) -> Callable[[Tpm, AttackerView], None]:
    def run(tpm: Tpm, view: AttackerView) -> None:
        with approved(tpm, view) as (handle, session):
            assertion(tpm, view, session)
            tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)

    return run


def _alien_branches(tpm: Tpm, view: AttackerView) -> None:
    with tpm.policy_session() as session:
        _policy_or_alien(tpm, view, session)


def _duplicate_selected(tpm: Tpm, view: AttackerView) -> None:
    """TPM2_Duplicate of the wanted key in a session that PolicyDuplicationSelect made for it."""
    with loaded(tpm, view.blobs, view.key) as handle, tpm.policy_session() as session:
        _duplication_select(tpm, view, session)
        duplicate_to_software(tpm, handle, session)


def _restarted(tpm: Tpm, view: AttackerView) -> None:
    """PolicyRestart between approval and use: does anything of the approval stay?"""
    with approved(tpm, view) as (handle, session):
        tpm.run("policy_restart", session_handle=session)
        limit(tpm, session, TPM2_CC.ECDH_ZGen)
        tpm.run("ecdh_zgen", key_handle=handle, in_point=ecc_point(view.wrap_point), session1=session)


def _event_extended(tpm: Tpm, view: AttackerView) -> None:
    """TPM2_PCR_Event, to write into a PCR what it should hold: it extends, as everything does."""
    approval = view.approval_of_another_state()
    digest, pcrs = approval.pcr_digest, pcr_selection(approval.selection)
    tpm.run("pcr_event", pcr_handle=ESYS_TR(EXTENDED_PCR), event_data=digest, session1=ESYS_TR.PASSWORD)
    with tpm.policy_session() as session:
        tpm.run("policy_pcr", policy_session=session, pcr_digest=digest, pcrs=pcrs)


ATTACKS = (
    *(
        Attack(
            f"{name}-instead-of-pcrs",
            f"{says} in place of PolicyPCR, then the genuine approval of another state",
            _instead_of_pcrs(assertion),
            "policy_authorize",
            {"VALUE"},
        )
        for name, says, assertion in ASSERTIONS
    ),
    *(
        Attack(
            f"{name}-instead-of-command",
            f"{says} in place of PolicyCommandCode, after an approval that fits",
            _after_approval(assertion),
            "ecdh_zgen",
            {"POLICY_FAIL"},
        )
        for name, says, assertion in ASSERTIONS
    ),
    Attack(
        "or-of-approved",
        "PolicyOR that lists the approved policy only, in a session that has not reached it",
        _alien_branches,
        "policy_or",
        {"VALUE"},
    ),
    Attack(
        "duplicate-selected",
        "TPM2_Duplicate of the profile key in a session of PolicyDuplicationSelect",
        _duplicate_selected,
        "duplicate",
        {"POLICY_FAIL"},
    ),
    Attack(
        "approval-restarted",
        "PolicyRestart between approval and use",
        _restarted,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
    Attack(
        "pcr-event",
        f"TPM2_PCR_Event on PCR {EXTENDED_PCR} with the approved digest, then PolicyPCR with it",
        _event_extended,
        "policy_pcr",
        {"VALUE"},
    ),
)
