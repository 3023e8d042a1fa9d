"""IMA from end to end: recorded logs in a software TPM, judged at each renewal of a lease, never part of a state."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sealvm.authority import approve, audit, profiles
from sealvm.authority.observed import state_id_of
from sealvm.client.authority import AuthorityClient
from sealvm.errors import EvidenceRefused, MalformedError, StateRefused
from sealvm.host import lease
from sealvm.host.config import SYSTEM_IMA_LOG, HostConfig, load_host, save_host
from sealvm.host.enroll import enroll
from sealvm.host.evidence import saved_evidence
from sealvm.host.explain import explain_host, measured_state, read_ima_log
from sealvm.host.keyring import Keyring
from sealvm.host.sync import connect, quoted_state, sync
from sealvm.lab.swtpm import replay_pcrs
from sealvm.protocol.enroll import quote_nonce
from sealvm.protocol.messages import IMA_LOG_BYTES_LIMIT, QuotedState, SyncRequest
from sealvm.protocol.operator import ApplyRequest, ApproveRequest
from sealvm.tcg.imalog import IMA_PCR, parse_ima_log
from tests.attest.logs import BOOTS, booted
from tests.attest.test_evidence_ima import entry
from tests.authority.harness import ACTOR, Authority, boot, document, ek_digest_of

pytestmark = pytest.mark.tpm

NAME = "files"
BAD = entry("/bin/bad", b"b" * 32)


def boot_as(config: HostConfig, recording: str) -> None:
    """Power the host off, and on again with the recorded boot's logs, PCRs (IMA's too) and preimages."""
    assert config.preimages is not None
    assert config.ima_log is not None
    pairs = (("eventlog.bin", config.eventlog), ("preimages.json", config.preimages), ("ima.bin", config.ima_log))
    for name, path in pairs:
        shutil.copyfile(BOOTS[recording] / name, path)
    boot(config)
    measure(config, config.ima_log.read_bytes())


def measure(config: HostConfig, entries: bytes) -> None:
    """What the kernel does at a file that is opened, but for the log."""
    replay_pcrs(config.tcti, [(one.pcr, one.digest) for one in parse_ima_log(entries)])


def show(config: HostConfig, entries: bytes) -> None:
    assert config.ima_log is not None
    config.ima_log.write_bytes(config.ima_log.read_bytes() + entries)


def files_document(recording: str = "ima-ng") -> str:
    cmdline = json.loads((BOOTS[recording] / "boot.json").read_text())["cmdline"]
    known = booted("ima-ng", range(11)).evidence["ima.files"].value
    assert isinstance(known, tuple)
    files = f"{{name: known-files, says: only known files, fact: ima.files, in: [{', '.join(known)}]}}"
    return f"{document(NAME, cmdline=cmdline)}  - {files}\nlease: 1h\n"


def prepare(network: Authority, host: HostConfig, recording: str = "ima-ng") -> HostConfig:
    save_host(dataclasses.replace(host, imalog=host.directory / "ima.bin"))
    config = load_host(host.directory)
    profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=files_document(recording)))
    boot_as(config, recording)
    enroll(config.directory, network.register("host-1", ek_digest_of(config)))
    approve.approve(network.context, ACTOR, NAME, ApproveRequest(host="host-1"))
    sync(config.directory)
    return load_host(config.directory)


@pytest.fixture
def ready(network: Authority, host: HostConfig) -> HostConfig:
    """Host 1 in a recorded boot with IMA, approved for a leased profile that lists the files that may be opened."""
    return prepare(network, host)


def renew(config: HostConfig) -> None:
    lease.renew(config, NAME, 1, "")


def asking(config: HostConfig) -> AuthorityClient:
    return connect(config, Keyring(config.directory).identity().blobs)


def quote_now(config: HostConfig, client: AuthorityClient) -> SyncRequest:
    challenge = client.sync_challenge()
    assert IMA_PCR in challenge.pcrs
    with config.open_tpm() as tpm:
        state = quoted_state(tpm, config, challenge.pcrs, quote_nonce("sync-quote", challenge.nonce))
    return SyncRequest(session=challenge.session, state=state)


def states(network: Authority) -> int:
    with network.context.store.read() as tx:
        return len(list(tx.observed_values("host-1")))


def test_known_files_get_a_lease(ready: HostConfig) -> None:
    renew(ready)
    answer = next(one for one in explain_host(ready) if one.profile == NAME)
    assert answer.usable
    assert answer.explanation.breaks == ()


def test_a_new_file_ends_renewals_until_a_reboot_and_is_no_new_state(network: Authority, ready: HostConfig) -> None:
    renew(ready)
    before = states(network)
    measure(ready, BAD)
    show(ready, BAD)
    with pytest.raises(StateRefused, match="does not meet 'known-files'"):
        renew(ready)
    assert audit.list_entries(network.context, 0, 1000)[-1].action == "lease.refused"
    sync(ready.directory)
    assert states(network) == before
    answer = next(one for one in explain_host(ready) if one.profile == NAME)
    assert answer.usable  # the lease that it has goes on to its end
    assert any(line.startswith('no further lease: known-files "only known files"') for line in answer.lines())
    boot_as(ready, "ima-ng")
    renew(ready)


def test_the_log_may_be_longer_than_the_quote(ready: HostConfig) -> None:
    """As when a file is opened between quote and reading. What the quote does not cover is not judged yet."""
    show(ready, BAD)
    renew(ready)
    assert measured_state(ready).evidence["ima.files"].value == booted("ima-ng", range(11)).evidence["ima.files"].value


@pytest.mark.parametrize(
    ("shown", "error"),
    [(entry("/bin/good", b"b" * 32), EvidenceRefused), (BAD + BAD[:40], MalformedError), (b"", EvidenceRefused)],
)
def test_a_log_that_does_not_lead_to_the_quote_is_refused(
    ready: HostConfig, shown: bytes, error: type[EvidenceRefused | MalformedError]
) -> None:
    measure(ready, BAD)
    show(ready, shown)
    with pytest.raises(error) as caught:
        renew(ready)
    if isinstance(caught.value, EvidenceRefused):
        assert "no part of IMA's log of" in caught.value.message
        assert caught.value.fields["pcr"] == IMA_PCR
        with pytest.raises(EvidenceRefused):
            sync(ready.directory)


def test_without_a_log_nothing_is_known_of_the_files(ready: HostConfig) -> None:
    assert ready.ima_log is not None
    ready.ima_log.unlink()
    sync(ready.directory)
    with pytest.raises(StateRefused, match="known-files"):
        renew(ready)
    answer = next(one for one in explain_host(ready) if one.profile == NAME)
    assert [broken.name for broken in answer.explanation.breaks] == ["known-files"]
    assert IMA_PCR not in measured_state(ready).pcr_values


def test_without_a_log_the_value_must_be_the_quoted_one(ready: HostConfig) -> None:
    assert ready.ima_log is not None
    ready.ima_log.unlink()
    with asking(ready) as client:
        for forged in ({}, {IMA_PCR: bytes(32)}, {IMA_PCR: b"\1" * 32}):
            request = quote_now(ready, client)
            values = {pcr: value for pcr, value in request.state.pcr_values.items() if pcr != IMA_PCR} | forged
            state = request.state.model_copy(update={"pcr_values": values})
            with pytest.raises(EvidenceRefused):
                client.sync(request.model_copy(update={"state": state}))


def test_a_log_that_is_too_long_is_not_sent(ready: HostConfig, caplog: pytest.LogCaptureFixture) -> None:
    show(ready, bytes(IMA_LOG_BYTES_LIMIT))
    assert read_ima_log(ready) is None
    assert f"longer than {IMA_LOG_BYTES_LIMIT} bytes" in caplog.text
    with asking(ready) as client:
        request = quote_now(ready, client)
        assert request.state.ima_log is None
        client.sync(request)
    with pytest.raises(ValueError, match="ima_log"):
        QuotedState.model_validate(dict(request.state) | {"ima_log": bytes(IMA_LOG_BYTES_LIMIT + 1)})


@pytest.mark.parametrize("recording", ["ima-old", "ima-violation"])
def test_boots_whose_files_are_not_proved_are_approved_and_get_no_lease(
    network: Authority, host: HostConfig, recording: str
) -> None:
    config = prepare(network, host, recording)
    with pytest.raises(StateRefused, match="known-files"):
        renew(config)


def test_pcr_10_is_asked_for_only_while_a_profile_needs_it(network: Authority, host: HostConfig) -> None:
    save_host(dataclasses.replace(host, imalog=host.directory / "ima.bin"))
    boot_as(load_host(host.directory), "ima-ng")
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    config = load_host(host.directory)
    with asking(config) as client:
        pcrs = client.sync_challenge().pcrs
    assert IMA_PCR not in pcrs
    with config.open_tpm() as tpm:
        assert quoted_state(tpm, config, pcrs, b"n" * 32).ima_log is None
    assert IMA_PCR not in saved_evidence(config).pcrs


def test_no_profile_selects_pcr_10(network: Authority) -> None:
    text = document("moving", pcrs="0, 2, 4, 7, 9, 10")
    with pytest.raises(MalformedError, match="PCR 10, of which no approved state can consist"):
        profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=text))


def test_states_that_differ_by_pcr_10_are_one() -> None:
    assert state_id_of("lab", {0: b"x" * 32, 10: b"a" * 32}) == state_id_of("lab", {0: b"x" * 32})
    assert state_id_of("lab", {0: b"y" * 32}) != state_id_of("lab", {0: b"x" * 32})


def test_where_the_log_is(tmp_path: Path) -> None:
    assert HostConfig(tmp_path, "h").ima_log == Path(SYSTEM_IMA_LOG)
    assert HostConfig(tmp_path, "h", eventlog=tmp_path / "eventlog.bin").ima_log is None
    save_host(HostConfig(tmp_path, "h", eventlog=tmp_path / "eventlog.bin", imalog=tmp_path / "ima.bin"))
    assert load_host(tmp_path).ima_log == tmp_path / "ima.bin"
