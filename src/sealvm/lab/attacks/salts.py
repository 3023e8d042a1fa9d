"""Sessions salted to the profile key and to the import parent: the one use of a private key that asks no policy.

TPM2_StartAuthSession computes the shared point of any loaded decryption key and a point of the caller's, whatever the
key's policy. It gives away no more than a session whose HMAC key is derived from that point under the label SECRET.
So a guess of the shared point can be tried against it, and nothing else; a point off the curve, with which such a use
would leak the scalar, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sealvm.lab.attacks.view import Attack, AttackerView
from sealvm.tcg.marshal import Reader, b2
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.profile_key import loaded
from sealvm.tpm.raw import handle_of, run_raw
from sealvm.tpm.structures import TPM2_ALG, TPM2_CC, TPM2_RH, TPM2_SE, ecc_point

_OFF_CURVE = (bytes(31) + b"\x01", bytes(31) + b"\x01")
_INFINITY = (bytes(32), bytes(32))
_ANY_GUESS = bytes(31) + b"\x01"
_GET_RANDOM_BYTES = 8


def salted_session(tpm: Tpm, key: Any, salt_point: tuple[bytes, bytes]) -> int:
    """An HMAC session salted by this point to this key; its TPM handle. The caller flushes it (`end_session`)."""
    answer = run_raw(
        tpm,
        "start_auth_session",
        int(TPM2_CC.StartAuthSession),
        handles=[handle_of(tpm, key), int(TPM2_RH.NULL)],
        parameters=b2(bytes(32))
        + b2(b2(salt_point[0]) + b2(salt_point[1]))
        + bytes([int(TPM2_SE.HMAC)])
        + int(TPM2_ALG.NULL).to_bytes(2, "big")
        + int(TPM2_ALG.SHA256).to_bytes(2, "big"),
    )
    return Reader(answer[:4], "session handle").u32()


def end_session(tpm: Tpm, session: int) -> None:
    """TPM2_FlushContext of a session that `salted_session` made."""
    run_raw(tpm, "flush_context", int(TPM2_CC.FlushContext), parameters=session.to_bytes(4, "big"))


def _guess(tpm: Tpm, key: Any, salt_point: tuple[bytes, bytes]) -> None:
    """Use a session with a guessed HMAC: what it takes to learn whether a guess of the shared point is right."""
    session = salted_session(tpm, key, salt_point)
    try:
        run_raw(
            tpm,
            "get_random",
            int(TPM2_CC.GetRandom),
            session=session,
            hmac=_ANY_GUESS,
            audit=True,
            parameters=_GET_RANDOM_BYTES.to_bytes(2, "big"),
        )
    finally:
        end_session(tpm, session)


def _wrap_as_salt(tpm: Tpm, view: AttackerView) -> None:
    with loaded(tpm, view.blobs, view.key) as key:
        _guess(tpm, key, (view.wrap_point[1:33], view.wrap_point[33:]))


def _seed_as_salt(tpm: Tpm, view: AttackerView) -> None:
    reader = Reader(view.duplicate.in_sym_seed, "duplication seed")
    point = (reader.sized16(), reader.sized16())
    with _parent(tpm, view) as parent:
        _guess(tpm, parent, point)


def _with_key(point: tuple[bytes, bytes]) -> Callable[[Tpm, AttackerView], None]:
    def run(tpm: Tpm, view: AttackerView) -> None:
        with loaded(tpm, view.blobs, view.key) as key:
            end_session(tpm, salted_session(tpm, key, point))

    return run


def _with_parent(point: tuple[bytes, bytes]) -> Callable[[Tpm, AttackerView], None]:
    def run(tpm: Tpm, view: AttackerView) -> None:
        with _parent(tpm, view) as parent:
            end_session(tpm, salted_session(tpm, parent, point))

    return run


def _salted_zgen(tpm: Tpm, view: AttackerView) -> None:
    """A policy session salted to the very key that it is to use."""
    with loaded(tpm, view.blobs, view.key) as key, tpm.policy_session(salt=key) as session:
        tpm.run("policy_command_code", policy_session=session, code=TPM2_CC.ECDH_ZGen)
        tpm.run("ecdh_zgen", key_handle=key, in_point=ecc_point(view.wrap_point), session1=session)


def _parent(tpm: Tpm, view: AttackerView) -> Any:
    return keys.import_parent(tpm, view.blobs.import_parent_public, view.blobs.import_parent_private)


ATTACKS = (
    Attack(
        "salt-of-the-wrap",
        "a session salted to the profile key by the wrap's point, used with a guessed HMAC",
        _wrap_as_salt,
        "get_random",
        {"AUTH_FAIL", "BAD_AUTH"},
    ),
    Attack(
        "salt-of-the-duplicate",
        "a session salted to the import parent by the duplicate's point, used with a guessed HMAC",
        _seed_as_salt,
        "get_random",
        {"AUTH_FAIL", "BAD_AUTH"},
    ),
    *(
        Attack(
            f"salt-{name}-{where}",
            f"a session salted to the {what} by {says}",
            tried(point),
            "start_auth_session",
            {"VALUE", "ECC_POINT"},
        )
        for where, what, tried in (("key", "profile key", _with_key), ("parent", "import parent", _with_parent))
        for name, says, point in (
            ("off-curve", "a point off the curve", _OFF_CURVE),
            ("infinity", "the point at infinity", _INFINITY),
        )
    ),
    Attack(
        "salted-to-the-key",
        "ECDH_ZGen in a session salted to the profile key itself",
        _salted_zgen,
        "ecdh_zgen",
        {"POLICY_FAIL"},
    ),
)
