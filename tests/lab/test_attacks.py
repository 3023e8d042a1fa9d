"""The attack suite: every attack refused by the TPM, and the suite known to bite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from sealvm.errors import EnrollmentRefused, NotFoundError, TpmFault
from sealvm.lab.attacks import stranger
from sealvm.lab.attacks.borrowed import run_borrowed_attacks
from sealvm.lab.attacks.stranger import run_stranger_attacks
from sealvm.lab.attacks.suite import ATTACKS, check_controls, run_attacks
from sealvm.lab.attacks.view import Attack, AttackerView, attempt
from sealvm.lab.attacks.weak_parents import rewrap_from_srk_duplicate, rewrap_from_weaker_parent, weaker_identity
from sealvm.lab.swtpm import Swtpm, make_ca, replay_pcrs
from sealvm.tcg import templates
from sealvm.tcg.attest import verify_certify
from sealvm.tcg.duplicate import duplicate
from sealvm.tpm import identity, keys, profile_key
from sealvm.tpm.connection import open_tpm
from tests.tpm.rig import Host, Owner, make_host, started_tpm, view_of

pytestmark = pytest.mark.tpm


@dataclass(frozen=True)
class Fleet:
    """Host 1 in the approved state, host 3 in another, and a TPM that never joined."""

    host_1: Host
    host_3: Host
    stranger: Swtpm

    @property
    def view(self) -> AttackerView:
        return view_of(self.host_3, self.host_1.values)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    base = tmp_path_factory.mktemp("fleet")
    ca = make_ca(base / "ca")
    with (
        started_tpm(base / "host-1", ca) as tpm_1,
        started_tpm(base / "host-3", ca) as tpm_3,
        started_tpm(base / "stranger", ca) as tpm_4,
    ):
        replay_pcrs(tpm_1.tcti, [(9, b"approved command line".ljust(32))], tpm_1.lock)
        replay_pcrs(tpm_3.tcti, [(9, b"init=/bin/sh".ljust(32))], tpm_3.lock)
        owner = Owner()
        yield Fleet(make_host(tpm_1, owner), make_host(tpm_3, owner), tpm_4)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_refused_by_the_tpm(fleet: Fleet, attack: Attack) -> None:
    with open_tpm(fleet.host_3.swtpm.tcti, fleet.host_3.swtpm.lock) as tpm:
        result = attempt(attack, tpm, fleet.view)
        assert tpm.handles(0x80000000) == tpm.handles(0x02000000) == []
    assert result.refused
    assert result.by.startswith(f"{attack.command}: TPM_RC_")


def test_the_whole_suite_runs_in_one_go(fleet: Fleet) -> None:
    results = run_attacks(fleet.view)
    assert [result.name for result in results] == [attack.name for attack in ATTACKS]
    assert all(result.refused for result in results)
    assert len({result.name for result in results}) == len(results) >= 12


def test_attacks_that_the_issue_names_are_in_the_suite() -> None:
    named = {
        "rewrap-password",
        "duplicate-password",
        "approval-of-another-state",
        "approval-of-another-profile",
        "approval-of-another-epoch",
        "password-session",
        "object-change-auth",
        "pcr-extended",
        "approval-by-another-key",
    }
    assert named <= {attack.name for attack in ATTACKS}


def test_rewrap_of_a_key_duplicated_to_an_srk_gives_its_scalar_away(fleet: Fleet) -> None:
    """The reason for the import parent, and the proof that the Rewrap attack is a real one."""
    secret = fleet.host_3.owner.key.scalar()
    with open_tpm(fleet.host_3.swtpm.tcti) as tpm:
        scalar, recovered = rewrap_from_srk_duplicate(tpm, fleet.view, secret)
    assert recovered.reveal() == scalar.reveal() == secret.reveal()


def test_rewrap_succeeds_where_the_parent_is_weaker_by_one_bit(fleet: Fleet) -> None:
    with open_tpm(fleet.host_3.swtpm.tcti) as tpm:
        scalar, recovered = rewrap_from_weaker_parent(tpm, fleet.view)
    assert scalar == recovered


def test_suite_reports_an_attack_that_succeeds(fleet: Fleet) -> None:
    """On a host in the approved state, using the approval is no attack: nothing refuses it, and the result says so."""
    view = view_of(fleet.host_1, fleet.host_1.values)
    honest = next(attack for attack in ATTACKS if attack.name == "approval-of-another-state")
    with open_tpm(view.tcti, view.lock) as tpm:
        result = attempt(honest, tpm, view)
    assert (result.refused, result.by) == (False, "")


def test_attack_that_breaks_down_elsewhere_is_no_refusal(fleet: Fleet) -> None:
    """A damaged blob makes Load fail: that says nothing about ECDH_ZGen with a password."""
    view = fleet.view
    damaged = replace(view, key=replace(view.key, private=bytes(len(view.key.private))))
    attack = next(attack for attack in ATTACKS if attack.name == "password-session")
    with open_tpm(view.tcti, view.lock) as tpm, pytest.raises(TpmFault, match="loading"):
        attempt(attack, tpm, damaged)


def test_controls_fail_where_the_host_cannot_even_be_honest(fleet: Fleet) -> None:
    view = replace(fleet.view, blobs=replace(fleet.view.blobs, srk_public=fleet.host_1.blobs.srk_public))
    with open_tpm(view.tcti, view.lock) as tpm, pytest.raises(TpmFault):
        check_controls(tpm, view)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_view_without_the_tempting_approvals_is_refused(fleet: Fleet, kept: int) -> None:
    view = replace(fleet.view, approvals=fleet.view.approvals[:kept])
    with pytest.raises(NotFoundError, match="no approval of"):
        run_attacks(view)


def test_host_3_still_works_for_what_it_is_approved_for(fleet: Fleet) -> None:
    """The suite leaves a sound TPM behind: the same key in an approved state of this very host opens."""
    host = fleet.host_3
    with open_tpm(host.swtpm.tcti) as tpm:
        approval = host.owner.approve(host.values)
        assert profile_key.ecdh(tpm, host.blobs, host.blobs.srk_name, host.key, [approval], point=fleet.view.wrap_point)


def test_host_1s_files_on_a_fourth_tpm_are_nothing(fleet: Fleet) -> None:
    host_1 = view_of(fleet.host_1, fleet.host_1.values)
    results = run_stranger_attacks(fleet.stranger.tcti, fleet.stranger.lock, host_1)
    assert [result.name for result in results] == [attack.name for attack in stranger.ATTACKS]
    assert all(result.refused and "TPM_RC_INTEGRITY" in result.by for result in results)


def test_stranger_attacks_succeed_on_host_1_itself(fleet: Fleet) -> None:
    """The control: what fails on the fourth TPM is no more than a load of these very blobs."""
    host_1 = fleet.host_1
    with open_tpm(host_1.swtpm.tcti) as tpm, profile_key.loaded(tpm, host_1.blobs, host_1.key) as handle:
        assert handle
    parent = (host_1.blobs.import_parent_public, host_1.blobs.import_parent_private)
    with open_tpm(host_1.swtpm.tcti) as tpm, keys.child(tpm, *parent, "the import parent") as handle:
        assert handle


def test_what_host_1_could_lend_is_refused(fleet: Fleet) -> None:
    results = run_borrowed_attacks(fleet.view, fleet.host_1.swtpm.tcti, fleet.host_1.swtpm.lock)
    assert [result.name for result in results] == ["session-of-another-host", "ticket-of-another-host"]
    assert all(result.refused for result in results)


def test_nothing_can_be_borrowed_from_an_unapproved_host(fleet: Fleet) -> None:
    with pytest.raises(TpmFault, match="presenting the approval"):
        run_borrowed_attacks(fleet.view, fleet.stranger.tcti)


def test_weaker_parent_is_certified_by_the_ak_and_refused_by_its_attributes(fleet: Fleet) -> None:
    """The TPM certifies any key; the check of the attributes is what refuses it, and sealing refuses again."""
    blobs = fleet.host_3.blobs
    with open_tpm(fleet.host_3.swtpm.tcti) as tpm:
        weaker = weaker_identity(tpm, blobs)
        attest, signature = identity.certify(tpm, weaker, "import-parent", b"n" * 32)
        assert tpm.name(tpm.persistent(keys.IMPORT_PARENT_HANDLE)) == identity.name_of(blobs.import_parent_public)
    public = weaker.import_parent_public
    verify_certify(attest, signature, blobs.ak_public, public, b"n" * 32, "import-parent", ancestors=[blobs.srk_public])
    with pytest.raises(EnrollmentRefused) as caught:
        templates.check_template(public, templates.IMPORT_PARENT, "import-parent")
    assert caught.value.fields["check"] == "import-parent.attributes"
    owner = fleet.host_3.owner
    with pytest.raises(EnrollmentRefused):
        duplicate(owner.key.scalar(), owner.public, public)
