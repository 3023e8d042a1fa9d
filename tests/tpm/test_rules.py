"""Approvals by rule on a real TPM: PolicyPCR, PolicyAuthorize(rule key, RU), PolicyAuthorize(approver, R)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sealvm.crypto.ec import SoftwareSigner, load_point, private_key
from sealvm.errors import SignatureRefused, StateRefused
from sealvm.lab.swtpm import LabCa
from sealvm.statements.approval import Approval
from sealvm.statements.rule import Delegation, sign_approval_by_rule, sign_delegation
from sealvm.tpm import pcr, profile_key
from sealvm.tpm.connection import Tpm, open_tpm
from tests.tpm.rig import SELECTION, Host, Owner, make_host, started_tpm

pytestmark = pytest.mark.tpm

POINT = SoftwareSigner.generate().point
RULE = SoftwareSigner.generate()


@pytest.fixture(scope="module", params=["standing", "leased"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ca: LabCa) -> Iterator[Host]:
    with started_tpm(tmp_path_factory.mktemp("t") / "ruled", ca) as swtpm:
        yield make_host(swtpm, Owner(mode=request.param))


@pytest.fixture
def tpm(host: Host) -> Iterator[Tpm]:
    with open_tpm(host.swtpm.tcti, host.swtpm.lock) as opened:
        yield opened


def delegate(owner: Owner, rule: SoftwareSigner = RULE, approver: SoftwareSigner | None = None) -> Delegation:
    return sign_delegation(
        approver or owner.approver,
        profile=owner.profile,
        epoch=owner.epoch,
        cell="",
        mode=owner.mode,
        rule_point=rule.point,
    )


def by_rule(tpm: Tpm, owner: Owner, rule: SoftwareSigner = RULE, **changed: bytes) -> Approval:
    values = pcr.read(tpm, SELECTION) | {int(name[3:]): value for name, value in changed.items()}
    return sign_approval_by_rule(
        rule,
        profile=owner.profile,
        epoch=owner.epoch,
        cell="",
        selection=SELECTION,
        pcr_values=values,
        mode=owner.mode,
        lease_point=owner.lease_key.point if owner.mode == "leased" else b"",
    )


def use(tpm: Tpm, host: Host, approvals: list[Approval], delegations: list[Delegation]) -> bytes:
    lease = host.owner.lease(tpm, host.blobs) if host.owner.mode == "leased" else None
    return profile_key.ecdh(
        tpm,
        host.blobs,
        host.blobs.srk_name,
        host.key,
        approvals,
        point=POINT,
        delegations=delegations,
        lease=lease,
    )


def test_state_approved_by_rule_opens(tpm: Tpm, host: Host) -> None:
    expected = private_key(host.owner.key.scalar()).exchange(ec.ECDH(), load_point(POINT))
    assert use(tpm, host, [by_rule(tpm, host.owner)], [delegate(host.owner)]) == expected
    assert tpm.handles(0x80000000) == tpm.handles(0x02000000) == []


def test_without_the_delegation_a_rule_key_is_nobody(tpm: Tpm, host: Host) -> None:
    approval = by_rule(tpm, host.owner)
    for delegations in ([], [delegate(host.owner, SoftwareSigner.generate())]):
        with pytest.raises(StateRefused, match="did not delegate"):
            use(tpm, host, [approval], delegations)


def test_the_tpm_refuses_a_delegation_by_another_than_the_approver(tpm: Tpm, host: Host) -> None:
    stranger = SoftwareSigner.generate()
    with pytest.raises(StateRefused, match="TPM_RC_POLICY_FAIL"):
        use(tpm, host, [by_rule(tpm, host.owner)], [delegate(host.owner, approver=stranger)])


def test_the_tpm_refuses_a_delegation_to_another_rule_key(tpm: Tpm, host: Host) -> None:
    """A genuine delegation, relabelled: its signature stands for the other rule key's policy."""
    other = SoftwareSigner.generate()
    relabelled = replace(delegate(host.owner), rule_point=other.point)
    with pytest.raises(SignatureRefused, match="delegation"):
        use(tpm, host, [by_rule(tpm, host.owner, other)], [relabelled])


def test_delegation_of_another_epoch_is_none(tpm: Tpm, host: Host) -> None:
    other = Owner(epoch=2, approver=host.owner.approver, mode=host.owner.mode)
    with pytest.raises(StateRefused, match="did not delegate"):
        use(tpm, host, [by_rule(tpm, host.owner)], [delegate(other)])
    relabelled = replace(delegate(other), epoch=1)
    with pytest.raises(SignatureRefused, match="delegation"):
        use(tpm, host, [by_rule(tpm, host.owner)], [relabelled])


def test_state_the_rule_key_did_not_approve(tpm: Tpm, host: Host) -> None:
    with pytest.raises(StateRefused, match="none of the approved"):
        use(tpm, host, [by_rule(tpm, host.owner, pcr9=b"o" * 32)], [delegate(host.owner)])
    present, other = by_rule(tpm, host.owner), by_rule(tpm, host.owner, pcr9=b"o" * 32)
    edited = replace(other, pcr_digest=present.pcr_digest)
    with pytest.raises(StateRefused, match="TPM_RC_VALUE"):
        use(tpm, host, [edited], [delegate(host.owner)])


def test_forged_approval_by_rule(tpm: Tpm, host: Host) -> None:
    forged = replace(by_rule(tpm, host.owner), signature_der=RULE.sign_digest(bytes(32)))
    with pytest.raises(SignatureRefused, match="does not verify"):
        use(tpm, host, [forged], [delegate(host.owner)])


def test_an_ordinary_approval_still_works_beside_a_delegation(tpm: Tpm, host: Host) -> None:
    assert use(tpm, host, [host.owner.approve(pcr.read(tpm, SELECTION))], [delegate(host.owner)])
