"""Enrollment and synchronisation as hosts do them: TPM, TLS, files, and what a crash at each step leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sealvm.authority import approve, hosts
from sealvm.client.authority import AuthorityClient
from sealvm.errors import (
    AccessRefused,
    AuthorityAwayFault,
    ConflictError,
    EnrollmentRefused,
    EvidenceRefused,
    InputError,
    IntegrityRefused,
    NotFoundError,
    RollbackRefused,
    StateRefused,
    UntrustedRefused,
)
from sealvm.host.config import HostConfig, load_host
from sealvm.host.enroll import enroll
from sealvm.host.keyring import Anchor, Keyring
from sealvm.host.sync import HostRequestSigner, connect, exclusive, sync
from sealvm.host.unlock import open_keys
from sealvm.lab.network import write_recording
from sealvm.lab.recording import load_recording
from sealvm.protocol.messages import SyncRequest
from sealvm.protocol.operator import ApproveRequest
from sealvm.statements.bundle import verify_stored_bundle
from sealvm.tpm import identity
from sealvm.tpm.structures import ESYS_TR
from tests.authority.harness import ACTOR, Authority, boot, ek_digest_of, make_authority, operator_of, served

pytestmark = pytest.mark.tpm


@pytest.fixture
def enrolled(network: Authority, host: HostConfig) -> HostConfig:
    """Host 1, enrolled."""
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    return load_host(host.directory)


def approve_state(network: Authority, host: str = "host-1", profile: str = "measured"):
    return approve.approve(network.context, ACTOR, profile, ApproveRequest(host=host))


def test_enroll_approve_sync_use(network: Authority, host: HostConfig) -> None:
    report = enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    assert report.trust_class == "lab"
    assert report.events > 10
    assert report.new_keys == (("measured", 1, ""),)
    views = approve_state(network)
    assert [view.outcome for view in views] == ["signed"]
    again = sync(host.directory)
    assert again.new_keys == ()
    assert again.all_keys == report.new_keys
    assert again.bundle_version == report.bundle_version + 1
    opener = open_keys(load_host(host.directory))
    assert opener.holds("measured", 1, "")
    assert len(opener.ecdh("measured", 1, "", point=opener.point("measured", 1, ""))) == 32


def test_before_the_approval_the_key_is_there_and_refuses(enrolled: HostConfig) -> None:
    opener = open_keys(enrolled)
    with pytest.raises(StateRefused):
        opener.ecdh("measured", 1, "", point=opener.point("measured", 1, ""))


def test_a_host_in_another_state_has_the_key_and_cannot_use_it(
    network: Authority, enrolled: HostConfig, other_host: HostConfig
) -> None:
    enroll(other_host.directory, network.register("host-2", ek_digest_of(other_host)))
    view = approve_state(network)[0]
    assert (view.satisfied_by, view.gaining, view.not_satisfied_by) == (("host-1",), ("host-1",), ("host-2",))
    sync(other_host.directory)
    opener = open_keys(load_host(other_host.directory))
    assert opener.holds("measured", 1, "")
    with pytest.raises(StateRefused):
        opener.ecdh("measured", 1, "", point=opener.point("measured", 1, ""))
    assert {view.name: view.satisfies for view in hosts.list_hosts(network.context)} == {
        "host-1": ("measured",),
        "host-2": (),
    }


def test_approval_is_idempotent_and_dry_run_changes_nothing(network: Authority, enrolled: HostConfig) -> None:
    request = ApproveRequest(host="host-1", dry_run=True)
    dry = approve.approve(network.context, ACTOR, "measured", request)[0]
    assert dry.outcome == "dry-run"
    assert dry.gaining == ("host-1",)
    before = sync(enrolled.directory).bundle_version
    first, second = approve_state(network)[0], approve_state(network)[0]
    assert (first.outcome, second.outcome) == ("signed", "existing")
    assert second.gaining == ()
    assert sync(enrolled.directory).bundle_version == before + 1


def test_a_state_that_misses_a_requirement_is_not_approved(network: Authority, other_host: HostConfig) -> None:
    enroll(other_host.directory, network.register("host-2", ek_digest_of(other_host)))
    with pytest.raises(EvidenceRefused, match="cmdline-exact") as caught:
        approve_state(network, "host-2")
    answers = caught.value.fields["requirements"]
    assert [(answer["name"], answer["met"]) for answer in answers] == [("cmdline-exact", False)]  # type: ignore[index,union-attr]
    assert "init=/bin/sh" in answers[0]["found"]  # type: ignore[index]


def test_a_state_of_another_trust_class_is_not_approved(network: Authority, enrolled: HostConfig) -> None:
    network.apply(name="strict", trust="hardware")
    with pytest.raises(EvidenceRefused, match="trust class lab"):
        approve_state(network, profile="strict")
    assert sync(enrolled.directory).new_keys == ()


def test_approving_what_is_not_there(network: Authority, enrolled: HostConfig) -> None:
    with pytest.raises(NotFoundError, match="profile 'nothing'"):
        approve_state(network, profile="nothing")
    with pytest.raises(NotFoundError, match="host nobody"):
        approve_state(network, "nobody")
    network.register("host-9", "ab" * 32)
    with pytest.raises(NotFoundError, match="host-9 is not enrolled"):
        approve_state(network, "host-9")


def test_a_new_profile_arrives_at_the_next_sync(network: Authority, enrolled: HostConfig) -> None:
    network.apply(name="second", pcrs="0, 2, 4, 7, 9, 14")
    assert sync(enrolled.directory).new_keys == (("second", 1, ""),)
    assert sync(enrolled.directory).new_keys == ()


def test_a_state_from_before_the_profile_needs_a_sync_first(network: Authority, enrolled: HostConfig) -> None:
    network.apply(name="second", pcrs="0, 2, 4, 7, 9, 14")
    with pytest.raises(EvidenceRefused, match="PCR 14"):
        approve_state(network, profile="second")
    sync(enrolled.directory)
    assert approve_state(network, profile="second")[0].outcome == "signed"


def test_each_sync_keeps_the_newest_verified_state(network: Authority, enrolled: HostConfig) -> None:
    approve_state(network)
    write_recording(enrolled.directory, load_recording("tampered"))
    boot(enrolled)
    assert hosts.show_host(network.context, "host-1").satisfies == ("measured",)
    sync(enrolled.directory)
    assert hosts.show_host(network.context, "host-1").satisfies == ()


def test_a_log_that_does_not_fit_is_refused_at_sync_and_the_state_kept(
    network: Authority, enrolled: HostConfig
) -> None:
    approve_state(network)
    write_recording(enrolled.directory, load_recording("tampered"))  # the log alone: the TPM holds the good state
    with pytest.raises(EvidenceRefused) as caught:
        sync(enrolled.directory)
    assert caught.value.fields["pcr"] == 9
    assert hosts.show_host(network.context, "host-1").satisfies == ("measured",)


def test_sync_answers_only_its_own_fresh_challenge(
    network: Authority, enrolled: HostConfig, other_host: HostConfig
) -> None:
    enroll(other_host.directory, network.register("host-2", ek_digest_of(other_host)))
    with connect(enrolled, Keyring(enrolled.directory).identity().blobs) as client:
        other = load_host(other_host.directory)
        with connect(other, Keyring(other.directory).identity().blobs) as stranger:
            challenge = client.sync_challenge()
            with other.open_tpm() as tpm:
                state = _state(tpm, other, challenge)
            with pytest.raises(EvidenceRefused, match="no pending challenge"):
                stranger.sync(SyncRequest(session=challenge.session, state=state))
        challenge = client.sync_challenge()
        with enrolled.open_tpm() as tpm:
            state = _state(tpm, enrolled, challenge)
        client.sync(SyncRequest(session=challenge.session, state=state))
        later = client.sync_challenge()
        with pytest.raises(EvidenceRefused, match="nonce"):
            client.sync(SyncRequest(session=later.session, state=state))


def _state(tpm, config, challenge):
    from sealvm.host.sync import quoted_state
    from sealvm.protocol.enroll import quote_nonce

    return quoted_state(tpm, config, challenge.pcrs, quote_nonce("sync-quote", challenge.nonce))


def test_sync_before_enrollment(host: HostConfig) -> None:
    with pytest.raises(NotFoundError, match=r"identity\.json"):
        sync(host.directory)


def test_a_host_that_enrolled_elsewhere_is_not_known(network: Authority, enrolled: HostConfig, tmp_path: Path) -> None:
    make_authority(tmp_path / "elsewhere")
    with served(tmp_path / "elsewhere") as elsewhere:
        ca = enrolled.directory / "elsewhere.pem"
        ca.write_text(elsewhere.context.settings.ca_pem)
        moved = dataclasses.replace(enrolled, authority_url=elsewhere.context.settings.url, ca_file=ca)
        with connect(moved, Keyring(moved.directory).identity().blobs) as client, pytest.raises(AccessRefused):
            client.sync_challenge()


def test_the_authority_is_away(network: Authority, enrolled: HostConfig, tmp_path: Path) -> None:
    before = Keyring(enrolled.directory).bundle()
    gone = dataclasses.replace(enrolled, authority_url="https://127.0.0.1:1")
    with connect(gone, Keyring(gone.directory).identity().blobs) as client, pytest.raises(AuthorityAwayFault):
        client.sync_challenge()
    assert Keyring(enrolled.directory).bundle() == before


def test_ticket_of_another_host(network: Authority, host: HostConfig) -> None:
    with pytest.raises(InputError, match="host-7"):
        enroll(host.directory, network.register("host-7", ek_digest_of(host)))


def test_ticket_used_twice(network: Authority, host: HostConfig) -> None:
    ticket = network.register("host-1", ek_digest_of(host))
    enroll(host.directory, ticket)
    with pytest.raises(EnrollmentRefused, match="used already"):
        enroll(host.directory, ticket)
    sync(host.directory)  # still enrolled


def test_ticket_with_another_anchor(network: Authority, host: HostConfig) -> None:
    """Whoever replaces the anchor in a ticket gets a host that refuses the real authority's bundle."""
    from sealvm.crypto.ec import SoftwareSigner

    ticket = network.register("host-1", ek_digest_of(host))
    with pytest.raises(UntrustedRefused):
        enroll(host.directory, ticket.model_copy(update={"anchor": SoftwareSigner.generate().point}))
    assert not (host.directory / "bundle.dsse").exists()


