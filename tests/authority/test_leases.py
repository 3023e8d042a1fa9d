"""Leases from authority to TPM, over TLS: granted, used, ended, refused (docs/spec/lease-v1.md)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sealvm.authority import approve, audit, profiles
from sealvm.authority import lease as authority_lease
from sealvm.authority.ports import LEASE_KEY
from sealvm.client.authority import AuthorityClient
from sealvm.errors import (
    AccessRefused,
    AuthorityAwayFault,
    ConflictError,
    EvidenceRefused,
    MalformedError,
    NotFoundError,
    SignatureRefused,
    StateRefused,
)
from sealvm.host import lease
from sealvm.host.config import HostConfig, load_host
from sealvm.host.enroll import enroll
from sealvm.host.explain import explain_host
from sealvm.host.keyring import Keyring, StoredLease
from sealvm.host.leases import LeaseState, lease_statuses
from sealvm.host.sync import connect, quoted_state, sync
from sealvm.host.unlock import open_keys
from sealvm.lab.swtpm import Swtpm
from sealvm.protocol.lease import LeaseRequest
from sealvm.protocol.operator import ApplyRequest, ApproveRequest
from sealvm.statements.lease import LeaseKey, quote_data
from sealvm.tcg.public import name_of
from sealvm.tpm import leases, pcr
from tests.authority.harness import ACTOR, Authority, boot, document, ek_digest_of, operator_of

pytestmark = pytest.mark.tpm

NAME = "leased"


def leased_document(term: str = "1h", **parts: str) -> str:
    return document(NAME, **parts) + f"lease: {term}\n"


def apply(network: Authority, term: str = "1h", **parts: str) -> None:
    profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=leased_document(term, **parts)))


@pytest.fixture
def ready(network: Authority, host: HostConfig) -> HostConfig:
    """Host 1, enrolled, its state approved for a leased profile with a term of an hour."""
    apply(network)
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    approve.approve(network.context, ACTOR, NAME, ApproveRequest(host="host-1"))
    sync(host.directory)
    return load_host(host.directory)


def use(config: HostConfig, renewal: Callable[..., StoredLease] | None = None) -> bytes:
    opener = open_keys(config, renewal)
    return opener.ecdh(NAME, 1, "", point=opener.point(NAME, 1, ""))


def renew(config: HostConfig) -> StoredLease:
    return lease.renew(config, NAME, 1, "")


def actions(network: Authority) -> list[str]:
    return [entry.action for entry in audit.list_entries(network.context, 0, 1000)]


def test_approvals_of_a_leased_profile_name_the_lease_key(network: Authority, ready: HostConfig) -> None:
    epoch = open_keys(ready).bundle.epoch_of(NAME, 1, "")
    assert epoch is not None
    assert epoch.mode == "leased"
    assert [approval.mode for approval in epoch.approvals] == ["leased"]
    assert epoch.approvals[0].lease_point == network.context.custody.signer(LEASE_KEY).point
    assert Keyring(ready.directory).key(NAME, 1, "").mode == "leased"


def test_renew_and_use(network: Authority, ready: HostConfig) -> None:
    with pytest.raises(StateRefused, match="there is no lease, and the authority was not asked") as caught:
        use(ready)
    assert caught.value.fields["lease"] == "none"
    stored = renew(ready)
    assert stored.held.signed.seconds == 3600
    assert len(use(ready)) == 32
    path = ready.directory / "leases" / f"{NAME}.1.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "lease.granted" in actions(network)
    view = operator_of(network).leases()[0]
    assert (view.host, view.profile, view.seconds, view.ended, view.renewals) == ("host-1", NAME, 3600, False, 1)


def test_a_launch_asks_once_for_the_lease_it_lacks(ready: HostConfig) -> None:
    asked: list[tuple[Any, ...]] = []

    def renewal(*arguments: Any) -> StoredLease:
        asked.append(arguments[1:])
        return lease.renew(*arguments)

    opener = open_keys(ready, renewal)
    assert opener.ecdh(NAME, 1, "", point=opener.point(NAME, 1, ""))
    assert opener.ecdh(NAME, 1, "", point=opener.point(NAME, 1, ""))
    assert asked == [(NAME, 1, "")]


def test_authorization_is_signed_once_a_boot(network: Authority, ready: HostConfig) -> None:
    first, second = renew(ready).held.signed, renew(ready).held.signed
    assert first.authorization == second.authorization
    assert first.grant != second.grant
    boot(ready)
    third = renew(ready).held.signed
    assert third.reset_count == first.reset_count + 1
    assert third.authorization != first.authorization
    assert use(ready)
    assert operator_of(network).leases()[0].renewals == 3


def test_lease_ends_and_the_refusal_says_when(network: Authority, ready: HostConfig) -> None:
    apply(network, "2s")
    stored = renew(ready)
    assert use(ready)
    time.sleep(2.1)
    with pytest.raises(StateRefused, match=f"the lease until {stored.ends:%Y-%m-%dT%H:%M:%SZ} is over") as caught:
        use(ready)
    assert caught.value.fields["lease"] == "ended"
    assert "sealvm host lease renew" in caught.value.hint
    assert use(ready, lease.renew)


def test_power_cut_ends_a_lease(ready: HostConfig) -> None:
    renew(ready)
    boot(ready)
    with pytest.raises(StateRefused) as caught:
        use(ready)
    assert caught.value.fields["lease"] == "refused"
    assert lease_statuses(ready, datetime.now(UTC))[0].state is LeaseState.RESET
    assert use(ready, lease.renew)


def test_without_the_authority_a_lease_serves_to_its_end(ready: HostConfig) -> None:
    renew(ready)
    away = dataclasses.replace(ready, authority_url="https://127.0.0.1:1")
    assert use(away, lease.renew)
    with pytest.raises(AuthorityAwayFault):
        renew(away)
    assert use(away)
    boot(ready)
    message = r"renewing it failed: the authority at https://127\.0\.0\.1:1 does not answer"
    with pytest.raises(StateRefused, match=message):
        use(away, lease.renew)


def test_explain_shows_the_lease(ready: HostConfig) -> None:
    def answer() -> Any:
        return next(answer for answer in explain_host(ready) if answer.profile == NAME)

    before = answer()
    assert not before.usable
    assert before.lines()[1:] == ["epoch 1: no lease", "to do: sealvm host lease renew, with the authority in reach"]
    stored = renew(ready)
    during = answer()
    assert during.usable
    assert during.lines()[1] == f"epoch 1: lease until {stored.ends:%Y-%m-%dT%H:%M:%SZ}"
    assert during.to_json()["leases"][0]["state"] == "good"
    boot(ready)
    assert "lease ended when the TPM lost power" in answer().lines()[1]


def test_a_state_that_is_not_approved_gets_no_lease(network: Authority, ready: HostConfig) -> None:
    with ready.open_tpm() as tpm:
        pcr.extend(tpm, 9, b"o" * 32)
    with pytest.raises(EvidenceRefused):
        renew(ready)
    assert "lease.refused" in actions(network)


def test_another_good_log_without_approval_gets_no_lease(
    network: Authority, ready: HostConfig, other_host: HostConfig
) -> None:
    enroll(other_host.directory, network.register("host-2", ek_digest_of(other_host)))
    other = load_host(other_host.directory)
    with pytest.raises(StateRefused, match="none of the 1 approved ones"):
        renew(other)
    assert "lease.refused" in actions(network)
    with other.open_tpm() as tpm:
        assert tpm.handles(0x02000000) == tpm.handles(0x03000000) == []


def test_a_profile_that_demands_more_today_ends_leases(network: Authority, ready: HostConfig) -> None:
    renew(ready)
    apply(network, cmdline="something newer")
    with pytest.raises(StateRefused, match="does not meet 'cmdline-exact'"):
        renew(ready)


def test_a_standing_profile_has_no_leases(network: Authority, ready: HostConfig) -> None:
    with pytest.raises(ConflictError, match="is not leased"):
        lease.renew(ready, "measured", 1, "")
    with pytest.raises(NotFoundError):
        lease.renew(ready, "nothing", 1, "")


def test_leased_and_standing_do_not_change_into_each_other(network: Authority, ready: HostConfig) -> None:
    with pytest.raises(ConflictError, match="needs a rotation"):
        profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=document(NAME)))
    with pytest.raises(ConflictError, match="needs a rotation"):
        profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=document() + "lease: 1h\n"))


# what a host could send


class Asking:
    """One request in the making, every part of which a test can change."""

    def __init__(self, network: Authority, config: HostConfig) -> None:
        self.config, self.context = config, network.context
        keyring = Keyring(config.directory)
        self.blobs = keyring.identity().blobs
        self.key = LeaseKey(NAME, 1, "", self.blobs.srk_name, network.context.custody.signer(LEASE_KEY).point)
        self.client: AuthorityClient = connect(config, self.blobs)
        self.challenge = self.client.lease_challenge()
        with config.open_tpm() as tpm:
            self.session = leases.begin(tpm)

    def request(self, **changed: Any) -> LeaseRequest:
        key = changed.pop("key", self.key)
        nonce = changed.pop("challenge", self.challenge.nonce)
        quoted = changed.pop("quoted", self.session.nonce_tpm)
        with self.config.open_tpm() as tpm:
            state = quoted_state(tpm, self.config, self.challenge.pcrs, quote_data(nonce, quoted, key))
        fields = {"session": self.challenge.session, "profile": NAME, "epoch": 1, "cell": ""}
        return LeaseRequest(**{**fields, "nonce_tpm": self.session.nonce_tpm, "state": state, **changed})


@pytest.fixture
def asking(network: Authority, ready: HostConfig) -> Asking:
    return Asking(network, ready)


@pytest.mark.parametrize(
    "changed",
    [
        {"challenge": b"c" * 32},
        {"quoted": b"n" * 32},
        {"key": LeaseKey(NAME, 2, "", b"\0\x0b" + b"s" * 32, b"")},
        {"nonce_tpm": b"n" * 32},
    ],
    ids=["stale challenge", "quote for another session", "another SRK and epoch", "another session"],
)
def test_quote_that_is_not_for_this_request(asking: Asking, changed: dict[str, Any]) -> None:
    with pytest.raises(EvidenceRefused):
        asking.client.renew_lease(asking.request(**changed))


@pytest.mark.parametrize("size", [0, 28, 31, 33, 64])
def test_nonce_of_another_size_never_gets_to_be_signed(asking: Asking, size: int) -> None:
    with pytest.raises(ValueError, match="nonce_tpm"):
        asking.request(nonce_tpm=b"n" * size)
    body = (
        asking.request()
        .model_dump_json()
        .replace('"nonce_tpm":"', f'"nonce_tpm":"{"AAAA" * (size // 3)}' if size else '"nonce_tpm":"AA==","x":"')
    )
    with pytest.raises(MalformedError):
        asking.client._send("POST", "/v1/leases", body.encode())


def test_challenge_is_good_for_one_request(asking: Asking) -> None:
    request = asking.request()
    assert asking.client.renew_lease(request)
    with pytest.raises(EvidenceRefused, match="no pending challenge"):
        asking.client.renew_lease(request)


def test_challenge_of_another_host(network: Authority, asking: Asking, other_host: HostConfig) -> None:
    enroll(other_host.directory, network.register("host-2", ek_digest_of(other_host)))
    other = load_host(other_host.directory)
    with (
        connect(other, Keyring(other.directory).identity().blobs) as client,
        pytest.raises(EvidenceRefused, match="no pending challenge"),
    ):
        client.renew_lease(asking.request())


def test_challenge_that_is_too_old(network: Authority, asking: Asking) -> None:
    request = asking.request()
    host = _record(network)
    network.clock.offset = timedelta(minutes=6)
    with pytest.raises(EvidenceRefused, match="no pending challenge"):
        authority_lease.renew(network.context, host, request)


def _record(network: Authority) -> Any:
    with network.context.store.read() as tx:
        return tx.host("host-1")


def test_relay_for_another_host_names_the_asker(network: Authority, asking: Asking, other_host: HostConfig) -> None:
    """An honest host that asks with a stranger's nonce gets a grant that names its own SRK: useless to the stranger."""
    answer = asking.client.renew_lease(asking.request())
    stranger = dataclasses.replace(asking.key, srk_name=b"\x00\x0b" + b"s" * 32)
    with pytest.raises(SignatureRefused), asking.config.open_tpm() as tpm:
        leases.finish(tpm, asking.session, stranger, answer.lease)


