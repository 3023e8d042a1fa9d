"""Attacks on enrollment and synchronisation over real software TPMs: each is refused by name, and gets nothing.

*Nothing* is checked after each: the host is not enrolled, no state and no key of it is stored, and its ticket stays
good for the host it was made for. Single altered fields are in test_enrollment.py; here are attackers with a plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from sealvm.authority import bars, hosts, pending, register, roots
from sealvm.authority import enroll as at_authority
from sealvm.authority import sync as at_sync
from sealvm.errors import EnrollmentRefused, EvidenceRefused, Refusal, TpmFault
from sealvm.host.config import HostConfig
from sealvm.host.enroll import answer_challenge
from sealvm.host.sync import quoted_state
from sealvm.lab.swtpm import LabCa, Swtpm, make_ca
from sealvm.protocol import enroll as protocol
from sealvm.protocol.hosts import BarRequest, EkRequest, ExpectRequest
from sealvm.protocol.messages import Certification, EnrollChallenge, EnrollFinish, SyncRequest
from sealvm.protocol.operator import TicketRequest
from sealvm.secret import Secret
from sealvm.tcg.credential import make_credential
from sealvm.tcg.public import name_of
from sealvm.tcg.templates import SRK
from sealvm.tpm import identity, keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import ESYS_TR
from tests.authority.harness import ACTOR, Authority, ek_digest_of, make_host, make_tpm
from tests.authority.test_enrollment import Joining, refused

pytestmark = pytest.mark.tpm


@pytest.fixture
def joining(authority: Authority, host: HostConfig, lab_ca: LabCa) -> Joining:
    authority.trust(lab_ca)
    authority.apply()
    return Joining(authority, host, lab_ca, authority.register("host-1", ek_digest_of(host)))


@contextmanager
def gets_nothing(
    joining: Joining, check: str, kind: type[Refusal] = EnrollmentRefused, *, good_again: bool = True
) -> Iterator[None]:
    """The block is refused by `check`; afterwards nothing is stored, and the right host still gets in."""
    with refused(check, kind):
        yield
    with joining.authority.context.store.read() as tx:
        record, state = tx.host("host-1"), tx.state("host-1")
        assert tx.audit(0, 1000)[-1].action == "host.refused"
    assert record is not None
    assert (record.enrolled, record.import_parent_public, state) == (None, b"", None)
    if good_again:
        joining.done()


# the man in the middle


def test_swapped_ak(joining: Joining, other_host: HostConfig) -> None:
    """The attacker puts the AK of a TPM of its own in the place of the host's; the host's TPM does not activate for it,
    and what the attacker makes up is not the secret."""
    with other_host.open_tpm() as tpm:
        foreign = identity.provision(tpm)
    challenge = at_authority.start(joining.authority.context, joining.start(ak_public=foreign.ak_public))
    for config, blobs in ((joining.config, joining.blobs), (other_host, foreign)):
        with config.open_tpm() as tpm, pytest.raises(TpmFault):
            identity.activate(tpm, challenge.id_object, challenge.encrypted_secret, blobs.ek_nv_index)
    with other_host.open_tpm() as tpm:
        finish = _answered(tpm, other_host, foreign, challenge, Secret(bytes(32)))
    with gets_nothing(joining, "activation"):
        joining.done(finish)


def test_swapped_credential(joining: Joining) -> None:
    """The attacker hands the host a credential of its own making, to learn what the host answers with: the authority
    expects the secret that it chose."""
    challenge = at_authority.start(joining.authority.context, joining.start())
    own = Secret(b"\7" * 32)
    id_object, encrypted = make_credential(joining.blobs.ek_public, name_of(joining.blobs.ak_public), own.reveal())
    swapped = challenge.model_copy(update={"id_object": id_object, "encrypted_secret": encrypted})
    with joining.config.open_tpm() as tpm:
        finish = answer_challenge(tpm, joining.config, joining.blobs, swapped)
    with gets_nothing(joining, "activation"):
        joining.done(finish)


def test_swapped_nonce(joining: Joining) -> None:
    """The attacker has the host certify and quote over a nonce of its own, to use the answer elsewhere."""
    challenge = at_authority.start(joining.authority.context, joining.start())
    swapped = challenge.model_copy(update={"nonce": bytes(32)})
    with joining.config.open_tpm() as tpm:
        finish = answer_challenge(tpm, joining.config, joining.blobs, swapped)
    with gets_nothing(joining, "activation"):
        joining.done(finish)


@pytest.mark.parametrize("key", ["srk", "import_parent", "request_key"])
@pytest.mark.parametrize("part", ["attest", "signature"])
def test_altered_certification(joining: Joining, key: str, part: str) -> None:
    finish = joining.finish()
    proof: Certification = getattr(finish, key)
    altered = bytearray(getattr(proof, part))
    altered[-1] ^= 1
    swapped = finish.model_copy(update={key: proof.model_copy(update={part: bytes(altered)})})
    with gets_nothing(joining, f"{key.replace('_', '-')}.certify-"):
        joining.done(swapped)


@pytest.mark.parametrize("part", ["attest", "signature"])
def test_altered_quote(joining: Joining, part: str) -> None:
    finish = joining.finish()
    altered = bytearray(getattr(finish.state, part))
    altered[-1] ^= 1
    state = finish.state.model_copy(update={part: bytes(altered)})
    with gets_nothing(joining, "quote-", EvidenceRefused):
        joining.done(finish.model_copy(update={"state": state}))


def test_keys_of_another_session(joining: Joining) -> None:
    """Start with one import parent, finish with the certification of another that is as genuine."""
    challenge = at_authority.start(joining.authority.context, joining.start())
    with joining.config.open_tpm() as tpm:
        other = identity.provision(tpm)
        finish = answer_challenge(tpm, joining.config, other, challenge)
    with gets_nothing(joining, "import-parent.certify-name"):
        joining.done(finish)


# TPMs that are none of ours


def test_software_tpm_without_a_trusted_certificate(
    authority: Authority, lab_ca: LabCa, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Registered by an operator who was fooled; its maker is the attacker's own CA, which nobody accepted."""
    foreign = make_ca(tmp_path_factory.mktemp("f"))
    manufactured = make_tpm(tmp_path_factory.mktemp("f") / "tpm", foreign)
    config = make_host(tmp_path_factory.mktemp("f") / "h", manufactured, foreign, "good", "host-1")
    try:
        authority.trust(lab_ca)
        joining = Joining(authority, config, foreign, authority.register("host-1", ek_digest_of(config)))
        with gets_nothing(joining, "ek.certificate-chain", good_again=False):
            joining.finish()
    finally:
        Swtpm(config.directory / "tpm").stop()


