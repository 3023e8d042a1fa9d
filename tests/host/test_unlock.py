from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import (
    IntegrityRefused,
    NoRecipientRefused,
    NotFoundError,
    RollbackRefused,
    StateRefused,
    TpmAwayFault,
    UntrustedRefused,
)
from sealvm.host.config import HostConfig
from sealvm.host.keyring import Anchor, HostIdentity, Keyring
from sealvm.host.unlock import accepted_provisioners, bundle_expired, open_keys, stored_bundle, unlock
from sealvm.lab.swtpm import make_ca
from sealvm.package.expression import parse_expression
from sealvm.package.header import BlobRef, Header, IndexRef
from sealvm.package.keys import commitment
from sealvm.package.open import VerifiedPackage
from sealvm.package.recipients import ProfileKeyRef, build_recipients
from sealvm.package.settings import Settings
from sealvm.secret import Secret
from sealvm.statements.approval import Approval
from sealvm.statements.bundle import BundleEpoch, BundleProfile, BundleProvisioner, TrustBundle, sign_bundle
from sealvm.tpm import pcr
from sealvm.tpm.connection import open_tpm
from tests.tpm.rig import SELECTION, Host, Owner, make_host, started_tpm

pytestmark = pytest.mark.tpm

ISSUED = datetime(2026, 1, 1, tzinfo=UTC)
LINEAGE = b"l" * 16
ANCHOR = SoftwareSigner.generate()
PROVISIONER = SoftwareSigner.generate()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    base = tmp_path_factory.mktemp("t")
    with started_tpm(base / "host", make_ca(base / "ca")) as swtpm:
        yield make_host(swtpm, Owner())


def bundle_of(owners: list[Owner], approvals: dict[str, list[Approval]], version: int = 3) -> TrustBundle:
    def epoch(owner: Owner) -> BundleEpoch:
        listed = tuple(approvals.get(f"{owner.profile}.{owner.epoch}", []))
        return BundleEpoch(
            owner.epoch, "", "standing", SELECTION, owner.key.point, owner.public, owner.approver.point, listed
        )

    names = sorted({owner.profile for owner in owners})
    profiles = [BundleProfile(n, "name: x", tuple(epoch(o) for o in owners if o.profile == n)) for n in names]
    provisioner = BundleProvisioner("builder", PROVISIONER.point, tuple(names))
    return TrustBundle(version, ISSUED, ISSUED + timedelta(days=30), tuple(profiles), (provisioner,))


@dataclass
class Rig:
    """A host's directory on the module's TPM, and what it was given."""

    host: Host
    config: HostConfig
    keyring: Keyring

    def receive(self, bundle: TrustBundle) -> None:
        self.keyring.save_bundle(sign_bundle(bundle, ANCHOR))

    def seal(self, owner: Owner) -> None:
        with self.config.open_tpm() as tpm:
            self.keyring.save_key(owner.seal(tpm, self.host.blobs))

    def approved(self, owner: Owner) -> list[Approval]:
        with open_tpm(self.host.swtpm.tcti) as tpm:
            return [owner.approve(pcr.read(tpm, SELECTION))]


@pytest.fixture
def rig(host: Host, tmp_path: Path) -> Rig:
    config = HostConfig(directory=tmp_path, name="host-1", tcti=host.swtpm.tcti)
    rig = Rig(host, config, Keyring(tmp_path))
    rig.keyring.save_identity(HostIdentity(host.blobs, host.blobs.srk_name, "id"))
    rig.keyring.save_anchor(Anchor(ANCHOR.point, 3))
    rig.keyring.save_key(host.key)
    rig.receive(bundle_of([host.owner], {"measured-kernel.1": rig.approved(host.owner)}))
    return rig


def package_for(key: Secret, owners: list[Owner], expression: dict[str, Any] | None = None) -> VerifiedPackage:
    blob = BlobRef("sha256:" + "0" * 64, 100)
    header = Header(
        lineage=LINEAGE,
        version=1,
        created="2026-11-23T12:00:00Z",
        disk_bytes=4096,
        chunk_bytes=4096,
        index=IndexRef(blob, 10, "0" * 64),
        packs=(),
        commitment=commitment(key, LINEAGE, 1),
        expression=parse_expression(expression or {"profile": owners[0].profile}),
        settings=Settings(),
    )
    leaves = [ProfileKeyRef(owner.profile, owner.epoch, "", owner.key.point) for owner in owners]
    recipients = build_recipients(key, header.digest, leaves, header.expression)
    profiles = frozenset(owner.profile for owner in owners)
    manifest: Any = None  # unlock looks at header and recipients alone
    return VerifiedPackage(header, header.digest, "", profiles, recipients, manifest, "")


KEY = Secret(secrets.token_bytes(32))


def test_approved_host_gets_the_key_with_one_ecdh(rig: Rig, host: Host) -> None:
    unlocked = unlock(rig.config, package_for(KEY, [host.owner]))
    assert unlocked.key == KEY
    assert unlocked.uses == 1
    assert 0 < unlocked.tpm_seconds < 5


def test_state_that_is_not_approved_names_the_profile(rig: Rig, host: Host) -> None:
    other = host.owner.approve({**host.values, 9: b"o" * 32})
    rig.receive(bundle_of([host.owner], {"measured-kernel.1": [other]}))
    with pytest.raises(StateRefused, match="measured-kernel") as caught:
        unlock(rig.config, package_for(KEY, [host.owner]))
    assert caught.value.fields["profile"] == "measured-kernel"


