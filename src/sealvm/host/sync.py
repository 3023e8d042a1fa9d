"""Synchronising with the authority: the host proves its present state and fetches what is new.

Idempotent and resumable, in this order: keys are stored one by one; the trust bundle, then the anchor with its version;
disks are wrapped to the epochs that the bundle says to wrap to; keys that nothing needs any more are removed; what the
host has is reported. A crash in between leaves every file old or new, and the next run does what is missing.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sealvm.client.authority import AuthorityClient
from sealvm.client.trust import report_inventory
from sealvm.crypto.ec import keyid_of
from sealvm.errors import ConflictError, NotFoundError, StorageFault
from sealvm.host.bundles import no_earlier_than, refuse_clock_set_back, store_bundle, verify_offered
from sealvm.host.config import HostConfig, load_host
from sealvm.host.disks import inventory, settle
from sealvm.host.explain import read_ima_log
from sealvm.host.files import read_limited
from sealvm.host.keyring import Keyring
from sealvm.host.preimages import present_preimages
from sealvm.protocol.answer import accept_answer
from sealvm.protocol.enroll import quote_nonce
from sealvm.protocol.messages import EVENT_LOG_BYTES_LIMIT, QuotedState, SyncAnswer, SyncRequest
from sealvm.statements.bundle import TrustBundle
from sealvm.tcg.duplicate import DuplicateBlob
from sealvm.tcg.imalog import IMA_PCR
from sealvm.tcg.public import name_of, parse_public
from sealvm.tpm import identity, pcr, profile_key
from sealvm.tpm.connection import Tpm
from sealvm.tpm.identity import HostIdentityBlobs
from sealvm.tpm.profile_key import SealedKey

CA_LIMIT_BYTES = 64 * 1024
QUOTE_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What an enrollment or synchronisation brought. Keys: (profile, epoch, cell).

    rewrapped: instances whose disks were wrapped to other epochs. waiting: instances where that did not succeed yet,
    and why.
    """

    host: str
    host_id: str
    trust_class: str
    events: int
    new_keys: tuple[tuple[str, int, str], ...]
    all_keys: tuple[tuple[str, int, str], ...]
    bundle_version: int
    bundle_expires: datetime
    rewrapped: tuple[str, ...] = ()
    waiting: tuple[tuple[str, str], ...] = ()
    removed_keys: tuple[tuple[str, int, str], ...] = ()


class HostRequestSigner:
    """The host's request key as a Signer that takes its turn at the TPM for each signature, and only for that long."""

    def __init__(self, config: HostConfig, blobs: HostIdentityBlobs) -> None:
        self._config = config
        self._blobs = blobs
        self._point = parse_public(blobs.request_key_public, "request key").point

    @property
    def point(self) -> bytes:
        """The public key, 65 bytes."""
        return self._point

    @property
    def keyid(self) -> str:
        """Its keyid, by which the authority knows this host."""
        return keyid_of(self._point)

    def sign_digest(self, digest: bytes) -> bytes:
        """A DER ECDSA signature by the TPM. TpmAwayFault, TpmFault."""
        with self._config.open_tpm() as tpm:
            return identity.request_signer(tpm, self._blobs).sign_digest(digest)


def sync(directory: Path) -> SyncReport:
    """Bring the host in `directory` up to date with its authority.

    Raises NotFoundError before enrollment, AccessRefused when the authority does not know this host's request key,
    EvidenceRefused when its state does not hold together, AuthorityAwayFault, TpmAwayFault, TpmFault, and what
    `accept_answer` raises. What was stored before stays usable.
    """
    config = load_host(directory)
    keyring = Keyring(directory)
    blobs = keyring.identity().blobs
    refuse_clock_set_back(keyring.anchor(), datetime.now(UTC))
    with exclusive(config), connect(config, blobs) as client:
        challenge = client.sync_challenge()
        with config.open_tpm() as tpm:
            state = quoted_state(tpm, config, challenge.pcrs, quote_nonce("sync-quote", challenge.nonce))
        held = keyring.keys()
        have = tuple(name_of(key.public) for key in held)
        answer = client.sync(SyncRequest(session=challenge.session, have=have, state=state))
        report = store_answer(config, answer, datetime.now(UTC))
        report_inventory(client, inventory(config, report.bundle_version))
        return report