def test_host_that_is_gone_gets_nothing(network: Authority, asking: Asking) -> None:
    request, host = asking.request(), _record(network)
    with network.context.store.write() as tx:
        tx.update_host(dataclasses.replace(host, request_keyid=None, enrolled=None))
    with pytest.raises(AccessRefused):
        asking.client.renew_lease(request)
    with pytest.raises(AccessRefused, match="removed or enrolled anew"):
        authority_lease.renew(network.context, host, request)


def test_a_removed_hosts_lease_runs_out_without_its_cooperation(network: Authority, ready: HostConfig) -> None:
    apply(network, "2s")
    renew(ready)
    with network.context.store.write() as tx:
        tx.update_host(dataclasses.replace(_record(network), request_keyid=None, enrolled=None))
    assert use(ready, lease.renew)
    time.sleep(2.1)
    with pytest.raises(StateRefused, match="renewing it failed"):
        use(ready, lease.renew)


def test_standing_of_trust_class(network: Authority, asking: Asking) -> None:
    host = dataclasses.replace(_record(network), trust_class="virtual")
    with pytest.raises(AccessRefused, match="not for host"):
        authority_lease.renew(network.context, host, asking.request())


def test_unknown_epoch(asking: Asking) -> None:
    with pytest.raises(NotFoundError, match="epoch 7"):
        asking.client.renew_lease(asking.request(epoch=7))


