"""The life of an epoch on real hosts: rotation, withdrawal, retirement, cells, rules, and launches in between."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from sealvm.authority import approve, cells, profiles, queue, retire, rotate, rules
from sealvm.errors import (
    ConflictError,
    EvidenceRefused,
    InputError,
    NoRecipientRefused,
    NotFoundError,
    RollbackRefused,
    StateRefused,
)
from sealvm.host.bundles import warnings
from sealvm.host.config import HostConfig, load_host
from sealvm.host.enroll import enroll
from sealvm.host.evidence import saved_evidence
from sealvm.host.keyring import Keyring
from sealvm.host.sync import import_bundle, sync
from sealvm.host.unlock import open_keys, stored_bundle
from sealvm.lab.network import write_recording
from sealvm.lab.recording import load_recording
from sealvm.protocol.operator import ApplyRequest, ApproveRequest
from sealvm.protocol.trust import (
    AssignRequest,
    CellRequest,
    RetireRequest,
    RotateRequest,
    RuleRequest,
    WithdrawRequest,
    parse_evidence,
)
from tests.authority.harness import ACTOR, Authority, boot, ek_digest_of

pytestmark = pytest.mark.tpm

LOOSE = "root=/dev/vda *"


@pytest.fixture
def enrolled(network: Authority, host: HostConfig) -> HostConfig:
    """Host 1, enrolled, in the good state, which is approved."""
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    accept(network)
    sync(host.directory)
    return load_host(host.directory)


def accept(network: Authority, host: str = "host-1", **fields: object) -> list[str]:
    request = ApproveRequest.model_validate({"host": host, **fields})
    return [view.outcome for view in approve.approve(network.context, ACTOR, "measured", request)]


def turn(network: Authority, **fields: object):
    return rotate.rotate(network.context, ACTOR, "measured", RotateRequest.model_validate(fields))


def take(network: Authority, state: str, **fields: object):
    return rotate.withdraw(network.context, ACTOR, "measured", WithdrawRequest(state=state, **fields))


def end(network: Authority, epoch: int, **fields: object):
    return retire.retire(network.context, ACTOR, "measured", RetireRequest(epoch=epoch, **fields))


def usable(config: HostConfig, epoch: int, cell: str = "") -> bool:
    opener = open_keys(load_host(config.directory))
    if not opener.holds("measured", epoch, cell):
        return False
    try:
        return len(opener.ecdh("measured", epoch, cell, point=opener.point("measured", epoch, cell))) == 32
    except StateRefused:
        return False


def approved_digest(network: Authority) -> str:
    with network.context.store.read() as tx:
        return tx.approvals("measured")[0].pcr_digest.hex()


def actions(network: Authority) -> list[str]:
    with network.context.store.read() as tx:
        return [entry.action for entry in tx.audit(0, 1000)]


def test_rotation_carries_approvals_and_overlaps(network: Authority, enrolled: HostConfig) -> None:
    dry = turn(network, dry_run=True)
    assert (dry.dry_run, [len(epoch.carried) for epoch in dry.epochs], dry.hosts_to_sync) == (True, [1], ("host-1",))
    assert "profile.epoch-created" not in actions(network)
    view = turn(network)
    assert [(epoch.epoch, epoch.dropped, epoch.pending) for epoch in view.epochs] == [(2, (), ())]
    assert "profile.epoch-created" in actions(network)
    assert (usable(enrolled, 1), usable(enrolled, 2)) == (True, False)  # not updated yet
    report = sync(enrolled.directory)
    assert report.new_keys == (("measured", 2, ""),)
    assert (usable(enrolled, 1), usable(enrolled, 2)) == (True, True)
    assert sync(enrolled.directory).new_keys == ()


def test_a_rotation_drops_states_that_the_present_document_refuses(network: Authority, enrolled: HostConfig) -> None:
    network.apply(cmdline="something=else")
    view = turn(network)
    assert view.epochs[0].carried == ()
    assert "cmdline-exact" in view.epochs[0].dropped[0].why
    sync(enrolled.directory)
    assert (usable(enrolled, 1), usable(enrolled, 2)) == (True, False)


def test_rotating_what_is_not_there(network: Authority) -> None:
    with pytest.raises(NotFoundError, match="profile 'nothing'"):
        rotate.rotate(network.context, ACTOR, "nothing", RotateRequest())
    with pytest.raises(NotFoundError, match="no cell 'nowhere'"):
        turn(network, cell="nowhere")


def test_withdrawal_makes_an_epoch_without_the_state_and_closes_the_old(
    network: Authority, enrolled: HostConfig
) -> None:
    digest = approved_digest(network)
    dry = take(network, digest[:16], dry_run=True)
    assert (dry.losing, dry.epochs[0].dropped[0].why) == (("host-1",), "withdrawn")
    assert any("stays openable" in line for line in dry.says)
    take(network, digest[:16])
    sync(enrolled.directory)
    assert (usable(enrolled, 1), usable(enrolled, 2)) == (True, False)
    epochs = {e.epoch: e.wraps for p in stored_bundle(Keyring(enrolled.directory)).profiles for e in p.epochs}
    assert epochs == {1: False, 2: True}
    with pytest.raises(ConflictError, match="withdrawn"):
        accept(network)
    assert queue.queue(network.context, "measured")[0].withdrawn
    assert accept(network, reinstate=True) == ["existing", "signed"]
    sync(enrolled.directory)
    assert usable(enrolled, 2)


def test_withdrawing_what_is_not_approved(network: Authority, enrolled: HostConfig) -> None:
    with pytest.raises(NotFoundError, match="approves no state"):
        take(network, "00" * 8)


def test_retirement_takes_the_key_from_hosts_and_ends_approvals(network: Authority, enrolled: HostConfig) -> None:
    with pytest.raises(ConflictError, match="newest"):
        end(network, 1)
    turn(network)
    assert end(network, 1, dry_run=True).behind == ("host-1",)
    sync(enrolled.directory)
    assert end(network, 1, dry_run=True).behind == ()
    assert end(network, 1).blocking == ()
    report = sync(enrolled.directory)
    assert report.removed_keys == (("measured", 1, ""),)
    assert report.all_keys == (("measured", 2, ""),)
    with pytest.raises(ConflictError, match="retired"):
        accept(network, epoch=1)
    with pytest.raises(ConflictError, match="retired"):
        end(network, 1)
    with pytest.raises(NotFoundError, match="no epoch 7"):
        end(network, 7)
    opener = open_keys(load_host(enrolled.directory))
    with pytest.raises(NoRecipientRefused):
        opener.point("measured", 1, "")
    assert usable(enrolled, 2)


def test_cells_have_keys_of_their_own(network: Authority, enrolled: HostConfig, other_host: HostConfig) -> None:
    foreseen = cells.add_cell(network.context, ACTOR, "measured", CellRequest(cell="east", dry_run=True))
    made = cells.add_cell(network.context, ACTOR, "measured", CellRequest(cell="east"))
    assert foreseen == made.model_copy(update={"dry_run": True})
    assert (made.epoch, made.cell, len(made.carried)) == (1, "east", 1)
    with pytest.raises(ConflictError, match="already"):
        cells.add_cell(network.context, ACTOR, "measured", CellRequest(cell="east"))
    with pytest.raises(NotFoundError, match="no profile has a cell"):
        cells.assign_host(network.context, ACTOR, "host-1", AssignRequest(cell="west"))
    with pytest.raises(NotFoundError, match="not registered"):
        cells.assign_host(network.context, ACTOR, "nobody", AssignRequest(cell="east"))
    ticket = network.register("host-2", ek_digest_of(other_host))
    cells.assign_host(network.context, ACTOR, "host-2", AssignRequest(cell="east"))
    assert enroll(other_host.directory, ticket).all_keys == (("measured", 1, "east"),)
    sync(enrolled.directory)
    tried = cells.assign_host(network.context, ACTOR, "host-1", AssignRequest(cell="east", dry_run=True))
    assert [v.hosts for v in cells.list_cells(network.context, None)] == [("host-1",), ("host-2",)]
    view = cells.assign_host(network.context, ACTOR, "host-1", AssignRequest(cell="east"))
    assert tried == view.model_copy(update={"dry_run": True})
    assert view.keeps == ("measured epoch 1",)
    assert sync(enrolled.directory).new_keys == (("measured", 1, "east"),)
    assert usable(enrolled, 1, "east")
    assert {(v.cell, v.hosts) for v in cells.list_cells(network.context, None)} == {
        ("", ()),
        ("east", ("host-1", "host-2")),
    }
    assert [(e.epoch, e.cell) for e in turn(network, cell="east").epochs] == [(2, "east")]
    assert [(e.epoch, e.cell) for e in turn(network).epochs] == [(3, ""), (3, "east")]


def test_rules_that_cannot_be(network: Authority, enrolled: HostConfig) -> None:
    with pytest.raises(InputError, match="does not select PCR 14"):
        rules.add_rule(network.context, ACTOR, "measured", RuleRequest(name="firmware", match=(0, 14)))
    turn(network)
    ended = RuleRequest(name="firmware", match=(0, 2, 7), until_epoch=1)
    with pytest.raises(InputError, match="older than the present"):
        rules.add_rule(network.context, ACTOR, "measured", ended)
    with pytest.raises(NotFoundError, match="no cell"):
        rules.add_rule(network.context, ACTOR, "measured", RuleRequest(name="firmware", match=(0,), cell="east"))


def test_rule_covers_same_firmware_and_meets_requirements(
    network: Authority, enrolled: HostConfig, other_host: HostConfig
) -> None:
    enroll(other_host.directory, network.register("host-2", ek_digest_of(other_host)))
    request = RuleRequest(name="firmware", match=(0, 2, 7), until_epoch=2)
    added = rules.add_rule(network.context, ACTOR, "measured", request)
    assert [(view.state, view.covers) for view in added] == [("active", ())]  # the tampered state meets no requirement
    sync(other_host.directory)
    assert not usable(other_host, 1)
    with pytest.raises(ConflictError, match="already"):
        rules.add_rule(network.context, ACTOR, "measured", request)


def test_rule_signed_state_is_usable_in_the_tpm(network: Authority, enrolled: HostConfig) -> None:
    """The profile now accepts two command lines; the second is approved by rule, and the TPM accepts it."""
    document = network.apply().document.replace(
        "    equals: root=/dev/vda ro lockdown=integrity initrd=initrd", "    matches: 'root=/dev/vda *'"
    )
    profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=document))
    write_recording(enrolled.directory, load_recording("tampered"))
    boot(enrolled)
    sync(enrolled.directory)
    assert not usable(enrolled, 1)
    request = RuleRequest(name="firmware", match=(0, 2, 7), until_epoch=2)
    dry = rules.add_rule(network.context, ACTOR, "measured", request.model_copy(update={"dry_run": True}))
    assert len(dry[0].covers) == 1
    added = rules.add_rule(network.context, ACTOR, "measured", request)
    assert len(added[0].covers) == 1
    sync(enrolled.directory)
    assert usable(enrolled, 1)
    assert "profile.state-approved-by-rule" in actions(network)
    turn(network)  # until epoch 2
    sync(enrolled.directory)
    assert usable(enrolled, 2)
    assert "ends with epoch 2" in turn(network).epochs[0].dropped[0].why
    sync(enrolled.directory)
    assert not usable(enrolled, 3)


def test_queue_and_saved_evidence(network: Authority, enrolled: HostConfig, other_host: HostConfig) -> None:
    assert queue.queue(network.context, None) == []
    enroll(other_host.directory, network.register("host-2", ek_digest_of(other_host)))
    (entry,) = queue.queue(network.context, "measured")
    assert (entry.host, entry.satisfied, entry.hosts_in_it) == ("host-2", False, ("host-2",))
    assert any(difference.what == "kernel command line" for difference in entry.differences)
    state = entry.pcr_digest.hex()[:12]
    with pytest.raises(EvidenceRefused, match="cmdline-exact"):
        approve.approve(network.context, ACTOR, "measured", ApproveRequest(state=state))
    with pytest.raises(NotFoundError, match="no host was seen"):
        approve.approve(network.context, ACTOR, "measured", ApproveRequest(state="00" * 8))
    with pytest.raises(InputError, match="either a host or a state"):
        approve.approve(network.context, ACTOR, "measured", ApproveRequest())
    saved = parse_evidence(saved_evidence(load_host(enrolled.directory)).model_dump_json().encode())
    taken = queue.add_evidence(network.context, ACTOR, saved)
    view = approve.approve(network.context, ACTOR, "measured", ApproveRequest(state=taken.profiles["measured"].hex()))
    assert [v.outcome for v in view] == ["existing"]
    for wrong in (
        saved.model_copy(update={"nonce": bytes(32)}),
        saved.model_copy(update={"pcrs": saved.pcrs[1:]}),
        saved.model_copy(update={"host": "host-2"}),
    ):
        with pytest.raises(EvidenceRefused):
            queue.add_evidence(network.context, ACTOR, wrong)
    with pytest.raises(NotFoundError, match="not enrolled"):
        queue.add_evidence(network.context, ACTOR, saved.model_copy(update={"host": "nobody"}))


def test_bundles_on_a_stick(network: Authority, enrolled: HostConfig) -> None:
    with network.context.store.read() as tx:
        old = tx.bundle().envelope
    turn(network)
    with network.context.store.read() as tx:
        new = tx.bundle().envelope
    before = stored_bundle(Keyring(enrolled.directory)).version
    assert import_bundle(enrolled.directory, new).version == before + 1
    assert import_bundle(enrolled.directory, new).version == before + 1
    with pytest.raises(RollbackRefused, match="version"):
        import_bundle(enrolled.directory, old)
    assert usable(enrolled, 1)


def test_a_clock_set_back_is_noticed(network: Authority, enrolled: HostConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = Keyring(enrolled.directory)
    anchor = keyring.anchor()
    assert anchor.passed is not None
    assert anchor.issued is not None
    bundle = stored_bundle(keyring)
    now = datetime.now(UTC)
    assert warnings(anchor, bundle, now) == ()
    assert "passed already" in warnings(anchor, bundle, now - timedelta(hours=1))[0]
    late = dataclasses.replace(anchor, passed=now + timedelta(days=40))
    assert "expired" in warnings(late, bundle, now)[0]
    keyring.save_anchor(late)
    with pytest.raises(RollbackRefused, match="set back"):
        sync(enrolled.directory)
    assert usable(enrolled, 1)
    keyring.save_anchor(dataclasses.replace(anchor, issued=now + timedelta(days=1)))
    with pytest.raises(RollbackRefused, match="not before"):
        sync(enrolled.directory)