def import_bundle(directory: Path, envelope: bytes) -> TrustBundle:
    """Take a trust bundle that was carried here by hand, and do for the disks what a synchronisation does.

    It brings approvals and provisioners; keys of new epochs come with a synchronisation only. Raises as
    `bundles.verify_offered`, and ConflictError while the host synchronises.
    """
    config = load_host(directory)
    with exclusive(config):
        keyring = Keyring(directory)
        bundle = verify_offered(keyring.anchor(), envelope, datetime.now(UTC))
        store_bundle(keyring, bundle, envelope, None)
        settle(config, bundle)
    return bundle


def connect(config: HostConfig, blobs: HostIdentityBlobs) -> AuthorityClient:
    """A client that signs as this host. NotFoundError when the host does not know its authority."""
    if not config.authority_url or config.ca_file is None:
        raise NotFoundError(f"host {config.name} knows no authority", hint="enroll it first with: sealvm host enroll")
    ca_pem = read_limited(config.ca_file, CA_LIMIT_BYTES).decode(errors="replace")
    return AuthorityClient(config.authority_url, ca_pem, signer=HostRequestSigner(config, blobs))


def quoted_state(tpm: Tpm, config: HostConfig, pcrs: Iterable[int], nonce: bytes) -> QuotedState:
    """A quote of `pcrs` over `nonce`, with the boot log and preimages of this host, and IMA's log if PCR 10 is quoted.

    That log is read after the quote, so that it has all the quote covers, and perhaps more. A host that has none to
    show must state the value of PCR 10 that was quoted: a few attempts are made to catch it at rest.
    """
    selection = tuple(pcrs)
    log = read_limited(
        config.eventlog,
        EVENT_LOG_BYTES_LIMIT,
        hint="the kernel shows the boot log only when it booted by UEFI with a TPM",
    )
    for _attempt in range(QUOTE_ATTEMPTS):
        values = pcr.read(tpm, selection)
        attest, signature = identity.quote(tpm, selection, nonce)
        ima_log = read_ima_log(config) if IMA_PCR in selection else None
        if ima_log is not None or IMA_PCR not in selection or pcr.read(tpm, selection) == values:
            break
    return QuotedState(
        attest=attest,
        signature=signature,
        event_log=log,
        preimages=present_preimages(config),
        pcr_values=values,
        ima_log=ima_log,
    )


def store_answer(config: HostConfig, answer: SyncAnswer, now: datetime) -> SyncReport:
    """Check the authority's answer against the pinned anchor, import its keys into the TPM, and store everything."""
    keyring = Keyring(config.directory)
    keyring.sweep()
    anchor, own = keyring.anchor(), keyring.identity()
    refuse_clock_set_back(anchor, now)
    accepted = accept_answer(answer, anchor.point, no_earlier_than(anchor, now), anchor.version, anchor.issued)
    with config.open_tpm() as tpm:
        sealed = [
            SealedKey(
                profile=key.profile,
                epoch=key.epoch,
                cell=key.cell,
                mode=key.mode,
                public=key.public,
                private=profile_key.import_key(
                    tpm, own.blobs, DuplicateBlob(key.public, key.duplicate, key.in_sym_seed)
                ),
            )
            for key in accepted.keys
        ]
    for key in sealed:
        keyring.save_key(key)
    store_bundle(keyring, accepted.bundle, accepted.envelope, answer.time)
    if own.host_id != accepted.host_id:
        keyring.save_identity(dataclasses.replace(own, host_id=accepted.host_id))
    settled = settle(config, accepted.bundle)
    held = keyring.keys()
    return SyncReport(
        host=accepted.host,
        host_id=accepted.host_id,
        trust_class=accepted.trust_class,
        events=accepted.events,
        new_keys=tuple((key.profile, key.epoch, key.cell) for key in sealed),
        all_keys=tuple((key.profile, key.epoch, key.cell) for key in held),
        bundle_version=accepted.bundle.version,
        bundle_expires=accepted.bundle.expires,
        rewrapped=settled.rewrapped,
        waiting=settled.waiting,
        removed_keys=settled.removed_keys,
    )


@contextmanager
def exclusive(config: HostConfig) -> Iterator[None]:
    """No other enrollment or synchronisation of this host runs meanwhile; ConflictError when one does."""
    path = config.directory / "sync.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFault(f"{path} cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"host {config.name} is enrolling or synchronising already", hint="wait for it to finish"
            ) from error
        yield
    finally:
        os.close(descriptor)
