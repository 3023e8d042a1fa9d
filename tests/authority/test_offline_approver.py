"""An approver without a network: requests go out as a file, are judged there, and only its signatures come back."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete

from sealvm.attest.replayable import replayable
from sealvm.attest.state import MeasuredState, local_state
from sealvm.authority import airgap, approve, review, rotate, rules
from sealvm.authority.local import create
from sealvm.authority.sql import tables
from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import (
    ConflictError,
    EvidenceRefused,
    InputError,
    IntegrityRefused,
    NotFoundError,
    SignatureRefused,
    UntrustedRefused,
)
from sealvm.host.config import HostConfig, load_host
from sealvm.host.enroll import enroll
from sealvm.host.sync import sync
from sealvm.lab.recording import load_recording
from sealvm.lab.swtpm import LabCa
from sealvm.protocol.operator import ApproveRequest
from sealvm.protocol.trust import (
    ApproverRequest,
    Prediction,
    RotateRequest,
    RuleRequest,
    parse_approver_answer,
    parse_approver_request,
)
from tests.authority.harness import ACTOR, Authority, Server, ek_digest_of
from tests.authority.test_rotation import usable

pytestmark = pytest.mark.tpm

APPROVER = SoftwareSigner.generate()


@pytest.fixture
def offline(server: Server, tmp_path: Path, initialised: Path, lab_ca: LabCa) -> Authority:
    """A served authority that has no approver's private key."""
    directory = tmp_path / "authority"
    create(directory, APPROVER.point)
    shutil.rmtree(directory / "tls")  # the one TLS socket of this session has the other authority's CA
    shutil.copytree(initialised / "tls", directory / "tls")
    authority = server.serve(directory)
    authority.trust(lab_ca)
    authority.apply()
    return authority


@pytest.fixture
def waiting(offline: Authority, host: HostConfig) -> HostConfig:
    enroll(host.directory, offline.register("host-1", ek_digest_of(host)))
    views = approve.approve(offline.context, ACTOR, "measured", ApproveRequest(host="host-1"))
    assert [view.outcome for view in views] == ["pending"]
    return load_host(host.directory)


def exported(authority: Authority) -> ApproverRequest:
    return parse_approver_request(airgap.waiting(authority.context).model_dump_json().encode())


def answered(request: ApproverRequest, **how: bool):
    answer = review.sign(review.review(request, APPROVER.point), APPROVER, **how)
    return parse_approver_answer(answer.model_dump_json().encode())


def test_request_sign_import(offline: Authority, waiting: HostConfig) -> None:
    sync(waiting.directory)
    assert not usable(waiting, 1)
    request = exported(offline)
    (item,) = review.review(request, APPROVER.point)
    assert any(line.strip().startswith("met") for line in item.lines)
    assert any("lockdown=integrity" in line for line in item.lines)
    answer = answered(request)
    view = airgap.import_answer(offline.context, ACTOR, answer)
    assert (len(view.approvals), view.unknown, view.waiting) == (1, (), 0)
    assert len(airgap.import_answer(offline.context, ACTOR, answer).unknown) == 1
    sync(waiting.directory)
    assert usable(waiting, 1)


def test_rotation_and_rules_wait_for_the_approver(offline: Authority, waiting: HostConfig) -> None:
    airgap.import_answer(offline.context, ACTOR, answered(exported(offline)))
    rule = RuleRequest(name="firmware", match=(0, 2, 7))
    assert rules.add_rule(offline.context, ACTOR, "measured", rule)[0].state == "pending"
    view = rotate.rotate(offline.context, ACTOR, "measured", RotateRequest())
    assert (len(view.epochs[0].pending), view.epochs[0].carried) == (1, ())
    sync(waiting.directory)
    assert (usable(waiting, 1), usable(waiting, 2)) == (True, False)
    taken = airgap.import_answer(offline.context, ACTOR, answered(exported(offline)))
    assert (len(taken.approvals), len(taken.delegations)) == (1, 1)
    assert rules.list_rules(offline.context, "measured")[0].state == "active"
    sync(waiting.directory)
    assert usable(waiting, 2)


def test_a_delegation_to_a_rule_that_is_gone(offline: Authority, waiting: HostConfig) -> None:
    airgap.import_answer(offline.context, ACTOR, answered(exported(offline)))
    rules.add_rule(offline.context, ACTOR, "measured", RuleRequest(name="firmware", match=(0, 2, 7)))
    answer = answered(exported(offline))
    with offline.context.store.write() as tx:
        tx._connection.execute(delete(tables.rules))  # type: ignore[attr-defined]  # no use case removes one
    with pytest.raises(NotFoundError, match="no rule with the key"):
        airgap.import_answer(offline.context, ACTOR, answer)
    assert len(exported(offline).requests) == 1