def test_answer_for_another_profile_key_or_boot_is_not_believed(asking: Asking) -> None:
    from sealvm.protocol.lease import accept_answer

    answer = asking.client.renew_lease(asking.request())
    boot_now, nonce = asking.session.reset_count, asking.session.nonce_tpm
    accept_answer(answer, asking.key, nonce_tpm=nonce, reset_count=boot_now)
    with pytest.raises(ConflictError):
        accept_answer(answer, asking.key, nonce_tpm=nonce, reset_count=boot_now + 1)
    for key, other in ((dataclasses.replace(asking.key, epoch=2), nonce), (asking.key, b"n" * 32)):
        with pytest.raises(SignatureRefused):
            accept_answer(answer, key, nonce_tpm=other, reset_count=boot_now)


def test_killed_between_asking_and_answer(
    network: Authority, ready: HostConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was under way when the process died, the next renewal works and leaves no session behind."""
    for place in ("begin", "finish"):
        real = getattr(leases, place)

        def dies(*arguments: Any, real: Any = real, place: str = place) -> Any:
            if place == "begin":
                real(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(leases, place, dies)
            with pytest.raises(KeyboardInterrupt):
                renew(ready)
        assert renew(ready)
        with ready.open_tpm() as tpm:
            assert tpm.handles(0x02000000) == tpm.handles(0x03000000) == []


def test_lease_file_of_another_key_is_malformed(ready: HostConfig) -> None:
    renew(ready)
    folder = ready.directory / "leases"
    (folder / f"{NAME}.1.json").rename(folder / f"{NAME}.2.json")
    with pytest.raises(MalformedError, match="holds what belongs into"):
        Keyring(ready.directory).lease(NAME, 2, "")
    (folder / f"{NAME}.1.json").write_bytes(b"{}")
    with pytest.raises(MalformedError):
        Keyring(ready.directory).lease(NAME, 1, "")


def test_tpm_that_is_off(ready: HostConfig) -> None:
    from sealvm.errors import TpmAwayFault

    Swtpm(ready.directory / "tpm").stop()
    with pytest.raises(TpmAwayFault):
        renew(ready)


def test_statuses_of_a_host_without_leased_keys(tmp_path: Path) -> None:
    assert lease_statuses(HostConfig(directory=tmp_path, name="h", tcti="swtpm:path=/none"), datetime.now(UTC)) == []


def test_names(asking: Asking) -> None:
    assert asking.blobs.srk_name == name_of(asking.blobs.srk_public)
