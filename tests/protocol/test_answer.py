"""What a host checks in the authority's answer: every key must be the one that the pinned bundle lists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import IntegrityRefused, MalformedError, RollbackRefused, UntrustedRefused
from sealvm.protocol.answer import accept_answer
from sealvm.protocol.enroll import quoted_pcrs
from sealvm.protocol.messages import EnrollStart, SealedKey, SyncAnswer, parse_ticket
from sealvm.statements.bundle import BundleEpoch, BundleProfile, TrustBundle, expected_public, sign_bundle

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
ANCHOR, APPROVER, KEY = (SoftwareSigner.generate() for _ in range(3))
PUBLIC = expected_public("web", 1, "", "standing", point=KEY.point, approver_point=APPROVER.point)
EPOCH = BundleEpoch(1, "", "standing", (0, 2, 4, 7), KEY.point, PUBLIC, APPROVER.point, ())
ENVELOPE = sign_bundle(TrustBundle(4, NOW, NOW + timedelta(days=1), (BundleProfile("web", "", (EPOCH,)),), ()), ANCHOR)
SEALED = SealedKey(
    profile="web",
    epoch=1,
    cell="",
    mode="standing",
    public=PUBLIC,
    duplicate=b"d",
    in_sym_seed=b"s",
    approver_point=APPROVER.point,
)
ANSWER = SyncAnswer(host="h", host_id="0" * 32, trust_class="lab", events=1, keys=(SEALED,), bundle=ENVELOPE)


def test_accepted() -> None:
    accepted = accept_answer(ANSWER, ANCHOR.point, NOW, 4)
    assert accepted.keys == (SEALED,)
    assert accepted.bundle.version == 4


def _keys(change: Callable[[SealedKey], tuple[SealedKey, ...]]) -> SyncAnswer:
    return ANSWER.model_copy(update={"keys": change(SEALED)})


WEAK = expected_public("web", 1, "", "standing", point=KEY.point, approver_point=KEY.point)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_keys(lambda key: (key, key)), "twice"),
        (_keys(lambda key: (key.model_copy(update={"profile": "db"}),)), "not in the trust bundle"),
        (_keys(lambda key: (key.model_copy(update={"epoch": 2}),)), "not in the trust bundle"),
        (_keys(lambda key: (key.model_copy(update={"cell": "rack"}),)), "not in the trust bundle"),
        (_keys(lambda key: (key.model_copy(update={"mode": "leased"}),)), "not the one"),
        (_keys(lambda key: (key.model_copy(update={"public": WEAK}),)), "not the one"),
        (_keys(lambda key: (key.model_copy(update={"approver_point": KEY.point}),)), "not the one"),
    ],
)
def test_refused(answer: SyncAnswer, message: str) -> None:
    with pytest.raises(IntegrityRefused, match=message):
        accept_answer(answer, ANCHOR.point, NOW, 0)


def test_the_bundle_must_be_the_anchors_and_fresh() -> None:
    with pytest.raises(UntrustedRefused):
        accept_answer(ANSWER, KEY.point, NOW, 0)
    with pytest.raises(RollbackRefused):
        accept_answer(ANSWER, ANCHOR.point, NOW, 5)
    with pytest.raises(RollbackRefused):
        accept_answer(ANSWER, ANCHOR.point, NOW + timedelta(days=1), 0)


def test_what_hosts_quote() -> None:
    assert quoted_pcrs([]) == tuple(range(10))
    assert quoted_pcrs([14, 10, 23, 16]) == (*range(10), 14)
    assert quoted_pcrs([14, 23], ima=True) == (*range(11), 14)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"url": "http://x", "ca_pem": "", "anchor": "00", "host": "h", "token": "x", "expires": "now"}',
        b'{"url": 1, "url": 2}',
    ],
)
def test_tickets_that_are_none(text: bytes) -> None:
    with pytest.raises(MalformedError, match="join ticket"):
        parse_ticket(text)


def test_tokens_do_not_show() -> None:
    start = EnrollStart.model_construct(token="SECRET-SECRET-SECRET", ek_certificate=b"")
    assert "SECRET" not in repr(start)
