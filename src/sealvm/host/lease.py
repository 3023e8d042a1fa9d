"""Renewing leases: the host quotes its state over a session of its TPM, and gets a ticket for one term.

1. The authority gives a challenge.
2. A policy session begins in the TPM and is put aside; the state is quoted over challenge and session.
3. The authority answers with the lease, which is checked against the lease key that the trust bundle's approvals name.
4. The TPM turns it into a ticket in that session; the ticket is stored.

Nothing is lost when a step fails: the lease before it goes on to its end. The TPM is free for others while the network
is asked. Specification: docs/spec/lease-v1.md.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from sealvm.client.authority import AuthorityClient
from sealvm.errors import ConflictError, NotFoundError, StorageFault, TpmFault
from sealvm.host.config import HostConfig
from sealvm.host.keyring import Keyring, StoredLease
from sealvm.host.sync import connect, quoted_state
from sealvm.host.unlock import stored_bundle
from sealvm.protocol.lease import LeaseRequest, accept_answer
from sealvm.protocol.messages import QuotedState
from sealvm.statements.bundle import TrustBundle
from sealvm.statements.lease import LeaseKey, quote_data
from sealvm.tcg.policy import MODE_LEASED
from sealvm.tpm import leases
from sealvm.tpm.leases import LeaseSession
from sealvm.tpm.profile_key import SealedKey

TURN_LIMIT_SECONDS = 60.0


def renew(config: HostConfig, profile: str, epoch: int, cell: str) -> StoredLease:
    """Renew the lease for one profile key of this host.

    Raises NotFoundError for a key that this host does not hold, ConflictError for one that is not leased, or when no
    state is approved for it; StateRefused or AccessRefused when the authority refuses; AuthorityAwayFault; TpmFault.
    """
    keyring = Keyring(config.directory)
    sealed = keyring.key(profile, epoch, cell)
    key = _lease_key(keyring, stored_bundle(keyring), sealed)
    with _turn(config), connect(config, keyring.identity().blobs) as client:
        lease = _renewed(config, client, key)
        keyring.save_lease(lease)
    return lease


def _lease_key(keyring: Keyring, bundle: TrustBundle, sealed: SealedKey) -> LeaseKey:
    if sealed.mode != MODE_LEASED:
        raise ConflictError(f"the key of {sealed.what} is not leased", hint="it needs no lease")
    listed = bundle.epoch_of(sealed.profile, sealed.epoch, sealed.cell)
    if listed is None or not listed.approvals:
        raise ConflictError(
            f"no state is approved for the key of {sealed.what}, so no lease would help",
            hint="fetch the present approvals with: sealvm host sync",
        )
    point = listed.approvals[-1].lease_point
    return LeaseKey(sealed.profile, sealed.epoch, sealed.cell, keyring.identity().srk_name, point)


def _renewed(config: HostConfig, client: AuthorityClient, key: LeaseKey) -> StoredLease:
    challenge = client.lease_challenge()  # 1
    began = datetime.now(UTC).replace(microsecond=0)
    session, state = _asked(config, key, challenge.nonce, challenge.pcrs)  # 2
    try:
        request = LeaseRequest(
            session=challenge.session,
            profile=key.profile,
            epoch=key.epoch,
            cell=key.cell,
            nonce_tpm=session.nonce_tpm,
            state=state,
        )
        answer = client.renew_lease(request)
        signed = accept_answer(answer, key, nonce_tpm=session.nonce_tpm, reset_count=session.reset_count)  # 3
    except BaseException:
        with config.open_tpm() as tpm, suppress(TpmFault):
            leases.abandon(tpm, session)
        raise
    with config.open_tpm() as tpm:
        return StoredLease(leases.finish(tpm, session, key, signed), began)  # 4


def _asked(
    config: HostConfig, key: LeaseKey, challenge: bytes, pcrs: tuple[int, ...]
) -> tuple[LeaseSession, QuotedState]:
    with config.open_tpm() as tpm:
        leases.sweep_abandoned(tpm)
        session = leases.begin(tpm)
        try:
            return session, quoted_state(tpm, config, pcrs, quote_data(challenge, session.nonce_tpm, key))
        except BaseException:
            with suppress(TpmFault):
                leases.abandon(tpm, session)
            raise


@contextmanager
def _turn(config: HostConfig) -> Iterator[None]:
    """One renewal of this host at a time. ConflictError when another takes longer than TURN_LIMIT_SECONDS."""
    path = config.directory / "lease.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise NotFoundError(f"{config.directory} does not exist") from error
    except OSError as error:
        raise StorageFault(f"{path} cannot be opened: {error.strerror}") from error
    try:
        deadline = time.monotonic() + TURN_LIMIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as busy:
                if time.monotonic() > deadline:
                    raise ConflictError(f"host {config.name} is renewing a lease already", hint="wait for it") from busy
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
