"""Policy digests against tpm2-tools' trial sessions on swtpm."""

from __future__ import annotations

import hashlib

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.tcg import policy
from sealvm.tcg.algorithms import CC_CERTIFY, CC_ECDH_ZGEN, CC_IMPORT, CC_LOAD
from sealvm.tcg.marshal import b2
from sealvm.tcg.pcr import PcrSelection, pcr_digest
from sealvm.tcg.public import name_of
from sealvm.tcg.templates import verifier_public
from tests.tcg.tpm2tools import Tools

pytestmark = pytest.mark.tpm


def trial(tools: Tools, *steps: tuple[object, ...]) -> bytes:
    """The digest after these policy commands in a trial session."""
    tools.start_session(trial=True)
    for command, *arguments in steps:
        tools.run(str(command), "-S", "s.ctx", "-L", "digest", *arguments)
    tools.end_session()
    return tools.get("digest")


@pytest.mark.parametrize("code", [CC_IMPORT, CC_LOAD, CC_CERTIFY, CC_ECDH_ZGEN])
def test_command_code(tools: Tools, code: int) -> None:
    assert trial(tools, ("policycommandcode", f"{code:#x}")) == policy.cmd(policy.ZERO, code)


def test_import_parent_policy(tools: Tools) -> None:
    branches = [
        tools.put(name, trial(tools, ("policycommandcode", name)))
        for name in ("TPM2_CC_Import", "TPM2_CC_Load", "TPM2_CC_Certify")
    ]
    assert trial(tools, ("policyor", "sha256:" + ",".join(branches))) == policy.IMPORT_PARENT_POLICY


@pytest.mark.parametrize("indices", [(0, 2, 4, 7), (0, 2, 4, 7, 9), (8, 15), tuple(range(1, 16, 2))])
def test_pcr(tools: Tools, indices: tuple[int, ...]) -> None:
    for index in indices:
        tools.run("pcrextend", f"{index}:sha256={hashlib.sha256(bytes([index])).hexdigest()}")
    listed = "sha256:" + ",".join(map(str, indices))
    tools.run("pcrread", listed, "-o", "pcrs")
    raw = tools.get("pcrs")
    values = {index: raw[32 * n : 32 * n + 32] for n, index in enumerate(indices)}
    digest = pcr_digest(values, indices)
    assert policy.approved_standing(PcrSelection(indices), digest) == trial(tools, ("policypcr", "-l", listed))


def test_profile_key_policy(tools: Tools) -> None:
    approver = SoftwareSigner.generate()
    name = name_of(verifier_public(approver.point))
    ref = policy.profile_ref("web", 7, "", policy.MODE_STANDING)
    approved = policy.approved_standing((0, 2, 4, 7), bytes(32))
    digest = trial(
        tools,
        ("policyauthorize", "-i", tools.put("approved", approved), "-q", tools.put("ref", ref),
         "-n", tools.put("name", name)),
        ("policycommandcode", "TPM2_CC_ECDH_ZGen"),
    )  # fmt: skip
    assert digest == policy.profile_key_policy(name, ref)


def test_secret_and_counter_timer(tools: Tools) -> None:
    tools.run("createprimary", "-C", "o", "-G", "ecc", "-c", "any.ctx")
    name = name_of(tools.public_of("any.ctx"))
    tools.start_session(trial=True)
    tools.run("policysecret", "-S", "s.ctx", "-c", "any.ctx", "-L", "digest")
    assert tools.get("digest") == policy.secret(policy.ZERO, name)
    tools.run("policycountertimer", "-S", "s.ctx", "-L", "digest", "--eq", "resets=5")
    tools.end_session()
    assert tools.get("digest") == policy.counter_timer(policy.secret(policy.ZERO, name), 5)


def test_signed(tools: Tools) -> None:
    signer = SoftwareSigner.generate()
    area = verifier_public(signer.point)
    tools.run("loadexternal", "-C", "n", "-u", tools.put("signer", b2(area)), "-c", "signer.ctx")
    signature = signer.sign_digest(hashlib.sha256(bytes(4) + b"reference").digest())
    digest = trial(
        tools,
        ("policysigned", "-c", "signer.ctx", "-g", "sha256", "-f", "ecdsa", "-s", tools.put("sig", signature),
         "-q", tools.put("reference", b"reference")),
    )  # fmt: skip
    assert digest == policy.signed(policy.ZERO, name_of(area), b"reference")


def test_names(tools: Tools) -> None:
    tools.run("createprimary", "-C", "o", "-G", "ecc", "-c", "any.ctx")
    tools.run("readpublic", "-c", "any.ctx", "-n", "name.out", "-q", "qualified.out")
    assert name_of(tools.public_of("any.ctx")) == tools.get("name.out")
