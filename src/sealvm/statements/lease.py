"""Leases: what the lease key signs so that a host may use a leased profile key for a while, and nothing else.

    authorization   H(host policy || RA)                          once per boot of a host
    grant           H(nonceTPM || expiration i32 || RS)           each renewal

Both are ECDSA P-256 over these SHA-256 digests as they are: the very digests that TPM2_PolicyAuthorize and
TPM2_PolicySigned check. They are made here from names and numbers only, never from a digest that somebody hands in, and
a grant only over a nonceTPM of exactly 32 bytes with a negative expiration: other sizes could be read as another
statement, and a grant that is not bound to a session never ends. Specification: docs/spec/lease-v1.md.

A lease key cannot approve a state: no policy of a profile key asks for its signature alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from sealvm.crypto.ec import Signer, verify_digest
from sealvm.crypto.labels import label_digest, u32
from sealvm.errors import MalformedError, SignatureRefused
from sealvm.statements.encoding import Base64Bytes, CellName, Epoch, ObjectName, Point
from sealvm.tcg import policy
from sealvm.tcg.public import name_of
from sealvm.tcg.templates import verifier_public

NONCE_TPM_BYTES = 32
MAX_SECONDS = 31 * 86400
"""No lease is longer, whatever a profile says; TPM2_PolicySigned itself would accept 68 years."""
MAX_RESET_COUNT = 0xFFFFFFFF

Signature = Annotated[Base64Bytes, Field(min_length=8, max_length=80)]


@dataclass(frozen=True, slots=True)
class LeaseKey:
    """Which profile key on which host a lease is about, and who signs: the host's SRK by its Name, 34 bytes."""

    profile: str
    epoch: int
    cell: str
    srk_name: bytes
    lease_point: bytes

    @property
    def authorize_ref(self) -> bytes:
        """RA."""
        return policy.lease_authorize_ref(self.profile, self.epoch, self.cell)

    @property
    def signed_ref(self) -> bytes:
        """RS."""
        return policy.lease_signed_ref(self.profile, self.epoch, self.cell, self.srk_name)

    @property
    def lease_name(self) -> bytes:
        """The Name of the lease key's public area, as TPM2_LoadExternal takes it."""
        return name_of(verifier_public(self.lease_point))

    def host_policy(self, reset_count: int) -> bytes:
        """The policy digest that the host reaches in the boot with this resetCount, 32 bytes."""
        return policy.host_policy(self.srk_name, reset_count, self.lease_name, self.signed_ref)

    @property
    def what(self) -> str:
        """For messages."""
        return f"lease of profile '{self.profile}' epoch {self.epoch}" + (f" cell '{self.cell}'" if self.cell else "")


