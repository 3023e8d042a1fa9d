"""What rules may approve without a person: so many states of a host, so large, and never all of the trust bundle."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest

from sealvm.attest.reference import reference_of
from sealvm.authority import profiles, queue, rotate, rule_limits, rules
from sealvm.cli.profile_epochs import _rule_lines
from sealvm.host.config import HostConfig
from sealvm.host.sync import sync
from sealvm.protocol.operator import ApplyRequest
from sealvm.protocol.trust import RotateRequest, RuleRequest
from sealvm.tpm import pcr
from tests.authority.harness import ACTOR, Authority, document
from tests.authority.test_offline_approver import good_state
from tests.authority.test_rotation import accept, actions, enrolled, usable

__all__ = ["enrolled"]
pytestmark = pytest.mark.tpm

EV_IPL = 0x0D
LIMIT_REACHED = "profile.rule-limit-reached"


def extend(config: HostConfig, events: int = 1) -> None:
    """What root can do: measure something into a PCR that no requirement and no `match` speaks of, and log it."""
    with config.eventlog.open("ab") as log, config.open_tpm() as tpm:
        for _ in range(events):
            data = b"anything"
            sha1, digest = hashlib.sha1(data).digest(), hashlib.sha256(data).digest()
            log.write(struct.pack("<IIIH", 4, EV_IPL, 2, 4) + sha1 + struct.pack("<H", 11) + digest)
            log.write(struct.pack("<I", len(data)) + data)
            pcr.extend(tpm, 4, digest)


@pytest.fixture
def ruled(network: Authority, enrolled: HostConfig) -> HostConfig:
    """Host 1 in its approved state, under a rule that looks at the firmware only."""
    request = RuleRequest(name="firmware", match=(0, 2, 7), until_epoch=9)
    rules.add_rule(network.context, ACTOR, "measured", request)
    return enrolled


def covered(network: Authority, epoch: int = 1) -> list[str]:
    views = rules.list_rules(network.context, "measured")
    return sorted(state[:16] for view in views if view.epoch == epoch for state in view.covers)


def reasons(network: Authority) -> list[str]:
    with network.context.store.read() as tx:
        return [str(entry.details["reason"]) for entry in tx.audit_of(LIMIT_REACHED, "measured")]


def waiting(network: Authority) -> int:
    return len(queue.queue(network.context, "measured"))


def test_the_limits() -> None:
    assert (rule_limits.APPROVALS_PER_HOST, rule_limits.REFERENCE_BYTES) == (16, 128 * 1024)
    assert len(json.dumps(reference_of(good_state()))) < rule_limits.REFERENCE_BYTES // 8


def test_a_host_that_makes_states_gets_so_many_and_no_more(
    network: Authority, ruled: HostConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_limits, "APPROVALS_PER_HOST", 2)
    for _ in range(2):
        extend(ruled)
        sync(ruled.directory)
        assert usable(ruled, 1)
    before = covered(network)
    assert (len(before), waiting(network), LIMIT_REACHED in actions(network)) == (2, 0, False)
    for _ in range(2):
        extend(ruled)
        for _again in range(2):
            sync(ruled.directory)
        assert not usable(ruled, 1)
    assert (covered(network), waiting(network)) == (before, 2)
    assert reasons(network) == ["the rule approved 2 states of this host"]  # once, not at each sync
    dry = RuleRequest(name="other", match=(0, 2, 7), dry_run=True)
    assert len(rules.add_rule(network.context, ACTOR, "measured", dry)[0].covers) == 2  # another rule, other limits
    rotate.rotate(network.context, ACTOR, "measured", RotateRequest())
    assert covered(network, 2) == before  # those that were approved, not the newest
    accept(network)  # a person may
    sync(ruled.directory)
    assert usable(ruled, 1)


def test_a_state_with_a_large_reference_waits(network: Authority, ruled: HostConfig) -> None:
    extend(ruled, 900)
    for _ in range(2):
        sync(ruled.directory)
    assert (covered(network), waiting(network)) == ([], 1)
    assert reasons(network) == ["its reference is larger than 131072 bytes"]
    accept(network)
    sync(ruled.directory)
    assert usable(ruled, 1)


@pytest.mark.parametrize(
    ("name", "reason"), [("BUNDLE_BYTES", "the trust bundle would"), ("APPROVALS_PER_EPOCH", "states of this epoch")]
)
def test_rules_leave_room_for_people(
    network: Authority, ruled: HostConfig, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setattr(rule_limits, name, 1)
    extend(ruled)
    sync(ruled.directory)  # the host is not refused for it
    assert (covered(network), waiting(network)) == ([], 1)
    assert reason in reasons(network)[0]


def test_a_rule_in_a_leased_epoch_warns(network: Authority) -> None:
    text = document("leased") + "lease: 1h\n"
    profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=text))
    for dry_run in (True, False):
        for name, warns in (("leased", True), ("measured", False)):
            request = RuleRequest(name="firmware", match=(0, 2, 7), dry_run=dry_run)
            (view,) = rules.add_rule(network.context, ACTOR, name, request)
            assert ("without the lease" in view.warning) == warns
            assert any("WARNING" in line for line in _rule_lines([view])) == warns
    assert rules.list_rules(network.context, "leased")[0].warning