def test_any_profile_that_fits_will_do(rig: Rig, host: Host) -> None:
    second = Owner("second")
    rig.seal(second)
    rig.receive(bundle_of([host.owner, second], {"second.1": rig.approved(second)}))
    either = {"anyOf": [{"profile": "measured-kernel"}, {"profile": "second"}]}
    assert unlock(rig.config, package_for(KEY, [host.owner, second], either)).key == KEY


def test_all_profiles_must_fit_where_all_are_asked(rig: Rig, host: Host) -> None:
    second = Owner("second")
    rig.seal(second)
    both = {"allOf": [{"profile": "measured-kernel"}, {"profile": "second"}]}
    package = package_for(KEY, [host.owner, second], both)
    approvals = {"measured-kernel.1": rig.approved(host.owner)}
    rig.receive(bundle_of([host.owner, second], approvals))
    with pytest.raises(StateRefused, match="second"):
        unlock(rig.config, package)
    rig.receive(bundle_of([host.owner, second], {**approvals, "second.1": rig.approved(second)}))
    unlocked = unlock(rig.config, package)
    assert (unlocked.key, unlocked.uses) == (KEY, 2)


def test_package_for_a_profile_this_host_lacks(rig: Rig) -> None:
    with pytest.raises(NoRecipientRefused, match="unknown"):
        unlock(rig.config, package_for(KEY, [Owner("unknown")]))


def test_key_that_the_bundle_lists_but_the_host_lacks(rig: Rig, host: Host) -> None:
    second = Owner("second")
    rig.receive(bundle_of([host.owner, second], {"second.1": rig.approved(second)}))
    with pytest.raises(NoRecipientRefused):
        unlock(rig.config, package_for(KEY, [second]))


def test_held_key_that_is_not_the_listed_one_is_not_used(rig: Rig, host: Host) -> None:
    replaced = Owner(approver=host.owner.approver)
    rig.receive(bundle_of([replaced], {"measured-kernel.1": rig.approved(replaced)}))
    assert not open_keys(rig.config).holds("measured-kernel", 1, "")
    with pytest.raises(NoRecipientRefused):
        unlock(rig.config, package_for(KEY, [replaced]))


def test_unlisted_key_has_no_point(rig: Rig) -> None:
    opener = open_keys(rig.config)
    for ask in (lambda: opener.point("other", 1, ""), lambda: opener.ecdh("other", 1, "", PROVISIONER.point)):
        with pytest.raises(NoRecipientRefused, match="not in this host's trust bundle"):
            ask()


def test_at_most_eight_attempts(rig: Rig, host: Host) -> None:
    opener = open_keys(rig.config)
    for _attempt in range(8):
        opener.ecdh("measured-kernel", 1, "", PROVISIONER.point)
    with pytest.raises(StateRefused, match="8 keys were tried"):
        opener.ecdh("measured-kernel", 1, "", PROVISIONER.point)
    assert opener.uses == 8


def test_launches_at_the_same_time_take_turns(rig: Rig, host: Host) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(unlock, rig.config, package_for(KEY, [host.owner])) for _launch in range(8)]
    assert [job.result().uses for job in jobs] == [1] * 8


def test_key_other_than_the_committed_one_is_refused(rig: Rig, host: Host) -> None:
    package, other = package_for(KEY, [host.owner]), Secret(bytes(32))
    leaves = [ProfileKeyRef("measured-kernel", 1, "", host.owner.key.point)]
    swapped = build_recipients(other, package.header.digest, leaves, package.header.expression)
    with pytest.raises(IntegrityRefused):
        unlock(rig.config, replace(package, recipients=swapped))


def test_bundle_of_another_authority_is_refused(rig: Rig, host: Host) -> None:
    rig.keyring.save_bundle(sign_bundle(bundle_of([host.owner], {}), SoftwareSigner.generate()))
    with pytest.raises(UntrustedRefused):
        unlock(rig.config, package_for(KEY, [host.owner]))


def test_older_bundle_than_was_seen_is_refused(rig: Rig, host: Host) -> None:
    rig.receive(bundle_of([host.owner], {"measured-kernel.1": rig.approved(host.owner)}, version=2))
    with pytest.raises(RollbackRefused, match="version 2"):
        unlock(rig.config, package_for(KEY, [host.owner]))


def test_expired_bundle_still_launches_and_is_told(rig: Rig, host: Host) -> None:
    bundle = stored_bundle(rig.keyring)
    assert not bundle_expired(bundle, ISSUED)
    assert bundle_expired(bundle, ISSUED + timedelta(days=31))
    assert unlock(rig.config, package_for(KEY, [host.owner])).key == KEY


def test_host_that_never_enrolled(tmp_path: Path, host: Host) -> None:
    config = HostConfig(directory=tmp_path, name="h", tcti=host.swtpm.tcti)
    with pytest.raises(NotFoundError) as caught:
        unlock(config, package_for(KEY, [host.owner]))
    assert "enroll" in caught.value.hint


def test_tpm_that_is_away_is_no_refusal(rig: Rig, host: Host) -> None:
    away = replace(rig.config, tcti=f"swtpm:path={rig.config.directory}/none")
    with pytest.raises(TpmAwayFault):
        unlock(away, package_for(KEY, [host.owner]))


def test_provisioners_are_accepted_for_their_profiles(host: Host) -> None:
    bundle = bundle_of([host.owner], {})
    again = replace(bundle.provisioners[0], name="builder-2", profiles=("other",))
    both = replace(bundle, provisioners=(*bundle.provisioners, again))
    assert accepted_provisioners(both) == {PROVISIONER.point: frozenset({"measured-kernel", "other"})}
