"""Hosts with real software TPMs enroll at a real authority, and each thing that does not hold together is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealvm.authority import enroll as at_authority
from sealvm.authority import profiles, register
from sealvm.authority.records import AuditRecord
from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import EnrollmentRefused, EvidenceRefused, MalformedError, Refusal, TpmFault
from sealvm.host.config import HostConfig
from sealvm.host.enroll import answer_challenge, start_message
from sealvm.lab.recording import load_recording
from sealvm.lab.swtpm import LabCa, Swtpm, make_ca
from sealvm.protocol import enroll as protocol
from sealvm.protocol.enroll import certify_nonce
from sealvm.protocol.messages import Certification, EnrollFinish, EnrollStart, JoinTicket, SyncAnswer
from sealvm.protocol.operator import TicketRequest
from sealvm.secret import Secret
from sealvm.statements.bundle import expected_public
from sealvm.tcg.ekcert import strip_padding
from sealvm.tcg.templates import IMPORT_PARENT, REQUEST_KEY, public_of
from sealvm.tpm import identity, keys
from sealvm.tpm.identity import HostIdentityBlobs
from tests.authority.harness import ACTOR, Authority, ek_digest_of, make_authority, make_host

pytestmark = pytest.mark.tpm


class Joining:
    """One host on its way in, message by message, so that a test can alter any of them."""

    def __init__(self, authority: Authority, config: HostConfig, ca: LabCa, ticket: JoinTicket) -> None:
        self.authority = authority
        self.config = config
        self.ticket = ticket
        self.intermediates = (_der(ca),)
        with config.open_tpm() as tpm:
            self.blobs = identity.provision(tpm)

    def start(self, **changes: object) -> EnrollStart:
        with self.config.open_tpm() as tpm:
            return start_message(tpm, self.blobs, self.ticket.token, self.intermediates).model_copy(update=changes)

    def finish(self, start: EnrollStart | None = None, blobs: HostIdentityBlobs | None = None) -> EnrollFinish:
        challenge = at_authority.start(self.authority.context, start or self.start())
        with self.config.open_tpm() as tpm:
            return answer_challenge(tpm, self.config, blobs or self.blobs, challenge)

    def done(self, finish: EnrollFinish | None = None) -> SyncAnswer:
        return at_authority.finish(self.authority.context, finish or self.finish())


def _der(ca: LabCa) -> bytes:
    return x509.load_pem_x509_certificate(ca.intermediate.read_bytes()).public_bytes(Encoding.DER)


@pytest.fixture
def joining(authority: Authority, host: HostConfig, lab_ca: LabCa) -> Joining:
    authority.trust(lab_ca)
    authority.apply()
    return Joining(authority, host, lab_ca, authority.register("host-1", ek_digest_of(host)))


@pytest.fixture(scope="module")
def joining_module(tmp_path_factory: pytest.TempPathFactory, manufactured: Path, lab_ca: LabCa) -> Iterator[Joining]:
    """A host that only ever begins: shared by the many tests that alter its first message."""
    authority = make_authority(tmp_path_factory.mktemp("a") / "authority")
    config = make_host(tmp_path_factory.mktemp("h") / "m", manufactured, lab_ca, "good", "host-1")
    authority.trust(lab_ca)
    yield Joining(authority, config, lab_ca, authority.register("host-1", ek_digest_of(config)))
    Swtpm(config.directory / "tpm").stop()


def refused(check: str, kind: type[Refusal] = EnrollmentRefused) -> pytest.RaisesExc[Refusal]:
    return pytest.RaisesExc(kind, check=lambda error: str(error.fields.get("check", "")).startswith(check))


def test_a_genuine_registered_host_joins(joining: Joining) -> None:
    answer = joining.done()
    assert (answer.host, answer.trust_class) == ("host-1", "lab")
    assert [(key.profile, key.epoch) for key in answer.keys] == [("measured", 1)]
    actions = [entry.action for entry in _audit(joining.authority)]
    assert actions[-1] == "host.enrolled"


def test_wrong_token(joining: Joining) -> None:
    with refused("join-token"):
        joining.done(joining.finish(joining.start(token="A" * 43)))


def test_used_token(joining: Joining) -> None:
    joining.done()
    with refused("join-token"):
        joining.finish()


def test_expired_token(joining: Joining) -> None:
    joining.authority.clock.offset = timedelta(days=1)
    with refused("join-token"):
        joining.finish()


def test_void_token(joining: Joining) -> None:
    register.issue_ticket(joining.authority.context, ACTOR, "host-1", TicketRequest())
    with refused("join-token"):
        joining.finish()


def test_a_token_that_is_used_meanwhile_admits_once(joining: Joining) -> None:
    first = joining.finish()
    at_authority.finish(joining.authority.context, first)
    with refused("session"):
        at_authority.finish(joining.authority.context, first)


def test_genuine_tpm_that_was_never_registered(joining: Joining, other_host: HostConfig, lab_ca: LabCa) -> None:
    stranger = Joining(joining.authority, other_host, lab_ca, joining.ticket)
    with refused("ek-registered"):
        stranger.finish()
    assert _audit(joining.authority)[-1].action == "host.refused"
    joining.done()  # the ticket is still good for whom it was made


def test_certificate_of_an_unknown_ca(
    authority: Authority, host: HostConfig, lab_ca: LabCa, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority.trust(make_ca(tmp_path_factory.mktemp("foreign")))
    joining = Joining(authority, host, lab_ca, authority.register("host-1", ek_digest_of(host)))
    with refused("ek.certificate-chain"):
        joining.finish()


def test_no_root_is_trusted(authority: Authority, host: HostConfig, lab_ca: LabCa) -> None:
    joining = Joining(authority, host, lab_ca, authority.register("host-1", ek_digest_of(host)))
    with refused("ek.certificate-chain"):
        joining.finish()


def test_no_intermediate(joining: Joining) -> None:
    joining.intermediates = ()
    with refused("ek.certificate-chain"):
        joining.finish()


def test_certificate_of_another_tpm(joining: Joining, other_host: HostConfig) -> None:
    with other_host.open_tpm() as tpm:
        _index, foreign = identity.read_ek_certificate(tpm, (joining.blobs.ek_nv_index,))
    with refused("ek.certificate-key"):
        joining.finish(joining.start(ek_certificate=foreign))


def test_certificate_that_is_none(joining: Joining) -> None:
    with pytest.raises(MalformedError, match="ek certificate"):
        joining.finish(joining.start(ek_certificate=b"\x30\x82\x00\x04junk"))


def test_padded_certificate_is_accepted(joining: Joining) -> None:
    start = joining.start()
    padded = strip_padding(start.ek_certificate) + b"\xff" * 64
    joining.done(joining.finish(start.model_copy(update={"ek_certificate": padded})))


def test_import_parent_with_user_auth(joining: Joining) -> None:
    joining.blobs = _weaker_parent(joining, lambda raw: _attributes(raw, 0x000304B2 | 0x40))
    with refused("import-parent.attributes"):
        at_authority.start(joining.authority.context, joining.start())


def test_import_parent_with_a_wider_policy(joining: Joining) -> None:
    joining.blobs = _weaker_parent(joining, lambda raw: raw[:10] + bytes(32) + raw[42:])
    with refused("import-parent.authPolicy"):
        at_authority.start(joining.authority.context, joining.start())


def test_import_parent_that_may_be_duplicated(joining: Joining) -> None:
    raw = _attributes(joining.blobs.import_parent_public, 0x000304B2 & ~0x12)
    with refused("import-parent.attributes"):
        joining.finish(joining.start(import_parent_public=raw))


@pytest.mark.parametrize("key", ["ak", "srk", "import_parent", "request_key", "ek"])
@pytest.mark.parametrize("bit", [0x02, 0x10, 0x20, 0x40, 0x80, 0x400, 0x10000, 0x20000, 0x40000])
def test_every_altered_attribute(joining_module: Joining, key: str, bit: int) -> None:
    field = f"{key}_public"
    raw = getattr(joining_module.blobs, field)
    flipped = _attributes(raw, int.from_bytes(raw[4:8], "big") ^ bit)
    start = joining_module.start(**{field: flipped})
    what = "ek-registered" if key == "ek" else f"{key.replace('_', '-')}.attributes"
    with refused(what):
        at_authority.start(joining_module.authority.context, start)


def test_ak_of_another_tpm_cannot_be_activated(joining: Joining, other_host: HostConfig) -> None:
    with other_host.open_tpm() as tpm:
        foreign = identity.provision(tpm)
    with pytest.raises(TpmFault):
        joining.finish(joining.start(ak_public=foreign.ak_public))


def test_wrong_activation(joining: Joining) -> None:
    challenge = at_authority.start(joining.authority.context, joining.start())
    with joining.config.open_tpm() as tpm:
        finish = answer_challenge(tpm, joining.config, joining.blobs, challenge)
    guess = protocol.activation_answer(Secret(bytes(32)), challenge.session, challenge.nonce)
    with refused("activation"):
        joining.done(finish.model_copy(update={"activation": guess}))


def test_activation_of_another_session(joining: Joining) -> None:
    earlier = joining.finish()
    later = joining.finish()
    with refused("activation"):
        joining.done(later.model_copy(update={"activation": earlier.activation}))


def test_a_challenge_takes_one_answer(joining: Joining) -> None:
    finish = joining.finish()
    with refused("activation"):
        joining.done(finish.model_copy(update={"activation": bytes(32)}))
    with refused("session"):
        joining.done(finish)


def test_a_challenge_expires(joining: Joining) -> None:
    finish = joining.finish()
    joining.authority.clock.offset = timedelta(minutes=5)
    with refused("session"):
        joining.done(finish)


@pytest.mark.parametrize("key", ["srk", "import_parent", "request_key"])
def test_stale_certification(joining: Joining, key: str) -> None:
    earlier = joining.finish()
    later = joining.finish()
    with refused(f"{key.replace('_', '-')}.certify-nonce"):
        joining.done(later.model_copy(update={key: getattr(earlier, key)}))


def test_stale_quote(joining: Joining) -> None:
    earlier = joining.finish()
    later = joining.finish()
    with refused("quote-nonce", EvidenceRefused):
        joining.done(later.model_copy(update={"state": earlier.state}))


def test_request_key_that_is_not_certified(joining: Joining) -> None:
    finish = joining.finish()
    with refused("request-key.certify-name"):
        joining.done(finish.model_copy(update={"request_key": finish.import_parent}))


def test_software_request_key(joining: Joining) -> None:
    """A key outside the TPM, presented in the right form: nothing certifies it."""
    outside = public_of(REQUEST_KEY, SoftwareSigner.generate().point)
    with refused("request-key.certify-name"):
        joining.done(joining.finish(joining.start(request_key_public=outside)))


def test_software_import_parent(joining: Joining) -> None:
    outside = public_of(IMPORT_PARENT, SoftwareSigner.generate().point)
    with refused("import-parent.certify-name"):
        joining.done(joining.finish(joining.start(import_parent_public=outside)))


def test_certified_by_another_tpm(joining: Joining, other_host: HostConfig) -> None:
    """Everything is host 1's but the import parent, which lies in another genuine TPM and is certified by that one."""
    with other_host.open_tpm() as tpm:
        foreign = identity.provision(tpm)
    start = joining.start(import_parent_public=foreign.import_parent_public)
    challenge = at_authority.start(joining.authority.context, start)
    with joining.config.open_tpm() as tpm:
        finish = answer_challenge(tpm, joining.config, joining.blobs, challenge)
    with other_host.open_tpm() as tpm:
        attest, signature = identity.certify(tpm, foreign, "import-parent", certify_nonce(challenge.nonce))
    with refused("import-parent.certify-signature"):
        joining.done(finish.model_copy(update={"import_parent": Certification(attest=attest, signature=signature)}))


