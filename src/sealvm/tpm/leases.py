"""Leases in a host's TPM: asking for one in a session, turning a grant into a ticket, and using the ticket.

A lease is asked for with the nonceTPM of a policy session that is used for nothing else. The grant that the authority
signs over it is presented in that very session (TPM2_PolicySigned), which gives a *ticket*; the ticket then serves
every use until it ends (TPM2_PolicyTicket). The TPM checks the end when the key is used, so a session that was
satisfied before is no use afterwards. The session is unsalted and kept as a saved context while the authority is asked,
so that nobody waits for the TPM meanwhile. Specification: docs/spec/lease-v1.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from sealvm.errors import ConflictError, SignatureRefused, TpmFault
from sealvm.statements.encoding import HexBytes
from sealvm.statements.lease import LeaseKey, SignedLease, expiration_of, verify_lease
from sealvm.tpm import authorization, responses
from sealvm.tpm.authorization import Authorization
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import (
    ESYS_TR,
    TICKET_LIMIT_BYTES,
    TIMEOUT_LIMIT_BYTES,
    TPM2_EO,
    auth_ticket,
    operand,
    signature_area,
    timeout_area,
    timeout_bytes,
)

_RESET_COUNT_OFFSET = 0x10  # of resetCount in TPMS_TIME_INFO


@dataclass(frozen=True, slots=True)
class LeaseSession:
    """A policy session of this TPM that waits for its grant: its nonceTPM (32 bytes), and its saved context."""

    nonce_tpm: bytes
    reset_count: int
    restart_count: int
    context: Any


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as this TPM granted it. `timeout` and `ticket` are TPM2B_TIMEOUT and the digest of TPMT_TK_AUTH;
    `restart_count`, with the signed reset_count, tells whether the TPM lost power since.

    Not secret: only this TPM takes the ticket, for one profile key, until its end.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", hide_input_in_errors=True)

    signed: SignedLease
    restart_count: Annotated[int, Field(ge=0, le=0xFFFFFFFF, strict=True)]
    timeout: Annotated[HexBytes, Field(min_length=1, max_length=TIMEOUT_LIMIT_BYTES)]
    ticket: Annotated[HexBytes, Field(min_length=1, max_length=TICKET_LIMIT_BYTES)]


def begin(tpm: Tpm) -> LeaseSession:
    """Start the session whose nonceTPM a grant must name, and save it. It must be finished or abandoned."""
    with tpm.policy_session() as session:
        nonce, counts = tpm.nonce(session), power_counts(tpm)
        context = tpm.run("context_save", "putting a lease's session aside", save_handle=session)
    return LeaseSession(nonce, *counts, context)


def power_counts(tpm: Tpm) -> tuple[int, int]:
    """resetCount and restartCount: how often this TPM was reset, and how often it woke from a suspend since.

    Other numbers mean that it lost power, and that earlier leases are void.
    """
    info = tpm.run("read_clock", "reading the TPM's clock").clockInfo
    return int(info.resetCount), int(info.restartCount)


def sweep_abandoned(tpm: Tpm) -> None:
    """End the saved sessions that a process left which died while it asked for a lease.

    Nobody else saves sessions, and the caller is the only one of its host that asks for a lease now. Behind a resource
    manager others' sessions are not to be seen, and are left alone.
    """
    tpm.sweep_saved()


def abandon(tpm: Tpm, session: LeaseSession) -> None:
    """End a session that will get no grant. TpmFault when the TPM was reset meanwhile, which ended it."""
    tpm.flush(tpm.run("context_load", "taking up a lease's session", context=session.context))


def finish(tpm: Tpm, session: LeaseSession, key: LeaseKey, signed: SignedLease) -> HeldLease:
    """TPM2_PolicySigned with the grant in the session that asked for it: the ticket, good for `signed.seconds`.

    The term began when the session did. ConflictError when the lease is for another boot; SignatureRefused when it does
    not verify, is another host's, or another session's; TpmFault when the TPM was reset meanwhile. Ends the session.
    """
    handle = tpm.run("context_load", "taking up a lease's session", context=session.context)
    with tpm.flushing(handle):
        if signed.reset_count != session.reset_count:
            raise ConflictError(
                f"{key.what}: it is for the boot with resetCount {signed.reset_count}, this is {session.reset_count}",
                hint="renew it again",
            )
        verify_lease(signed, key, session.nonce_tpm)
        with authorization.signer_key(tpm, key.lease_point, "lease key") as lease_key:
            try:
                timeout, ticket = tpm.run(
                    "policy_signed",
                    "presenting a lease's grant",
                    auth_object=lease_key,
                    policy_session=handle,
                    auth=signature_area(signed.grant),
                    nonce_tpm=session.nonce_tpm,
                    cp_hash_a=b"",
                    policy_ref=key.signed_ref,
                    expiration=expiration_of(signed.seconds),
                )
            except TpmFault as fault:
                if fault.fields.get("code") == responses.SIGNATURE:
                    raise SignatureRefused(f"{key.what}: the TPM does not take the grant's signature") from fault
                raise
    return HeldLease(signed, session.restart_count, timeout_bytes(timeout), bytes(ticket.digest))


def boot_authorization(key: LeaseKey, signed: SignedLease) -> Authorization:
    """The lease key's word for this host in this boot, as PolicyAuthorize takes it."""
    return Authorization(
        key.host_policy(signed.reset_count),
        key.authorize_ref,
        key.lease_point,
        signed.authorization,
        f"authorization of the {key.what}",
        "renew the lease with: sealvm host lease renew",
    )


@dataclass(frozen=True, slots=True)
class PreparedLease:
    """A lease whose authorization for this boot the TPM has verified: `ticket`."""

    key: LeaseKey
    lease: HeldLease
    ticket: Any

    def present(self, tpm: Tpm, session: Any, srk: Any) -> None:
        """Bring a session to what a leased approval builds on: PolicySecret(SRK), PolicyCounterTimer, PolicyTicket,
        PolicyAuthorize. The TPM's no is a TpmFault with `policy`."""
        bind_to_boot(tpm, session, srk, self.lease.signed.reset_count)
        tpm.run(
            "policy_ticket",
            "presenting a lease",
            policy_session=session,
            timeout=timeout_area(self.lease.timeout),
            cp_hash_a=b"",
            policy_ref=self.key.signed_ref,
            auth_name=self.key.lease_name,
            ticket=auth_ticket(self.lease.ticket),
        )
        authorization.present(tpm, session, boot_authorization(self.key, self.lease.signed), self.ticket)


def prepare(tpm: Tpm, key: LeaseKey, lease: HeldLease) -> PreparedLease:
    """Let the TPM verify the lease's authorization for this boot; SignatureRefused when it does not verify."""
    return PreparedLease(key, lease, authorization.ticket_for(tpm, boot_authorization(key, lease.signed)))


def bind_to_boot(tpm: Tpm, session: Any, srk: Any, reset_count: int) -> None:
    """PolicySecret with the SRK's empty password, and PolicyCounterTimer: this TPM, until it is reset."""
    tpm.run(
        "policy_secret",
        "binding a session to this TPM",
        auth_handle=srk,
        policy_session=session,
        nonce_tpm=b"",
        cp_hash_a=b"",
        policy_ref=b"",
        expiration=0,
        session1=ESYS_TR.PASSWORD,
    )
    tpm.run(
        "policy_counter_timer",
        "binding a session to this boot",
        policy_session=session,
        operand_b=operand(reset_count.to_bytes(4, "big")),
        offset=_RESET_COUNT_OFFSET,
        operation=TPM2_EO.EQ,
    )
