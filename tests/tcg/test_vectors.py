"""The published vectors: made by the code as it is, and judged by it as they say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sealvm.crypto.labels import label_bytes
from sealvm.errors import SealvmError
from sealvm.secret import Secret
from sealvm.statements.approval import Approval, digest_to_sign, verify_approval
from sealvm.statements.lease import LeaseKey, SignedLease, authorization_digest, grant_digest, quote_data, verify_lease
from sealvm.statements.rule import Delegation, verify_approval_by_rule
from sealvm.tcg import templates
from sealvm.tcg.duplicate import duplicate_to_any_parent
from sealvm.tcg.public import name_of, parse_public, qualified_name
from sealvm.tcg.templates import TEMPLATES, check_template
from tests.tcg.make_vectors import DIRECTORY, all_vectors


def read(name: str) -> dict[str, Any]:
    return dict(json.loads((DIRECTORY / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted(all_vectors()))
def test_checked_in_vectors_are_what_the_code_makes(name: str) -> None:
    assert (DIRECTORY / name).read_text(encoding="utf-8") == all_vectors()[name]


def test_there_are_no_others() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == set(all_vectors()) | {"README.md"}


def test_labels() -> None:
    for vector in read("digests.json")["labels"]:
        parts = [bytes.fromhex(part) for part in vector["parts"]]
        assert label_bytes(vector["label"], *parts).hex() == vector["bytes"]


def test_objects() -> None:
    vectors = read("objects.json")
    for key in vectors["keys"]:
        raw = bytes.fromhex(key["public"])
        assert name_of(raw).hex() == key["name"]
        assert parse_public(raw, key["kind"]).point.hex() == key["point"]
        if key["kind"] != "profile-key":
            check_template(raw, TEMPLATES[key["kind"]], key["kind"])
    for vector in vectors["qualified_names"]:
        publics = [bytes.fromhex(raw) for raw in vector["publics"]]
        assert qualified_name(int(vector["hierarchy"], 16), *publics).hex() == vector["result"]
    for vector in vectors["refused_import_parents"]:
        with pytest.raises(SealvmError) as refused:
            check_template(bytes.fromhex(vector["public"]), templates.IMPORT_PARENT, "import-parent")
        assert (refused.value.code, refused.value.fields["check"]) == (vector["error"], vector["check"])


def test_approvals() -> None:
    vectors = read("approvals.json")
    for vector in vectors["verifies"]:
        signed = vector.pop("signed_digest")
        approval = Approval.from_json(vector)
        verify_approval(approval)
        assert digest_to_sign(approval.approved_policy, approval.policy_ref).hex() == signed
    for vector in vectors["refused"]:
        with pytest.raises(SealvmError) as refused:
            verify_approval(Approval.from_json(vector["approval"]))
        assert refused.value.code == vector["error"]


def test_leases() -> None:
    vectors = read("leases.json")
    lease = vectors["lease"]
    raw = {name: bytes.fromhex(lease[name]) for name in ("srk_name", "lease_point", "nonce_tpm", "challenge")}
    key = LeaseKey(lease["profile"], lease["epoch"], lease["cell"], raw["srk_name"], raw["lease_point"])
    assert key.host_policy(lease["reset_count"]).hex() == lease["host_policy"]
    assert authorization_digest(key, lease["reset_count"]).hex() == lease["authorization_digest"]
    assert grant_digest(key, raw["nonce_tpm"], lease["seconds"]).hex() == lease["grant_digest"]
    assert quote_data(raw["challenge"], raw["nonce_tpm"], key).hex() == lease["quote_data"]
    signed = SignedLease(
        *(lease["profile"], lease["epoch"], lease["cell"], key.lease_point, lease["reset_count"]),
        authorization=bytes.fromhex(lease["authorization"]),
        seconds=lease["seconds"],
        grant=bytes.fromhex(lease["grant"]),
    )
    verify_lease(signed, key, raw["nonce_tpm"])
    for vector in vectors["refused_grants"]:
        with pytest.raises(SealvmError) as refused:
            grant_digest(key, bytes.fromhex(vector["nonce_tpm"]), vector["seconds"])
        assert refused.value.code == vector["error"]
    verify_approval(Approval.from_json(vectors["approval"]))
    approved = vectors["delegation"].pop("approved_policy")
    delegation = Delegation.from_json(vectors["delegation"])
    verify_approval_by_rule(Approval.from_json(vectors["approval_by_rule"]), delegation)
    assert delegation.approved_policy.hex() == approved


def test_duplication() -> None:
    vector = {key: bytes.fromhex(value) for key, value in read("duplication.json").items()}
    blob = duplicate_to_any_parent(
        Secret(vector["scalar"]),
        vector["public"],
        vector["parent_public"],
        ephemeral=Secret(vector["ephemeral_scalar"]),
    )
    assert (blob.duplicate, blob.in_sym_seed) == (vector["duplicate"], vector["in_sym_seed"])
