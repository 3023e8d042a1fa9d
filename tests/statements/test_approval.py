from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.crypto import canonical
from sealvm.crypto.ec import SoftwareSigner, verify_digest
from sealvm.errors import MalformedError, SignatureRefused
from sealvm.statements.approval import Approval, digest_to_sign, sign_approval, verify_approval
from sealvm.tcg import policy
from sealvm.tcg.pcr import pcr_digest

APPROVER = SoftwareSigner.generate()
VALUES = {index: bytes([index]) * 32 for index in (0, 2, 4, 7, 9)}
REFERENCE = {"pcrs": {"9": "09" * 32}, "events": [{"pcr": 9, "what": "kernel command line"}]}


def approve(**changes: Any) -> Approval:
    arguments: dict[str, Any] = {
        "profile": "web", "epoch": 1, "cell": "", "selection": (0, 2, 4, 7, 9), "pcr_values": VALUES,
        "label": "host-1, kernel 6.1", "reference": REFERENCE,
    }  # fmt: skip
    return sign_approval(APPROVER, **{**arguments, **changes})


APPROVAL = approve()


def test_signs_the_digest_that_the_tpm_checks() -> None:
    approved = policy.approved_standing(VALUES, pcr_digest(VALUES, VALUES))
    ref = policy.profile_ref("web", 1, "", "standing")
    assert (APPROVAL.approved_policy, APPROVAL.policy_ref) == (approved, ref)
    assert digest_to_sign(approved, ref) == hashlib.sha256(approved + ref).digest()
    verify_digest(APPROVER.point, hashlib.sha256(approved + ref).digest(), APPROVAL.signature_der)
    verify_approval(APPROVAL)


def test_round_trip() -> None:
    data = canonical.dumps(APPROVAL.to_json())
    read = Approval.from_json(json.loads(data))
    assert read == APPROVAL
    verify_approval(read)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"profile": "db"}, "policy reference"),
        ({"epoch": 2}, "policy reference"),
        ({"cell": "rack"}, "policy reference"),
        ({"policy_ref": bytes(32)}, "policy reference"),
        ({"selection": (0, 2, 4, 7)}, "approved policy"),
        ({"pcr_digest": bytes(32)}, "approved policy"),
        ({"approved_policy": bytes(32)}, "approved policy"),
        ({"signature_der": approve(epoch=2).signature_der}, "signature of the approver"),
        ({"approver_point": SoftwareSigner.generate().point}, "signature of the approver"),
    ],
)
def test_any_change_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SignatureRefused, match=says):
        verify_approval(replace(APPROVAL, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 0},
        {"mode": "leased"},
        {"mode": "?"},
        {"selection": ()},
        {"selection": (0, 24)},
        {"approver_point": b"x"},
        {"profile": "\ud800"},
        {"cell": "x" * 1025},
    ],
)
def test_out_of_range_is_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        verify_approval(replace(APPROVAL, **changes))


@pytest.mark.parametrize(
    "changes", [{"epoch": 0}, {"mode": "leased"}, {"selection": ()}, {"selection": (0, 1)}, {"pcr_values": {}}]
)
def test_approver_refuses_to_sign(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        approve(**changes)


@pytest.mark.parametrize("sizes", [(0, 64), (64, 0), (31, 33), (32, 20)])
def test_digest_to_sign_wants_two_digests(sizes: tuple[int, int]) -> None:
    with pytest.raises(MalformedError, match="32 bytes"):
        digest_to_sign(bytes(sizes[0]), bytes(sizes[1]))


GOOD = APPROVAL.to_json()
LOOP: dict[str, Any] = {}
LOOP["x"] = LOOP


@pytest.mark.parametrize(
    "obj",
    [
        None, [], {}, {**GOOD, "extra": 1}, {key: value for key, value in GOOD.items() if key != "label"},
        {**GOOD, "epoch": "1"}, {**GOOD, "epoch": True}, {**GOOD, "epoch": 1.0}, {**GOOD, "profile": 1},
        {**GOOD, "profile": "x" * 129}, {**GOOD, "cell": "\ud800"}, {**GOOD, "label": "x" * 257},
        {**GOOD, "selection": "0"},
        {**GOOD, "selection": [0, True]}, {**GOOD, "selection": [2, 0]}, {**GOOD, "selection": [0, 0]},
        {**GOOD, "selection": [24]}, {**GOOD, "pcr_digest": "ab"}, {**GOOD, "pcr_digest": "AB" * 32},
        {**GOOD, "policy_ref": None}, {**GOOD, "approver": "04"}, {**GOOD, "signature": ""}, {**GOOD, "signature": 1},
        {**GOOD, "signature": "!!"}, {**GOOD, "signature": "A" * 400}, {**GOOD, "reference": []},
        {**GOOD, "reference": {"x": "y" * (2 * 1024 * 1024)}}, {**GOOD, "reference": {"x": "\ud800"}},
        {**GOOD, "reference": {"x": float("nan")}}, {**GOOD, "reference": {"x": b""}}, {**GOOD, "reference": LOOP},
    ],
)  # fmt: skip
def test_malformed_json(obj: object) -> None:
    with pytest.raises(MalformedError, match="approval 3"):
        Approval.from_json(obj, "approval 3")


@given(st.sampled_from(sorted(GOOD)), st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers()))
def test_any_field_value_is_judged(key: str, value: object) -> None:
    with contextlib.suppress(MalformedError, SignatureRefused):
        verify_approval(Approval.from_json({**GOOD, key: value}))
