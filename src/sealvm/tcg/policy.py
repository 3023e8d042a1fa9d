"""Policy digests, computed as the TPM computes them, and the two policies of sealvm's keys.

Every function takes the digest so far and returns the next, 32 bytes each; ZERO begins a session. Specification:
docs/spec/tpm-policy-v1.md; Part 3, section 23.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from sealvm.crypto.labels import label_digest, u32
from sealvm.errors import MalformedError
from sealvm.tcg import algorithms as alg
from sealvm.tcg.pcr import PcrSelection

ZERO: Final = bytes(32)
MAX_NAME_BYTES: Final = 1024
NAME_BYTES: Final = 34  # of an object whose name hash is SHA-256

MODE_STANDING: Final = "standing"
MODE_LEASED: Final = "leased"
MODE_HOST_STANDING: Final = "host-standing"
MODE_HOST_LEASED: Final = "host-leased"
MODES: Final = (MODE_STANDING, MODE_LEASED, MODE_HOST_STANDING, MODE_HOST_LEASED)

_OPERATION_EQ: Final = 0x0000  # TPM_EO_EQ, Part 2 section 6.8
_RESET_COUNT_OFFSET: Final = 0x0010  # of resetCount in TPMS_TIME_INFO, Part 2 section 10.10.6


def cmd(digest: bytes, command_code: int) -> bytes:
    """PolicyCommandCode: only this command."""
    return _extend(digest, alg.CC_POLICY_COMMAND_CODE, u32(command_code))


def pcr(digest: bytes, selection: Iterable[int], pcr_digest: bytes) -> bytes:
    """PolicyPCR: only while the selected PCRs have this digest (`pcr.pcr_digest`)."""
    return _extend(digest, alg.CC_POLICY_PCR, PcrSelection(selection).marshal() + pcr_digest)


def authorize(name: bytes, policy_ref: bytes) -> bytes:
    """PolicyAuthorize: whatever policy the key `name` signed under `policy_ref`. It replaces the digest so far."""
    return _hash(_extend(ZERO, alg.CC_POLICY_AUTHORIZE, name) + policy_ref)


def secret(digest: bytes, name: bytes, policy_ref: bytes = b"") -> bytes:
    """PolicySecret: only with the authorization of the object `name`. An empty reference hashes twice all the same."""
    return _hash(_extend(digest, alg.CC_POLICY_SECRET, name) + policy_ref)


def signed(digest: bytes, name: bytes, policy_ref: bytes) -> bytes:
    """PolicySigned: only with a signature of the key `name` under `policy_ref`."""
    return _hash(_extend(digest, alg.CC_POLICY_SIGNED, name) + policy_ref)


def counter_timer(digest: bytes, reset_count: int) -> bytes:
    """PolicyCounterTimer: only while resetCount equals this, that is, until the TPM is reset."""
    operand = u32(reset_count) + _RESET_COUNT_OFFSET.to_bytes(2, "big") + _OPERATION_EQ.to_bytes(2, "big")
    return _extend(digest, alg.CC_POLICY_COUNTER_TIMER, _hash(operand))


def or_(*branches: bytes) -> bytes:
    """PolicyOR of 2 to 8 branches. ValueError for another number, a caller's mistake."""
    if not 2 <= len(branches) <= 8:
        raise ValueError(f"PolicyOR takes 2 to 8 branches, got {len(branches)}")
    return _extend(ZERO, alg.CC_POLICY_OR, b"".join(branches))


def profile_ref(profile: str, epoch: int, cell: str, mode: str) -> bytes:
    """R, the policyRef that ties an approval to one profile key: 32 bytes.

    MalformedError for an epoch that is not 1..2^32-1, an unknown mode, or a name that UTF-8 cannot hold or that is
    longer than 1024 bytes.
    """
    if mode not in MODES:
        raise MalformedError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    return label_digest("profile", *_key_parts(profile, epoch, cell), mode.encode())


