"""K comes out only for a host whose keys satisfy the signed expression, and only if it is the committed K."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealvm.crypto import canonical, hpke
from sealvm.errors import InputError, IntegrityRefused, MalformedError, NoRecipientRefused, StateRefused, TpmFault
from sealvm.package.expression import AllOf, AnyOf, Expression, ProfileLeaf, any_of, describe, leaves_of
from sealvm.package.keys import commitment
from sealvm.package.recipients import ProfileKeyRef, build_recipients, describe_recipients, open_recipients, wrap_info
from sealvm.secret import Secret

from .builder import CHUNK, Built, build
from .memory import SoftwareKeys

A, B, C = ProfileLeaf("a"), ProfileLeaf("b"), ProfileLeaf("c")


def recipients_of(built: Built) -> bytes:
    return built.open().recipients


def only(built: Built, *profiles: str) -> SoftwareKeys:
    keys = SoftwareKeys()
    keys.keys = {name: key for name, key in built.keys.keys.items() if name[0] in profiles}
    return keys


def satisfied(expression: Expression, held: set[str]) -> bool:
    if isinstance(expression, ProfileLeaf):
        return expression.profile in held
    results = [satisfied(child, held) for child in expression.children]
    return any(results) if isinstance(expression, AnyOf) else all(results)


@pytest.mark.parametrize(
    "expression", [A, AnyOf((A, B)), AllOf((A, B)), AllOf((A, AnyOf((B, C)))), AnyOf((A, AllOf((B, C))))], ids=describe
)
def test_opens_exactly_when_satisfied(expression: Expression) -> None:
    built = build(os.urandom(CHUNK), expression=expression)
    data = recipients_of(built)
    for mask in range(8):
        held = {name for bit, name in enumerate("abc") if mask & 1 << bit}
        keys = only(built, *held)
        if satisfied(expression, held):
            assert open_recipients(data, built.header, keys) == built.key
        else:
            with pytest.raises(NoRecipientRefused):
                open_recipients(data, built.header, keys)


def test_refused_state_is_reported_as_such_and_others_are_tried() -> None:
    built = build(os.urandom(CHUNK), expression=AnyOf((A, B)))
    built.keys.refused = {("a", 1, "")}
    assert open_recipients(recipients_of(built), built.header, built.keys) == built.key
    built.keys.refused = {("a", 1, ""), ("b", 1, "")}
    with pytest.raises(StateRefused, match="satisfy b"):
        open_recipients(recipients_of(built), built.header, built.keys)


def test_a_fault_stays_a_fault() -> None:
    built = build(os.urandom(CHUNK))

    class Broken(SoftwareKeys):
        def ecdh(self, profile: str, epoch: int, cell: str, point: bytes) -> bytes:
            raise TpmFault("lockout")

    broken = Broken()
    broken.keys = built.keys.keys
    with pytest.raises(TpmFault):
        open_recipients(recipients_of(built), built.header, broken)


def test_another_key_is_caught_by_the_commitment() -> None:
    built = build(os.urandom(CHUNK))
    leaf = ProfileKeyRef("p", 1, "", built.keys.point("p", 1, ""))
    forged = build_recipients(Secret(os.urandom(32)), built.header.digest, [leaf], built.header.expression)
    with pytest.raises(IntegrityRefused, match="commits to"):
        open_recipients(forged, built.header, built.keys)


def test_a_wrap_is_bound_to_the_header() -> None:
    built = build(os.urandom(CHUNK))
    leaf = ProfileKeyRef("p", 1, "", built.keys.point("p", 1, ""))
    moved = json.loads(build_recipients(built.key, "00" * 32, [leaf], built.header.expression))
    moved["header"] = built.header.digest
    with pytest.raises(IntegrityRefused, match="does not open"):
        open_recipients(canonical.dumps(moved), built.header, built.keys)


def test_rewrap_for_more_epochs_and_cells() -> None:
    built = build(os.urandom(CHUNK))
    fresh = SoftwareKeys()
    leaves = [fresh.add("p", epoch, cell) for epoch in (2, 3) for cell in ("", "berlin")]
    data = build_recipients(built.key, built.header.digest, leaves, built.header.expression)
    assert open_recipients(data, built.header, fresh) == built.key
    assert len(describe_recipients(data, built.header)) == 4


def test_at_most_eight_attempts() -> None:
    built = build(os.urandom(CHUNK))
    keys = SoftwareKeys()
    leaves = [keys.add("p", epoch) for epoch in range(1, 21)]
    keys.refused = set(keys.keys)
    data = build_recipients(built.key, built.header.digest, leaves, built.header.expression)
    with pytest.raises(StateRefused):
        open_recipients(data, built.header, keys)
    assert len(keys.uses) == 8


def test_more_than_64_wraps_are_not_built() -> None:
    keys = SoftwareKeys()
    leaves = [keys.add("p", epoch) for epoch in range(1, 66)]
    with pytest.raises(InputError, match="64"):
        build_recipients(Secret(bytes(32)), "00" * 32, leaves, ProfileLeaf("p"))


def test_profile_without_key_is_named() -> None:
    with pytest.raises(InputError, match="'q'"):
        build_recipients(Secret(bytes(32)), "00" * 32, [], ProfileLeaf("q"))


def test_size_for_one_profile() -> None:
    leaf = SoftwareKeys().add("measured-kernel-with-a-long-name")
    data = build_recipients(Secret(bytes(32)), "00" * 32, [leaf], ProfileLeaf(leaf.profile))
    assert len(data) < 400


def tree_without(kind: str) -> Any:
    return {
        "no wraps": {"profile": "p", "wraps": []},
        "wraps missing": {"profile": "p"},
        "short wrap": {"profile": "p", "wraps": [{"epoch": 1, "cell": "", "wrap": "AAAA"}]},
        "not base64": {"profile": "p", "wraps": [{"epoch": 1, "cell": "", "wrap": "%"}]},
        "epoch 0": {"profile": "p", "wraps": [{"epoch": 0, "cell": "", "wrap": "AAAA"}]},
        "long cell": {"profile": "p", "wraps": [{"epoch": 1, "cell": "x" * 65, "wrap": "AAAA"}]},
        "extra": {"profile": "p", "wraps": [], "x": 1},
        "list": [],
    }[kind]


@pytest.mark.parametrize(
    "kind", ["no wraps", "wraps missing", "short wrap", "not base64", "epoch 0", "long cell", "extra", "list"]
)
def test_malformed_trees(kind: str) -> None:
    built = build(os.urandom(CHUNK))
    data = canonical.dumps({"format": 1, "header": built.header.digest, "tree": tree_without(kind)})
    with pytest.raises(MalformedError):
        open_recipients(data, built.header, built.keys)


def test_another_shape_than_the_signed_one_is_refused() -> None:
    built = build(os.urandom(CHUNK), expression=AllOf((A, B)))
    leaves = [ProfileKeyRef(name, 1, "", built.keys.point(name, 1, "")) for name in "ab"]
    data = build_recipients(built.key, built.header.digest, leaves, AnyOf((A, B)))
    with pytest.raises(IntegrityRefused, match="shape"):
        open_recipients(data, built.header, built.keys)


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_flips_never_give_another_key(data: st.DataObject) -> None:
    built = build(os.urandom(CHUNK))
    raw = bytearray(recipients_of(built))
    raw[data.draw(st.integers(0, 2**32)) % len(raw)] ^= data.draw(st.integers(1, 255))
    with pytest.raises((MalformedError, IntegrityRefused, NoRecipientRefused)):
        open_recipients(bytes(raw), built.header, built.keys)


def test_wraps_open_with_the_library_alone() -> None:
    """A second implementation: the HPKE of `cryptography`, with nothing of ours but the info."""
    built = build(os.urandom(CHUNK))
    wrap = json.loads(recipients_of(built))["tree"]["wraps"][0]["wrap"]
    info = wrap_info("p", 1, "", built.header.digest)
    key = built.keys.keys["p", 1, ""]._key
    assert hpke._SUITE.decrypt(base64.b64decode(wrap), key, info=info) == built.key.reveal()


def test_commitment_depends_on_everything() -> None:
    key, other = Secret(bytes(32)), Secret(bytes(31) + b"\1")
    lineage = bytes(16)
    values = {
        commitment(key, lineage, 1),
        commitment(other, lineage, 1),
        commitment(key, b"\1" * 16, 1),
        commitment(key, lineage, 2),
    }
    assert len(values) == 4


def test_any_of() -> None:
    assert any_of(["a"]) == A
    assert list(leaves_of(any_of(["a", "b"]))) == ["a", "b"]
    for bad in ([], ["a", "a"], ["A b"]):
        with pytest.raises(InputError):
            any_of(bad)