def test_log_that_does_not_replay(joining: Joining) -> None:
    finish = joining.finish()
    tampered = finish.state.model_copy(update={"event_log": load_recording("tampered").eventlog})
    with pytest.raises(EvidenceRefused, match="PCR 9"):
        joining.done(finish.model_copy(update={"state": tampered}))


def test_log_without_its_last_event(joining: Joining) -> None:
    finish = joining.finish()
    state = finish.state.model_copy(update={"event_log": finish.state.event_log[:-40]})
    with pytest.raises((EvidenceRefused, MalformedError)):
        joining.done(finish.model_copy(update={"state": state}))


def test_quote_of_other_pcrs(joining: Joining) -> None:
    challenge = at_authority.start(joining.authority.context, joining.start())
    fewer = challenge.model_copy(update={"pcrs": (0, 2, 4, 7)})
    with joining.config.open_tpm() as tpm:
        finish = answer_challenge(tpm, joining.config, joining.blobs, fewer)
    with refused("quote-selection", EvidenceRefused):
        joining.done(finish)


def test_refusal_leaves_the_host_registered_and_its_ticket_good(joining: Joining) -> None:
    finish = joining.finish()
    with refused("activation"):
        joining.done(finish.model_copy(update={"activation": bytes(32)}))
    with joining.authority.context.store.read() as tx:
        record = tx.host("host-1")
    assert record is not None
    assert record.enrolled is None
    joining.done()