def test_software_tpm_with_another_tpms_certificate(joining: Joining, other_host: HostConfig, lab_ca: LabCa) -> None:
    """A genuine certificate beside another EK: the registered EK must be presented, and then this is not its own."""
    with other_host.open_tpm() as tpm:
        foreign = identity.provision(tpm)
        _index, certificate = identity.read_ek_certificate(tpm)
    with gets_nothing(joining, "ek.certificate-key", good_again=False):
        joining.finish(joining.start(ek_certificate=certificate))
    with gets_nothing(joining, "ek-registered"):
        joining.finish(joining.start(ek_public=foreign.ek_public, ek_certificate=certificate))


def test_genuine_tpm_with_the_registered_ones_public_parts(
    joining: Joining, other_host: HostConfig, lab_ca: LabCa
) -> None:
    """A genuine, unregistered TPM shows the registered EK and certificate, which are public, with keys of its own."""
    stranger = Joining(joining.authority, other_host, lab_ca, joining.ticket)
    ours = joining.start()
    start = stranger.start(ek_public=ours.ek_public, ek_certificate=ours.ek_certificate)
    challenge = at_authority.start(joining.authority.context, start)
    with other_host.open_tpm() as tpm, pytest.raises(TpmFault):
        identity.activate(tpm, challenge.id_object, challenge.encrypted_secret, stranger.blobs.ek_nv_index)
    with other_host.open_tpm() as tpm:
        finish = _answered(tpm, other_host, stranger.blobs, challenge, Secret(bytes(32)))
    with gets_nothing(joining, "activation"):
        joining.done(finish)


