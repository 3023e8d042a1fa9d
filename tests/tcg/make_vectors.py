"""Makes the test vectors of docs/spec/tpm-policy-v1.md: `python -m tests.tcg.make_vectors` writes vectors/tpm-policy/.

Deterministic: every private scalar is the SHA-256 of a text, ECDSA signatures follow RFC 6979. The keys are public, so
they protect nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from sealvm.crypto.ec import SoftwareSigner, private_key
from sealvm.crypto.labels import label_bytes
from sealvm.secret import Secret
from sealvm.statements.approval import digest_to_sign, sign_approval
from sealvm.statements.lease import LeaseKey, authorization_digest, grant_digest, quote_data, sign_lease
from sealvm.statements.rule import sign_approval_by_rule, sign_delegation
from sealvm.tcg import algorithms as alg
from sealvm.tcg import policy, templates
from sealvm.tcg.duplicate import duplicate_to_any_parent
from sealvm.tcg.pcr import PcrSelection, pcr_digest
from sealvm.tcg.public import name_of, qualified_name
from sealvm.tcg.templates import Template, profile_key_public, public_of, verifier_public

DIRECTORY = Path(__file__).parents[2] / "vectors" / "tpm-policy"


def scalar(text: str) -> Secret:
    return Secret(hashlib.sha256(f"sealvm test vector: {text}".encode()).digest())


class RepeatableSigner(SoftwareSigner):
    """Signs by RFC 6979, so that running this again changes nothing."""

    __slots__ = ()

    def sign_digest(self, digest: bytes) -> bytes:
        return self._key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True))


def signer(text: str) -> RepeatableSigner:
    return RepeatableSigner(private_key(scalar(text)))


APPROVER = signer("approver")
PROFILE_KEY = signer("profile key")
PARENT = signer("import parent")
SRK = signer("srk")
APPROVER_NAME = name_of(verifier_public(APPROVER.point))
PCRS = {index: hashlib.sha256(f"PCR {index}".encode()).digest() for index in range(24)}
REFS = [("web", 1, "", "standing"), ("web", 2, "", "standing"), ("web", 1, "rack-1", "standing"),
        ("web", 1, "", "leased"), ("métier", 4294967295, "", "host-standing")]  # fmt: skip


def digests() -> dict[str, Any]:
    """Labels, policy references and policy digests."""
    srk_name = name_of(public_of(templates.SRK, SRK.point))
    ref = policy.profile_ref("web", 1, "", "standing")
    start = hashlib.sha256(b"a digest so far").digest()
    return {
        "labels": [
            {"label": label, "parts": [part.hex() for part in parts], "bytes": label_bytes(label, *parts).hex()}
            for label, parts in (("profile", (b"web", b"")), ("x", ()))
        ],
        "profile_ref": [
            {"profile": p, "epoch": e, "cell": c, "mode": m, "ref": policy.profile_ref(p, e, c, m).hex()}
            for p, e, c, m in REFS
        ],
        "command_code": [
            {"digest": start.hex(), "command_code": f"{code:08x}", "result": policy.cmd(start, code).hex()}
            for code in (alg.CC_IMPORT, alg.CC_LOAD, alg.CC_CERTIFY, alg.CC_ECDH_ZGEN)
        ],
        "pcr": [
            {
                "digest": policy.ZERO.hex(),
                "selection": list(selection),
                "marshalled": selection.marshal().hex(),
                "values": {str(index): PCRS[index].hex() for index in selection},
                "pcr_digest": pcr_digest(PCRS, selection).hex(),
                "result": policy.pcr(policy.ZERO, selection, pcr_digest(PCRS, selection)).hex(),
            }
            for selection in (PcrSelection.of(0, 2, 4, 7), PcrSelection.of(0, 2, 4, 7, 9), PcrSelection.of(8, 23))
        ],
        "authorize": [
            {"name": APPROVER_NAME.hex(), "ref": ref.hex(), "result": policy.authorize(APPROVER_NAME, ref).hex()}
        ],
        "secret": [{"digest": start.hex(), "name": srk_name.hex(), "result": policy.secret(start, srk_name).hex()}],
        "signed": [
            {"digest": start.hex(), "name": APPROVER_NAME.hex(), "ref": ref.hex(),
             "result": policy.signed(start, APPROVER_NAME, ref).hex()}
        ],
        "counter_timer": [
            {"digest": start.hex(), "reset_count": 7, "result": policy.counter_timer(start, 7).hex()}
        ],
        "import_parent": policy.IMPORT_PARENT_POLICY.hex(),
        "profile_key": [
            {"approver_name": APPROVER_NAME.hex(), "ref": ref.hex(),
             "result": policy.profile_key_policy(APPROVER_NAME, ref).hex()}
        ],
    }  # fmt: skip


def objects() -> dict[str, Any]:
    """Public areas and Names; import parents that must be refused, with the check that refuses them."""
    keys: list[tuple[str, bytes, bytes]] = [
        (template.name, public_of(template, key.point), key.point)
        for template, key in (
            (templates.SRK, SRK),
            (templates.IMPORT_PARENT, PARENT),
            (templates.AK, signer("ak")),
            (templates.REQUEST_KEY, signer("request key")),
            (templates.VERIFIER, APPROVER),
        )
    ]
    keys.append(("profile-key", profile_key(), PROFILE_KEY.point))
    good, srk = public_of(templates.IMPORT_PARENT, PARENT.point), public_of(templates.SRK, SRK.point)
    return {
        "keys": [
            {"kind": kind, "point": point.hex(), "public": raw.hex(), "name": name_of(raw).hex()}
            for kind, raw, point in keys
        ],
        "creation_templates": [
            {"kind": template.name, "public": public_of(template).hex()} for template in created_by_hosts()
        ],
        "qualified_names": [
            {"hierarchy": "40000001", "publics": [srk.hex()], "result": qualified_name(0x40000001, srk).hex()},
            {"hierarchy": "40000001", "publics": [srk.hex(), good.hex()],
             "result": qualified_name(0x40000001, srk, good).hex()},
        ],
        "refused_import_parents": [
            {"public": raw.hex(), "error": "enrollment-refused", "check": f"import-parent.{field}"}
            for field, raw in (
                ("attributes", good.replace(bytes.fromhex("000304b2"), bytes.fromhex("000304f2"))),
                ("attributes", good.replace(bytes.fromhex("000304b2"), bytes.fromhex("000304b0"))),
                ("authPolicy", good.replace(policy.IMPORT_PARENT_POLICY, bytes(32))),
                ("authPolicy", good.replace(b"\0\x20" + policy.IMPORT_PARENT_POLICY, b"\0\0")),
                ("symmetric", good.replace(bytes.fromhex("00060080"), bytes.fromhex("00060100"))),
                ("attributes", srk),
                ("unique", public_of(templates.IMPORT_PARENT)),
            )
        ],
    }  # fmt: skip


def created_by_hosts() -> tuple[Template, ...]:
    return (templates.SRK, templates.IMPORT_PARENT, templates.AK, templates.REQUEST_KEY, *templates.EK_TEMPLATES)


def profile_key() -> bytes:
    ref = policy.profile_ref("web", 1, "", "standing")
    return profile_key_public(PROFILE_KEY.point, policy.profile_key_policy(APPROVER_NAME, ref))


def approvals() -> dict[str, Any]:
    """Approvals that verify, and altered ones with the error that refuses them."""
    good = sign_approval(
        APPROVER, profile="web", epoch=1, cell="", selection=(0, 2, 4, 7, 9), pcr_values=PCRS, label="vector"
    )
    signature_of_epoch_2 = sign_approval(
        APPROVER, profile="web", epoch=2, cell="", selection=(0, 2, 4, 7, 9), pcr_values=PCRS
    ).to_json()["signature"]
    refused = [
        ("signature-invalid", {"epoch": 2}),
        ("signature-invalid", {"profile": "db"}),
        ("signature-invalid", {"selection": [0, 2, 4, 7]}),
        ("signature-invalid", {"pcr_digest": "00" * 32}),
        ("signature-invalid", {"signature": signature_of_epoch_2}),
        ("signature-invalid", {"approver": signer("another approver").point.hex()}),
        ("malformed", {"mode": "leased"}),
        ("malformed", {"epoch": 0}),
        ("malformed", {"selection": [9, 0]}),
    ]
    return {
        "verifies": [good.to_json() | {"signed_digest": digest_to_sign(good.approved_policy, good.policy_ref).hex()}],
        "refused": [{"error": error, "approval": good.to_json() | change} for error, change in refused],
    }


def leases() -> dict[str, Any]:
    """Everything that a lease key and a rule key sign, and what a grant must not be made of."""
    lease, rule = signer("lease key"), signer("rule key")
    key = LeaseKey("web", 1, "", name_of(public_of(templates.SRK, SRK.point)), lease.point)
    nonce = hashlib.sha256(b"nonceTPM").digest()
    signed = sign_lease(lease, key, reset_count=7, nonce_tpm=nonce, seconds=3600)
    terms: dict[str, Any] = {"profile": "web", "epoch": 1, "cell": ""}
    leased = sign_approval(
        APPROVER, **terms, selection=(0, 2, 4, 7, 9), pcr_values=PCRS, mode="leased", lease_point=lease.point
    )
    delegation = sign_delegation(APPROVER, **terms, mode="standing", rule_point=rule.point)
    by_rule = sign_approval_by_rule(rule, **terms, selection=(0, 2, 4, 7, 9), pcr_values=PCRS)
    return {
        "lease": {
            **terms,
            "srk_name": key.srk_name.hex(),
            "lease_point": lease.point.hex(),
            "lease_name": key.lease_name.hex(),
            "authorize_ref": key.authorize_ref.hex(),
            "signed_ref": key.signed_ref.hex(),
            "reset_count": 7,
            "host_policy": key.host_policy(7).hex(),
            "authorization_digest": authorization_digest(key, 7).hex(),
            "authorization": signed.authorization.hex(),
            "nonce_tpm": nonce.hex(),
            "seconds": 3600,
            "grant_digest": grant_digest(key, nonce, 3600).hex(),
            "grant": signed.grant.hex(),
            "challenge": hashlib.sha256(b"challenge").digest().hex(),
            "quote_data": quote_data(hashlib.sha256(b"challenge").digest(), nonce, key).hex(),
        },
        "refused_grants": [
            {"error": "malformed", "nonce_tpm": bytes(size).hex(), "seconds": seconds}
            for size, seconds in ((0, 60), (28, 60), (31, 60), (33, 60), (32, 0), (32, -1), (32, 2678401))
        ],
        "approval": leased.to_json(),
        "delegation": delegation.to_json() | {"approved_policy": delegation.approved_policy.hex()},
        "approval_by_rule": by_rule.to_json(),
    }


def duplication() -> dict[str, Any]:
    """A profile key sealed to an import parent with a fixed ephemeral key."""
    parent, ephemeral = public_of(templates.IMPORT_PARENT, PARENT.point), scalar("ephemeral")
    blob = duplicate_to_any_parent(PROFILE_KEY.scalar(), profile_key(), parent, ephemeral=ephemeral)
    return {
        "scalar": PROFILE_KEY.scalar().reveal().hex(),
        "public": blob.public.hex(),
        "parent_public": parent.hex(),
        "parent_scalar": PARENT.scalar().reveal().hex(),
        "ephemeral_scalar": ephemeral.reveal().hex(),
        "duplicate": blob.duplicate.hex(),
        "in_sym_seed": blob.in_sym_seed.hex(),
    }


def all_vectors() -> dict[str, str]:
    """File name to content."""
    made = {
        "digests": digests(),
        "objects": objects(),
        "approvals": approvals(),
        "leases": leases(),
        "duplication": duplication(),
    }
    return {
        f"{name}.json": json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        for name, content in made.items()
    }


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, content in all_vectors().items():
        (DIRECTORY / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