@dataclass(frozen=True, slots=True)
class SignedLease:
    """What a renewal brings, in public: authorization for the boot, and grant for the session that asked.

    `seconds` is the term, counted from the start of that session. Nothing vouches for it before `verify_lease`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", hide_input_in_errors=True)

    profile: ObjectName
    epoch: Epoch
    cell: CellName
    lease_point: Point
    reset_count: Annotated[int, Field(ge=0, le=MAX_RESET_COUNT, strict=True)]
    authorization: Signature
    seconds: Annotated[int, Field(ge=1, le=MAX_SECONDS, strict=True)]
    grant: Signature


def authorization_digest(key: LeaseKey, reset_count: int) -> bytes:
    """What the lease key signs once per boot: the aHash of TPM2_PolicyAuthorize, 32 bytes."""
    if not 0 <= reset_count <= MAX_RESET_COUNT:
        raise MalformedError(f"{key.what}: resetCount {reset_count} is no u32")
    return hashlib.sha256(key.host_policy(reset_count) + key.authorize_ref).digest()


def grant_digest(key: LeaseKey, nonce_tpm: bytes, seconds: int) -> bytes:
    """What the lease key signs at each renewal: the aHash of TPM2_PolicySigned with an empty cpHashA, 32 bytes.

    MalformedError unless the nonce has exactly 32 bytes and `seconds` is 1 to MAX_SECONDS.
    """
    if len(nonce_tpm) != NONCE_TPM_BYTES:
        raise MalformedError(f"{key.what}: nonceTPM has {len(nonce_tpm)} bytes, expected exactly {NONCE_TPM_BYTES}")
    expiration = expiration_of(seconds, key.what)
    return hashlib.sha256(nonce_tpm + expiration.to_bytes(4, "big", signed=True) + key.signed_ref).digest()


def expiration_of(seconds: int, what: str = "lease") -> int:
    """The expiration that TPM2_PolicySigned takes: negative, since zero or more gives no ticket. MalformedError."""
    if not 1 <= seconds <= MAX_SECONDS:
        raise MalformedError(f"{what}: a term of {seconds} s, expected 1 to {MAX_SECONDS}")
    return -seconds


def sign_lease(signer: Signer, key: LeaseKey, *, reset_count: int, nonce_tpm: bytes, seconds: int) -> SignedLease:
    """Authorization and grant of one renewal. MalformedError as the digests; ValueError for another signer's key.

    The caller must have verified a fresh quote over `quote_data`, which gave `reset_count`.
    """
    return SignedLease(
        profile=key.profile,
        epoch=key.epoch,
        cell=key.cell,
        lease_point=signer.point,
        reset_count=reset_count,
        authorization=sign_authorization(signer, key, reset_count),
        seconds=seconds,
        grant=sign_grant(signer, key, nonce_tpm, seconds),
    )


def sign_authorization(signer: Signer, key: LeaseKey, reset_count: int) -> bytes:
    """The lease key's signature for one boot of one host, DER."""
    _check_signer(signer, key)
    return signer.sign_digest(authorization_digest(key, reset_count))


def sign_grant(signer: Signer, key: LeaseKey, nonce_tpm: bytes, seconds: int) -> bytes:
    """The lease key's signature for one session of one host, DER."""
    _check_signer(signer, key)
    return signer.sign_digest(grant_digest(key, nonce_tpm, seconds))


def verify_lease(lease: SignedLease, key: LeaseKey, nonce_tpm: bytes) -> None:
    """Return only if `lease` is this key's, with both signatures good for `nonce_tpm`.

    SignatureRefused, MalformedError. For clear errors: the TPM checks the same once more. The caller compares
    reset_count with its TPM's.
    """
    claimed = (lease.profile, lease.epoch, lease.cell, lease.lease_point)
    if claimed != (key.profile, key.epoch, key.cell, key.lease_point):
        raise SignatureRefused(f"{key.what}: the answer is about another profile key, or another lease key signed it")
    for name, digest, signature in (
        ("authorization", authorization_digest(key, lease.reset_count), lease.authorization),
        ("grant", grant_digest(key, nonce_tpm, lease.seconds), lease.grant),
    ):
        try:
            verify_digest(key.lease_point, digest, signature)
        except SignatureRefused as error:
            raise SignatureRefused(f"{key.what}: the {name}'s signature does not verify") from error


def quote_data(challenge: bytes, nonce_tpm: bytes, key: LeaseKey) -> bytes:
    """Qualifying data of the quote that asks for a lease, 32 bytes: the authority's challenge makes it fresh, nonceTPM
    ties it to the session, the rest to what is asked for. MalformedError for another size of nonceTPM."""
    if len(nonce_tpm) != NONCE_TPM_BYTES:
        raise MalformedError(f"{key.what}: nonceTPM has {len(nonce_tpm)} bytes, expected exactly {NONCE_TPM_BYTES}")
    parts = (key.srk_name, key.profile.encode(), u32(key.epoch), key.cell.encode())
    return label_digest("lease-quote", challenge, nonce_tpm, *parts)


def _check_signer(signer: Signer, key: LeaseKey) -> None:
    if signer.point != key.lease_point:
        raise ValueError("a lease is signed by the lease key that its host policy names")