def test_the_approver_judges_for_itself(offline: Authority, waiting: HostConfig) -> None:
    request = exported(offline)
    (item,) = request.requests
    with pytest.raises(UntrustedRefused):
        review.review(request, SoftwareSigner.generate().point)
    altered = {**item.pcr_values, 9: bytes(32)}
    with pytest.raises(IntegrityRefused, match="gives the digest"):
        review.review(_with(request, pcr_values=altered), APPROVER.point)
    with pytest.raises(IntegrityRefused, match="gives the digest"):
        review.review(_with(request, statement={**item.statement, "epoch": 2}), APPROVER.point)
    other = load_recording("tampered")
    for wrong, why in (
        ({"event_log": other.eventlog}, "does not lead to"),
        ({"document": item.document.replace("lockdown=integrity", "lockdown=none")}, "every requirement"),
        ({"document": item.document.replace("name: measured", "name: other")}, "another profile"),
    ):
        (judged,) = review.review(_with(request, **wrong), APPROVER.point)
        assert why in judged.refused
        assert review.sign([judged], APPROVER).signed == ()
    (blind,) = review.review(_with(request, event_log=b""), APPROVER.point)
    assert review.sign([blind], APPROVER).signed == ()
    assert len(review.sign([blind], APPROVER, unseen=True).signed) == 1


def test_wrong_answers_store_nothing(offline: Authority, waiting: HostConfig) -> None:
    request = exported(offline)
    stranger = SoftwareSigner.generate()
    answer = answered(request)
    (signed,) = answer.signed
    with pytest.raises(UntrustedRefused):
        airgap.import_answer(offline.context, ACTOR, answer.model_copy(update={"approver": stranger.point}))
    forged = signed.model_copy(update={"signature": stranger.sign_digest(bytes.fromhex(signed.request_id))})
    with pytest.raises(SignatureRefused):
        airgap.import_answer(offline.context, ACTOR, answer.model_copy(update={"signed": (forged,)}))
    assert len(exported(offline).requests) == 1


def test_nothing_waits_where_the_key_is_in_custody(authority: Authority) -> None:
    with pytest.raises(ConflictError, match="in its custody"):
        airgap.waiting(authority.context)


def test_a_predicted_state_is_replayed_and_judged(network: Authority, host: HostConfig) -> None:
    state = good_state()
    log, preimages = replayable(state)
    prediction = Prediction(
        format="sealvm-predicted-state-v1",
        label="kernel 2",
        pcr_values=dict(state.pcr_values),
        event_log=log,
        preimages=preimages,
    )
    request = ApproveRequest()
    (view,) = approve.approve_predicted(network.context, ACTOR, "measured", request, prediction)
    assert (view.outcome, view.host) == ("signed", "")
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    assert usable(load_host(host.directory), 1)  # approved before it ever booted
    network.apply(name="strict", cmdline="something=else")
    with pytest.raises(EvidenceRefused, match="cmdline-exact"):
        approve.approve_predicted(network.context, ACTOR, "strict", request, prediction)
    wrong = prediction.model_copy(update={"pcr_values": {**prediction.pcr_values, 9: bytes(32)}})
    with pytest.raises(EvidenceRefused, match="does not hold together"):
        approve.approve_predicted(network.context, ACTOR, "measured", request, wrong)
    short = prediction.model_copy(update={"pcr_values": {0: prediction.pcr_values[0]}})
    with pytest.raises(EvidenceRefused, match="no value of PCR"):
        approve.approve_predicted(network.context, ACTOR, "measured", request, short)
    with pytest.raises(InputError):
        approve.approve_predicted(network.context, ACTOR, "measured", ApproveRequest(host="host-1"), prediction)


def test_a_state_that_does_not_replay_is_not_written() -> None:
    state = good_state()
    with pytest.raises(EvidenceRefused, match="cannot be written"):
        replayable(dataclasses.replace(state, events=state.events[:-1]))


def good_state() -> MeasuredState:
    """The recorded good boot, without PCR 10, which its log says nothing of."""
    recording = load_recording("good")
    values = {pcr: value for pcr, value in recording.pcr_values.items() if pcr != 10}
    return local_state(values, recording.eventlog, recording.preimages)


def _with(request: ApproverRequest, **changes: object) -> ApproverRequest:
    return request.model_copy(update={"requests": (request.requests[0].model_copy(update=changes),)})