# an SRK that the TPM really made, from an altered template


@pytest.mark.parametrize("bits", [0x400, 0x12], ids=["without noDA", "duplicable"])
def test_srk_with_altered_attributes(joining: Joining, bits: int) -> None:
    altered = dataclasses.replace(SRK, attributes=SRK.attributes & ~bits)
    with (
        joining.config.open_tpm() as tpm,
        keys.primary(tpm, altered, ESYS_TR.OWNER, "an altered SRK") as (_srk, public),
    ):
        pass
    with gets_nothing(joining, "srk.attributes"):
        at_authority.start(joining.authority.context, joining.start(srk_public=public))


# replayed messages


def test_replayed_start(joining: Joining) -> None:
    """Who repeats the start gets another challenge, which only the host's TPM opens; after the end, nothing."""
    start = joining.start()
    finish = joining.finish(start)
    replayed = at_authority.start(joining.authority.context, start)
    with refused("session"):  # the replay voided it; the host begins again
        joining.done(finish)
    with joining.config.open_tpm() as tpm:
        answer = answer_challenge(tpm, joining.config, joining.blobs, replayed)
    joining.done(answer)
    with refused("join-token"):
        at_authority.start(joining.authority.context, start)


def test_replayed_finish(joining: Joining) -> None:
    finish = joining.finish()
    joining.done(finish)
    with refused("session"):
        joining.done(finish)
    later = _reticketed(joining)
    challenge = at_authority.start(joining.authority.context, later.start())
    with refused("activation"):  # the old answer under the new session's name
        joining.done(finish.model_copy(update={"session": challenge.session}))


def test_replayed_sync(joining: Joining) -> None:
    ctx = joining.authority.context
    joining.done()
    with ctx.store.read() as tx:
        host = tx.host("host-1")
    assert host is not None
    first = at_sync.challenge(ctx, host)
    with joining.config.open_tpm() as tpm:
        nonce = protocol.quote_nonce("sync-quote", first.nonce)
        request = SyncRequest(session=first.session, state=quoted_state(tpm, joining.config, first.pcrs, nonce))
    at_sync.sync(ctx, host, request)
    with refused("session", EvidenceRefused):
        at_sync.sync(ctx, host, request)
    second = at_sync.challenge(ctx, host)
    with refused("quote-nonce", EvidenceRefused):
        at_sync.sync(ctx, host, request.model_copy(update={"session": second.session}))


def test_enrollment_quote_at_sync(joining: Joining) -> None:
    """The quotes of the two protocols are over differently labelled nonces, so neither serves in the other."""
    ctx = joining.authority.context
    joining.done()
    with ctx.store.read() as tx:
        host = tx.host("host-1")
    assert host is not None
    challenge = at_sync.challenge(ctx, host)
    with joining.config.open_tpm() as tpm:
        nonce = protocol.quote_nonce("enroll-quote", challenge.nonce)
        state = quoted_state(tpm, joining.config, challenge.pcrs, nonce)
    with refused("quote-nonce", EvidenceRefused):
        at_sync.sync(ctx, host, SyncRequest(session=challenge.session, state=state))


# operator's decisions


def test_barred_tpm(joining: Joining) -> None:
    finish = joining.finish()
    view = bars.add_bar(joining.authority.context, ACTOR, BarRequest(manufacturer="id:00001014", model="swtpm"))
    with refused("tpm-barred"):  # barred between challenge and answer
        joining.done(finish)
    with gets_nothing(joining, "tpm-barred", good_again=False):
        joining.finish()
    bars.remove_bar(joining.authority.context, ACTOR, view.bar_id)
    joining.done()