def lease_authorize_ref(profile: str, epoch: int, cell: str) -> bytes:
    """RA, the policyRef under which the lease key authorizes a host's policy, once per boot: 32 bytes.

    MalformedError as `profile_ref`.
    """
    return label_digest("lease-authorize", *_key_parts(profile, epoch, cell))


def lease_signed_ref(profile: str, epoch: int, cell: str, srk_name: bytes) -> bytes:
    """RS, the policyRef under which the lease key signs a grant, for one host's SRK and no other: 32 bytes.

    It differs from RA, and names the SRK, so that a grant is never an authorization and never another host's.
    MalformedError as `profile_ref`, and for an SRK Name that has not 34 bytes.
    """
    if len(srk_name) != NAME_BYTES:
        raise MalformedError(f"SRK Name: {len(srk_name)} bytes, expected {NAME_BYTES}")
    return label_digest("lease-signed", *_key_parts(profile, epoch, cell), srk_name)


def rule_ref(profile: str, epoch: int, cell: str) -> bytes:
    """RU, the policyRef under which a rule key approves states of one profile key: 32 bytes.

    MalformedError as `profile_ref`.
    """
    return label_digest("rule", *_key_parts(profile, epoch, cell))


def profile_key_policy(approver_name: bytes, policy_ref: bytes) -> bytes:
    """authPolicy of a profile key: what the approver approved under `policy_ref`, and then only TPM2_ECDH_ZGen."""
    return cmd(authorize(approver_name, policy_ref), alg.CC_ECDH_ZGEN)


def approved_standing(selection: Iterable[int], pcr_digest: bytes) -> bytes:
    """The policy that a standing approval approves: PolicyPCR alone."""
    return pcr(ZERO, selection, pcr_digest)


def approved_leased(lease_name: bytes, authorize_ref: bytes, selection: Iterable[int], pcr_digest: bytes) -> bytes:
    """The policy that a leased approval approves: what the lease key authorized under RA, then PolicyPCR."""
    return pcr(authorize(lease_name, authorize_ref), selection, pcr_digest)


def approved_by_rule(rule_name: bytes, ref: bytes) -> bytes:
    """The policy that a delegation approves: whatever the rule key approves under RU."""
    return authorize(rule_name, ref)


def host_policy(srk_name: bytes, reset_count: int, lease_name: bytes, signed_ref: bytes) -> bytes:
    """The policy that a lease authorizes: this TPM's SRK, this boot, and a grant by the lease key under RS."""
    return signed(counter_timer(secret(ZERO, srk_name), reset_count), lease_name, signed_ref)


def _key_parts(profile: str, epoch: int, cell: str) -> tuple[bytes, bytes, bytes]:
    if not 1 <= epoch <= 0xFFFFFFFF:
        raise MalformedError(f"epoch {epoch}: expected 1 to 4294967295")
    return _name_bytes("profile", profile), u32(epoch), _name_bytes("cell", cell)


def _name_bytes(what: str, name: str) -> bytes:
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedError(f"{what} name: not representable in UTF-8") from None
    if len(encoded) > MAX_NAME_BYTES:
        raise MalformedError(f"{what} name: {len(encoded)} bytes, at most {MAX_NAME_BYTES} are allowed")
    return encoded


def _extend(digest: bytes, command_code: int, arguments: bytes) -> bytes:
    return _hash(digest + u32(command_code) + arguments)


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


IMPORT_PARENT_BRANCHES: Final = (cmd(ZERO, alg.CC_IMPORT), cmd(ZERO, alg.CC_LOAD), cmd(ZERO, alg.CC_CERTIFY))
"""The branches of IMPORT_PARENT_POLICY in the order PolicyOR wants them: Import, Load, Certify."""

IMPORT_PARENT_POLICY: Final = or_(*IMPORT_PARENT_BRANCHES)
"""authPolicy of the import parent: Import, Load and Certify, hence never Rewrap."""