def test_enrolling_again_keeps_keys_and_id(network: Authority, enrolled: HostConfig) -> None:
    from sealvm.authority import register
    from sealvm.protocol.operator import TicketRequest

    approve_state(network)
    keyring = Keyring(enrolled.directory)
    identity_before = keyring.identity()
    ticket = register.issue_ticket(network.context, ACTOR, "host-1", TicketRequest())
    enroll(enrolled.directory, ticket)
    assert keyring.identity() == identity_before
    opener = open_keys(enrolled)
    opener.ecdh("measured", 1, "", point=opener.point("measured", 1, ""))


def test_enrolling_again_after_tpm2_clear(network: Authority, enrolled: HostConfig) -> None:
    from sealvm.authority import register
    from sealvm.protocol.operator import TicketRequest

    approve_state(network)
    with enrolled.open_tpm() as tpm:
        tpm.run("clear", auth_handle=ESYS_TR.LOCKOUT, session1=ESYS_TR.PASSWORD)
    before = Keyring(enrolled.directory).identity()
    ticket = register.issue_ticket(network.context, ACTOR, "host-1", TicketRequest())
    report = enroll(enrolled.directory, ticket)
    assert report.new_keys == (("measured", 1, ""),)
    assert Keyring(enrolled.directory).identity().blobs.srk_public != before.blobs.srk_public
    opener = open_keys(enrolled)
    opener.ecdh("measured", 1, "", point=opener.point("measured", 1, ""))


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["save_key", "save_bundle", "save_anchor", "save_identity"])
def test_killed_while_storing_an_enrollment(
    network: Authority, host: HostConfig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever was stored when it died, `host sync` completes it without another ticket."""
    ticket = network.register("host-1", ek_digest_of(host))
    real = getattr(Keyring, step)
    seen: list[int] = []

    def dies(self: Keyring, *arguments: object) -> None:
        seen.append(1)
        if (self.directory / "bundle.dsse").exists() or step in ("save_key", "save_bundle"):
            raise Killed
        real(self, *arguments)

    monkeypatch.setattr(Keyring, step, dies)
    with pytest.raises(Killed):
        enroll(host.directory, ticket)
    assert seen
    monkeypatch.undo()
    report = sync(host.directory)
    assert report.all_keys == (("measured", 1, ""),)
    keyring = Keyring(host.directory)
    assert keyring.identity().host_id == report.host_id
    approve_state(network)
    sync(host.directory)
    opener = open_keys(load_host(host.directory))
    opener.ecdh("measured", 1, "", point=opener.point("measured", 1, ""))


def test_an_answer_lost_on_the_way_needs_no_new_ticket(
    network: Authority, host: HostConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AuthorityClient.enroll_finish

    def lost(self: AuthorityClient, message: object) -> None:
        real(self, message)  # type: ignore[arg-type]
        raise Killed

    monkeypatch.setattr(AuthorityClient, "enroll_finish", lost)
    with pytest.raises(Killed):
        enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    monkeypatch.undo()
    assert sync(host.directory).new_keys == (("measured", 1, ""),)


def test_an_older_bundle_is_refused(network: Authority, enrolled: HostConfig) -> None:
    keyring = Keyring(enrolled.directory)
    anchor = keyring.anchor()
    keyring.save_anchor(Anchor(anchor.point, anchor.version + 5))
    with pytest.raises(RollbackRefused):
        sync(enrolled.directory)


def test_a_key_the_bundle_does_not_know_is_refused(
    network: Authority, host: HostConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AuthorityClient.enroll_finish

    def altered(self: AuthorityClient, message: object):
        answer = real(self, message)  # type: ignore[arg-type]
        key = answer.keys[0].model_copy(update={"profile": "other"})
        return answer.model_copy(update={"keys": (key,)})

    monkeypatch.setattr(AuthorityClient, "enroll_finish", altered)
    with pytest.raises(IntegrityRefused, match="not in the trust bundle"):
        enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    assert not (host.directory / "keys").exists()


def test_one_sync_at_a_time(enrolled: HostConfig) -> None:
    with exclusive(enrolled), pytest.raises(ConflictError, match="already"):
        sync(enrolled.directory)
    sync(enrolled.directory)


def test_requests_are_signed_by_the_tpm(network: Authority, enrolled: HostConfig) -> None:
    """The request key's private half is in no file; the same proof is good once."""
    keyring = Keyring(enrolled.directory)
    signer = HostRequestSigner(enrolled, keyring.identity().blobs)
    with network.context.store.read() as tx:
        record = tx.host("host-1")
    assert record is not None
    assert record.request_keyid == signer.keyid
    with enrolled.open_tpm() as tpm:
        assert identity.request_signer(tpm, keyring.identity().blobs).point == signer.point


def test_the_operator_sees_what_hosts_are_in(network: Authority, enrolled: HostConfig) -> None:
    with operator_of(network) as client:
        client.approve("measured", "host-1")
        view = client.host("host-1")
        assert (view.state, view.trust_class, view.satisfies) == ("enrolled", "lab", ("measured",))
        assert view.tpm == "id:00001014 swtpm id:20191023"
        entries = client.audit()
    from sealvm.authority import audit
    from sealvm.authority.records import AuditRecord

    assert audit.verify([AuditRecord(**dict(entry)) for entry in entries]) == len(entries)
    keyring = Keyring(enrolled.directory)
    assert verify_stored_bundle(keyring.bundle(), keyring.anchor().point, 1)
