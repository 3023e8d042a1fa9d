"""A trust bundle that does not fit: refused at the change that would make it so, except for what takes trust away."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sealvm.authority import bundle, retire, rotate
from sealvm.authority.signing import StateToSign, sign_state
from sealvm.errors import ConflictError
from sealvm.protocol.trust import RetireRequest, RotateRequest, WithdrawRequest
from sealvm.statements.bundle import BUNDLE_BYTES_LIMIT, TrustBundle, verify_bundle
from sealvm.tcg.pcr import pcr_digest
from tests.authority.harness import ACTOR, Authority

SELECTION = (0, 2, 4, 7, 9)
STATES = 12


def values(number: int) -> dict[int, bytes]:
    return {pcr: bytes([number]) * 32 for pcr in SELECTION}


def approve(authority: Authority, number: int) -> None:
    """A state with a large reference, as a person may approve it."""
    event = {"pcr": 9, "type": "EV_IPL", "what": "boot loader", "digest": "00" * 32, "text": "x" * 4000}
    pcrs = {str(pcr): value.hex() for pcr, value in values(number).items()}
    reference = {"pcrs": pcrs, "events": [{"index": index, **event} for index in range(90)]}
    with authority.context.store.write() as tx:
        (epoch,) = tx.epochs("measured")
        sign_state(authority.context, tx, ACTOR, epoch, StateToSign(values(number), str(number), reference))
        bundle.publish(authority.context, tx, ACTOR)


def published(authority: Authority) -> TrustBundle:
    ctx = authority.context
    with ctx.store.read() as tx:
        record = tx.bundle()
    assert record is not None
    return verify_bundle(record.envelope, ctx.custody.signer("bundle").point, ctx.now(), 1)


def stored(authority: Authority) -> tuple[object, ...]:
    with authority.context.store.read() as tx:
        return tx.epochs(), len(tx.approvals()), tx.last_audit(), tx.bundle()


@pytest.fixture
def large(authority: Authority) -> Authority:
    """More than half of what fits."""
    authority.apply()
    for number in range(STATES):
        approve(authority, number)
    return authority


def test_a_change_that_makes_it_too_large_changes_nothing(large: Authority) -> None:
    before = stored(large)
    with pytest.raises(ConflictError, match=f"at most {BUNDLE_BYTES_LIMIT} fit: nothing is changed") as caught:
        rotate.rotate(large.context, ACTOR, "measured", RotateRequest())
    assert "profile retire" in caught.value.hint
    assert stored(large) == before
    with pytest.raises(ConflictError, match="trust bundle would have"):
        for number in range(STATES, 256):
            approve(large, number)
    assert len(published(large).profiles[0].epochs[0].approvals) == stored(large)[1]


def test_a_withdrawal_is_not_refused_and_what_follows_can_be_signed(large: Authority) -> None:
    ctx = large.context
    state = pcr_digest(values(3), SELECTION).hex()
    rotate.withdraw(ctx, ACTOR, "measured", WithdrawRequest(state=state))
    old, new = published(large).profiles[0].epochs
    assert (old.wraps, len(old.approvals), len(new.approvals)) == (False, STATES, STATES - 1)
    assert not any(approval.reference["events"] for approval in (*old.approvals, *new.approvals))
    assert new.approvals[0].reference["pcrs"] == {str(pcr): value.hex() for pcr, value in values(0).items()}
    large.clock.offset = timedelta(days=20)
    assert bundle.current(ctx)  # signed anew
    with pytest.raises(ConflictError, match="nothing is changed"):
        large.apply(name="another")
    retire.retire(ctx, ACTOR, "measured", RetireRequest(epoch=1))
    (left,) = published(large).profiles[0].epochs
    assert all(approval.reference["events"] for approval in left.approvals)  # it fits again
    large.apply(name="another")


def test_other_changes_leave_room_for_a_withdrawal(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.apply()
    approve(authority, 1)
    before = stored(authority)
    monkeypatch.setattr(bundle, "RESERVE_BYTES", 2000)
    with pytest.raises(ConflictError, match="without events, at most 2000 fit"):
        authority.apply(name="another")
    assert stored(authority) == before
    rotate.withdraw(authority.context, ACTOR, "measured", WithdrawRequest(state=pcr_digest(values(1), SELECTION).hex()))


def test_what_takes_trust_away_has_a_limit_too(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.apply()
    monkeypatch.setattr(bundle, "BUNDLE_BYTES_LIMIT", 1000)
    monkeypatch.setattr(bundle, "RESERVE_BYTES", 500)
    with authority.context.store.write() as tx, pytest.raises(ConflictError, match="at most 1000 fit"):
        bundle.publish(authority.context, tx, ACTOR, urgent=True)