def test_root_removed_between_challenge_and_answer(joining: Joining) -> None:
    finish = joining.finish()
    ctx = joining.authority.context
    roots.remove_root(ctx, ACTOR, roots.list_roots(ctx)[0].sha256.hex())
    with refused("ek-root"):
        joining.done(finish)
    with joining.authority.context.store.read() as tx:
        record = tx.host("host-1")
    assert record is not None
    assert record.enrolled is None


def test_pending_host_waits_for_its_approval(
    authority: Authority, host: HostConfig, other_host: HostConfig, lab_ca: LabCa
) -> None:
    """Neither the host nor who stole its ticket gets in before the operator names the EK; then only that EK does."""
    ctx = authority.context
    authority.trust(lab_ca)
    authority.apply()
    ticket = pending.expect_host(ctx, ACTOR, ExpectRequest(name="host-1"))
    joining = Joining(authority, host, lab_ca, ticket)
    for _attempt in range(2):
        with refused("ek-approval"):
            joining.finish()
    assert [view.ek_digest.hex() for view in pending.list_pending(ctx)] == [ek_digest_of(host)]
    thief = Joining(authority, other_host, lab_ca, ticket)
    with refused("ek-pending"):
        thief.finish()
    pending.approve_host(ctx, ACTOR, "host-1", EkRequest(ek_digest=bytes.fromhex(ek_digest_of(host))))
    with refused("ek-registered"):
        thief.finish()
    assert joining.done().host == "host-1"
    with authority.context.store.read() as tx:
        actions = [entry.action for entry in tx.audit(0, 1000)]
    assert actions.count("host.pending") == 1


def test_pending_hosts_are_checked_like_others(authority: Authority, host: HostConfig, lab_ca: LabCa) -> None:
    """An EK without an accepted certificate never becomes pending."""
    ticket = pending.expect_host(authority.context, ACTOR, ExpectRequest(name="host-1"))
    with refused("ek.certificate-chain"):
        Joining(authority, host, lab_ca, ticket).finish()
    assert pending.list_pending(authority.context) == []
    authority.trust(lab_ca)
    authority.clock.offset = timedelta(days=2)
    with refused("join-token"):
        Joining(authority, host, lab_ca, ticket).finish()


def test_registered_tpm_under_another_name(joining: Joining, lab_ca: LabCa) -> None:
    ticket = pending.expect_host(joining.authority.context, ACTOR, ExpectRequest(name="host-9"))
    with refused("ek-registered"):
        Joining(joining.authority, joining.config, lab_ca, ticket).finish()


# the other EK


def test_rsa_ek(authority: Authority, host: HostConfig, lab_ca: LabCa) -> None:
    """RSA-2048, its certificate at 01C00002: credential and activation by OAEP, use by PolicySecret."""
    authority.trust(lab_ca)
    authority.apply()
    config = dataclasses.replace(host, ek="rsa")
    ecc = ek_digest_of(host)
    assert ek_digest_of(config) != ecc
    joining = Joining(authority, config, lab_ca, authority.register("host-1", ek_digest_of(config)))
    with config.open_tpm() as tpm:
        joining.blobs = identity.provision(tpm, identity.EK_ORDERS["rsa"])
    assert joining.blobs.ek_nv_index == 0x01C00002
    assert joining.done().host == "host-1"
    assert hosts.show_host(authority.context, "host-1").state == "enrolled"


def _answered(
    tpm: Tpm, config: HostConfig, blobs: identity.HostIdentityBlobs, challenge: EnrollChallenge, guess: Secret
) -> EnrollFinish:
    """An answer by whoever could not open the credential: all is right but the secret."""
    nonce = protocol.certify_nonce(challenge.nonce)
    kinds: tuple[identity.Certified, ...] = ("srk", "import-parent", "request-key")
    certified = {kind: identity.certify(tpm, blobs, kind, nonce) for kind in kinds}
    quote = protocol.quote_nonce("enroll-quote", challenge.nonce)
    state = quoted_state(tpm, config, challenge.pcrs, quote)
    return protocol.finish(challenge, guess, certified, state)


def _reticketed(joining: Joining) -> Joining:
    joining.ticket = register.issue_ticket(joining.authority.context, ACTOR, "host-1", TicketRequest())
    return joining
