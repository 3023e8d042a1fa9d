"""Enrolling this host: its TPM proves itself to the authority and receives the profile keys
(docs/spec/enrollment-v1.md).

What is stored, in this order, each file whole or not at all: before the authority's answer the identity with an empty
host id and the anchor of the join ticket, so that a host whose answer was lost needs no new ticket (`host sync` fetches
it); after it the keys, the trust bundle, the anchor with its version, and the identity with its host id.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealvm.client.authority import AuthorityClient
from sealvm.errors import InputError, MalformedError, NotFoundError
from sealvm.host.config import HostConfig, load_host, save_host
from sealvm.host.files import read_limited
from sealvm.host.keyring import Anchor, HostIdentity, Keyring
from sealvm.host.sync import SyncReport, exclusive, quoted_state, store_answer
from sealvm.protocol import enroll as protocol
from sealvm.protocol.messages import EnrollChallenge, EnrollFinish, EnrollStart, JoinTicket
from sealvm.store.atomic import write_atomic
from sealvm.tcg.ekcert import MAX_INTERMEDIATES, ek_digest, split_certificates
from sealvm.tpm import identity, keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.identity import HostIdentityBlobs

CA_FILE = "authority-ca.pem"
CHAIN_LIMIT_BYTES = 64 * 1024


def read_ek_digest(config: HostConfig) -> str:
    """What an operator registers for this host: the digest of its EK, hex. TpmAwayFault, NotFoundError without one."""
    with config.open_tpm() as tpm:
        nv_index, _certificate = identity.read_ek_certificate(tpm, identity.EK_ORDERS[config.ek])
        return ek_digest(identity.create_ek(tpm, nv_index))


def enroll(directory: Path, ticket: JoinTicket) -> SyncReport:
    """Enroll the host in `directory` with an operator's join ticket; its keys and trust bundle are then stored.

    1. The TPM's keys are made, or taken from an earlier enrollment in the same TPM.
    2. EK certificate and all public areas are presented with the token; the answer is a challenge.
    3. The TPM activates the credential, certifies SRK, import parent and request key, and quotes.
    4. The answer is checked against the anchor in the ticket; then keys are imported and everything is stored.

    Raises EnrollmentRefused or EvidenceRefused naming the check, AuthorityAwayFault, TpmAwayFault, TpmFault, and what
    `accept_answer` raises. When this one is refused, an earlier enrollment with the same authority stays usable.
    """
    config = load_host(directory)
    if ticket.host != config.name:
        raise InputError(
            f"the join ticket is for host {ticket.host}, this host is {config.name}",
            hint="use this host's own ticket, or correct the name in host.json",
        )
    with exclusive(config), AuthorityClient(ticket.url, ticket.ca_pem) as client:
        with config.open_tpm() as tpm:
            blobs = _blobs(tpm, config)  # 1
            start = _start(tpm, config, blobs, ticket)
        challenge = client.enroll_start(start)  # 2
        config = _remember(config, ticket, blobs)
        with config.open_tpm() as tpm:
            finish = answer_challenge(tpm, config, blobs, challenge)  # 3
        answer = client.enroll_finish(finish)
        return store_answer(config, answer, datetime.now(UTC))  # 4


def answer_challenge(
    tpm: Tpm, config: HostConfig, blobs: HostIdentityBlobs, challenge: EnrollChallenge
) -> EnrollFinish:
    """Step 3: activation, certifications and quote for `challenge`. TpmFault when it was made for another TPM."""
    secret = identity.activate(tpm, challenge.id_object, challenge.encrypted_secret, blobs.ek_nv_index)
    nonce = protocol.certify_nonce(challenge.nonce)
    return protocol.finish(
        challenge,
        secret,
        {
            "srk": identity.certify(tpm, blobs, "srk", nonce),
            "import-parent": identity.certify(tpm, blobs, "import-parent", nonce),
            "request-key": identity.certify(tpm, blobs, "request-key", nonce),
        },
        quoted_state(tpm, config, challenge.pcrs, protocol.quote_nonce("enroll-quote", challenge.nonce)),
    )


def start_message(
    tpm: Tpm, blobs: HostIdentityBlobs, token: str, ek_intermediates: tuple[bytes, ...] = ()
) -> EnrollStart:
    """Step 2: what this TPM presents."""
    _nv_index, certificate = identity.read_ek_certificate(tpm, (blobs.ek_nv_index,))
    return EnrollStart(
        token=token,
        ek_certificate=certificate,
        ek_intermediates=ek_intermediates,
        ek_public=blobs.ek_public,
        ak_public=blobs.ak_public,
        srk_public=blobs.srk_public,
        import_parent_public=blobs.import_parent_public,
        request_key_public=blobs.request_key_public,
    )


def _blobs(tpm: Tpm, config: HostConfig) -> HostIdentityBlobs:
    """The keys of an earlier enrollment while they are this TPM's, so that profile keys stay usable; or new ones.

    Where the host now prefers another kind of EK, only the EK changes: all other keys lie in the same TPM.
    """
    order = identity.EK_ORDERS[config.ek]
    try:
        blobs = Keyring(config.directory).identity().blobs
    except NotFoundError:
        return identity.provision(tpm, order)
    same_ek = identity.create_ek(tpm, blobs.ek_nv_index) == blobs.ek_public
    if not same_ek or keys.ensure_srk(tpm) != blobs.srk_public:
        return identity.provision(tpm, order)
    nv_index, _certificate = identity.read_ek_certificate(tpm, order)
    if nv_index == blobs.ek_nv_index:
        return blobs
    return dataclasses.replace(blobs, ek_nv_index=nv_index, ek_public=identity.create_ek(tpm, nv_index))


def _start(tpm: Tpm, config: HostConfig, blobs: HostIdentityBlobs, ticket: JoinTicket) -> EnrollStart:
    between = dict.fromkeys((*_intermediates(config), *split_certificates(identity.read_ek_chain(tpm))))
    return start_message(tpm, blobs, ticket.token, tuple(between)[:MAX_INTERMEDIATES])


def _intermediates(config: HostConfig) -> tuple[bytes, ...]:
    """The CA certificates between EK certificate and root, DER, as the operator laid them beside the host.

    The maker's own, in the TPM's NV memory, come after them.
    """
    if config.ek_chain is None:
        return ()
    pem = read_limited(config.ek_chain, CHAIN_LIMIT_BYTES, hint="correct its path in host.json")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise MalformedError(f"{config.ek_chain}: expected certificates in PEM") from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def _remember(config: HostConfig, ticket: JoinTicket, blobs: HostIdentityBlobs) -> HostConfig:
    """Store what a lost answer would otherwise take with it: authority, anchor and, if they are new, the TPM's keys."""
    ca_file = config.directory / CA_FILE
    write_atomic(ca_file, ticket.ca_pem.encode(), 0o600)
    config = dataclasses.replace(config, authority_url=ticket.url, ca_file=ca_file)
    save_host(config)
    keyring = Keyring(config.directory)
    held = keyring.keys()
    known = keyring.identity().blobs if keyring.enrolled else None
    if known != blobs:
        if known is None or known.import_parent_public != blobs.import_parent_public:
            for key in held:  # sealed under an import parent that is gone: dead, and not to be claimed at a sync
                keyring.remove_key(key.profile, key.epoch, key.cell)
        keyring.save_identity(HostIdentity(blobs, blobs.srk_name))
    try:
        floor = keyring.anchor()
    except NotFoundError:
        floor = None
    if floor is None or floor.point != ticket.anchor:
        keyring.save_anchor(Anchor(ticket.anchor, 0))
    return config