def test_a_key_is_not_sealed_to_a_class_its_profile_does_not_accept(joining: Joining) -> None:
    joining.authority.apply(name="strict", trust="hardware")
    joining.authority.apply(name="both", trust="hardware, lab")
    assert sorted(key.profile for key in joining.done().keys) == ["both", "measured"]


def test_profile_keys_have_the_exact_policy(joining: Joining) -> None:
    view = profiles.show_profile(joining.authority.context, "measured")
    key = joining.done().keys[0]
    wanted = expected_public(
        "measured", 1, "", "standing", point=view.epochs[0].point, approver_point=key.approver_point
    )
    assert key.public == wanted


def _audit(authority: Authority) -> Sequence[AuditRecord]:
    with authority.context.store.read() as tx:
        return tx.audit(0, 1000)


def _attributes(raw: bytes, attributes: int) -> bytes:
    return raw[:4] + attributes.to_bytes(4, "big") + raw[8:]


def _weaker_parent(joining: Joining, weaken: Callable[[bytes], bytes]) -> HostIdentityBlobs:
    """Host 1's TPM with an import parent that it really made, from a weaker template."""
    with joining.config.open_tpm() as tpm:
        public, private = keys.create_child(tpm, weaken(public_of(IMPORT_PARENT)), "a weaker parent")
    return dataclasses.replace(joining.blobs, import_parent_public=public, import_parent_private=private)
