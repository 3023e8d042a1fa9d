"""Disks and packages across epochs: wrapped anew by hosts, re-wrapped by the authority; what holds retirement back."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealvm.authority import provisioners, retire, rewrap, rotate
from sealvm.errors import ConflictError, NoRecipientRefused, SignatureRefused, StateRefused, UntrustedRefused
from sealvm.host.bundles import disk_bundle
from sealvm.host.config import HostConfig, load_host
from sealvm.host.enroll import enroll
from sealvm.host.instance_record import InstanceRecord, new_folder
from sealvm.host.keyring import Keyring
from sealvm.host.overlay_key import new_overlay_key, unwrap_overlay_key, wrapped_keys
from sealvm.host.sync import sync
from sealvm.host.unlock import KeyOpener, accepted_provisioners, open_keys, stored_bundle
from sealvm.lab.network import write_recording
from sealvm.lab.recording import load_recording
from sealvm.package.expression import ProfileLeaf
from sealvm.package.header import MAX_ENVELOPE_BYTES
from sealvm.package.manifest import build_manifest, parse_manifest
from sealvm.package.open import VerifiedPackage, open_package
from sealvm.package.ports import Descriptor
from sealvm.package.recipients import MAX_RECIPIENTS_BYTES
from sealvm.protocol.operator import ProvisionerRequest
from sealvm.protocol.trust import RetireRequest, RewrapRequest, RotateRequest
from sealvm.provisioner.build import build_package
from sealvm.provisioner.keys import create_provisioner_key
from sealvm.provisioner.recipients import profile_key_refs
from sealvm.store.layout import OciLayout
from sealvm.store.reference import parse_reference
from tests.authority.harness import ACTOR, Authority, boot, ek_digest_of
from tests.authority.test_rotation import accept, actions

pytestmark = pytest.mark.tpm


class Scene:
    """A host in an approved state with one stopped instance of a package."""

    def __init__(self, network: Authority, host: HostConfig, folder: Path) -> None:
        self.network = network
        enroll(host.directory, network.register("host-1", ek_digest_of(host)))
        accept(network)
        self.signer = create_provisioner_key(folder / "provisioner")
        request = ProvisionerRequest(name="builder", point=self.signer.point, profiles=("measured",))
        provisioners.trust_provisioner(network.context, ACTOR, request)
        sync(host.directory)
        self.host = load_host(host.directory)
        self.reference = parse_reference(f"oci:{folder / 'package'}:v1")
        (folder / "disk.raw").write_bytes(os.urandom(64 * 1024))
        build_package(
            folder / "disk.raw",
            self.reference,
            expression=ProfileLeaf("measured"),
            profile_keys=profile_key_refs(self.bundle, ["measured"]),
            signer=self.signer,
        )
        package = self.package()
        self.package_key = package.unwrap(open_keys(self.host))
        self.disk_key, wrap = new_overlay_key(package.header, "vm-1", self.bundle, self.package_key)
        self.folder = new_folder(self.host.directory, "vm-1")
        self.folder.write(
            InstanceRecord(
                id="vm-1",
                header_digest=package.header_digest,
                layout_dir=str(self.reference.directory),
                disk_bytes=1,
                memory_mib=16,
                cpus=1,
                created=datetime.now(UTC).replace(microsecond=0),
            )
        )
        self.folder.wrap.write_bytes(wrap)

    @property
    def bundle(self):
        return stored_bundle(Keyring(self.host.directory))

    def package(self) -> VerifiedPackage:
        with OciLayout.open(self.reference.directory) as layout:
            return open_package(layout, self.reference.tag, accepted_provisioners(self.bundle))

    def epochs(self) -> list[int]:
        return sorted(key[1] for key in wrapped_keys(self.folder.read_wrap(), self.package().header, "vm-1"))

    def opens(self) -> bool:
        keyring = Keyring(self.host.directory)
        opener = KeyOpener(self.host, keyring, disk_bundle(keyring, self.bundle))
        found = unwrap_overlay_key(self.folder.read_wrap(), self.package().header, "vm-1", opener, self.package_key)
        return found.reveal() == self.disk_key.reveal()

    def rotate(self) -> None:
        rotate.rotate(self.network.context, ACTOR, "measured", RotateRequest())

    def retire(self, epoch: int, **fields: bool):
        return retire.retire(self.network.context, ACTOR, "measured", RetireRequest(epoch=epoch, **fields))

    def rewrap(self) -> None:
        with OciLayout.open(self.reference.directory) as layout:
            request = self.request(layout)
            view = rewrap.rewrap(self.network.context, ACTOR, request)
            manifest = parse_manifest(layout.resolve("v1").data)
            stored = layout.put_blob(view.recipients)
            head = Descriptor(manifest.header.digest, manifest.header.size)
            layout.put_manifest("v1", build_manifest(self.package().header, head, stored))

    @staticmethod
    def request(layout: OciLayout) -> RewrapRequest:
        manifest = parse_manifest(layout.resolve("v1").data)
        return RewrapRequest(
            envelope=layout.get_blob(manifest.header.digest, MAX_ENVELOPE_BYTES),
            recipients=layout.get_blob(manifest.recipients.digest, MAX_RECIPIENTS_BYTES),
        )


@pytest.fixture
def scene(network: Authority, host: HostConfig, tmp_path: Path) -> Scene:
    return Scene(network, host, tmp_path)


def test_a_disk_follows_its_epochs(scene: Scene) -> None:
    scene.rotate()
    assert scene.epochs() == [1]
    with pytest.raises(ConflictError, match="vm-1"):
        sync(scene.host.directory)  # reports the package, wrapped to epoch 1 only
        scene.retire(1)
    assert scene.epochs() == [1, 2]
    assert scene.opens()
    assert scene.retire(1, dry_run=True).blocking == ("host-1/vm-1 (package)",)
    scene.rewrap()
    assert "package.rewrapped" in actions(scene.network)
    sync(scene.host.directory)
    assert scene.retire(1).blocking == ()
    report = sync(scene.host.directory)
    assert (report.rewrapped, report.removed_keys) == (("vm-1",), (("measured", 1, ""),))
    assert scene.epochs() == [2]
    assert scene.opens()
    assert scene.package().unwrap(open_keys(scene.host)).reveal() == scene.package_key.reveal()


def test_a_launch_on_a_host_that_is_not_updated(scene: Scene) -> None:
    scene.rotate()
    scene.rewrap()
    assert len(scene.package().unwrap(open_keys(scene.host))) == 32  # by epoch 1
    sync(scene.host.directory)
    assert len(scene.package().unwrap(open_keys(scene.host))) == 32


def test_a_host_in_another_state_keeps_what_it_can_open_later(scene: Scene) -> None:
    """The epoch ends while the host is in a state that nobody approved: nothing is lost, and all is made good later."""
    scene.rotate()
    scene.rewrap()
    write_recording(scene.host.directory, load_recording("tampered"))
    boot(scene.host)
    report = sync(scene.host.directory)
    assert (report.rewrapped, [name for name, _ in report.waiting]) == ((), ["vm-1"])
    with pytest.raises(ConflictError, match="disk"):
        scene.retire(1)
    with scene.network.context.store.write() as tx:  # a host that was away would not have been asked
        for record in tx.inventories():
            tx.put_inventory(type(record)(record.host, {**record.body, "disks": []}, record.reported))
    scene.retire(1)
    report = sync(scene.host.directory)
    assert report.removed_keys == ()
    assert Keyring(scene.host.directory).kept_bundle() is not None
    with pytest.raises(StateRefused):
        scene.opens()
    write_recording(scene.host.directory, load_recording("good"))
    boot(scene.host)
    assert scene.opens()
    report = sync(scene.host.directory)
    assert (report.rewrapped, report.removed_keys) == (("vm-1",), (("measured", 1, ""),))
    assert Keyring(scene.host.directory).kept_bundle() is None
    assert scene.opens()


def test_rewrapping_what_is_not_ours(scene: Scene, tmp_path: Path) -> None:
    with OciLayout.open(scene.reference.directory) as layout:
        request = scene.request(layout)
    stranger = create_provisioner_key(tmp_path / "stranger")
    build_package(
        tmp_path / "disk.raw",
        parse_reference(f"oci:{tmp_path / 'foreign'}:v1"),
        expression=ProfileLeaf("measured"),
        profile_keys=profile_key_refs(scene.bundle, ["measured"]),
        signer=stranger,
    )
    with OciLayout.open(tmp_path / "foreign") as layout:
        foreign = scene.request(layout)
    ctx = scene.network.context
    with pytest.raises(UntrustedRefused):
        rewrap.rewrap(ctx, ACTOR, foreign)
    with pytest.raises(SignatureRefused):
        swapped = request.envelope.replace(b'"sig":"M', b'"sig":"N')
        rewrap.rewrap(ctx, ACTOR, request.model_copy(update={"envelope": swapped}))
    scene.network.apply(name="other")
    narrowed = ProvisionerRequest(name="builder", point=scene.signer.point, profiles=("other",))
    provisioners.trust_provisioner(ctx, ACTOR, narrowed)
    with pytest.raises(UntrustedRefused, match="not accepted for profile measured"):
        rewrap.rewrap(ctx, ACTOR, request)


def test_a_package_for_keys_that_nobody_has(scene: Scene, tmp_path: Path) -> None:
    refs = profile_key_refs(scene.bundle, ["measured"])
    foreign = [type(ref)(ref.profile, 9, ref.cell, ref.point) for ref in refs]
    build_package(
        tmp_path / "disk.raw",
        parse_reference(f"oci:{tmp_path / 'epoch9'}:v1"),
        expression=ProfileLeaf("measured"),
        profile_keys=foreign,
        signer=scene.signer,
    )
    with OciLayout.open(tmp_path / "epoch9") as layout, pytest.raises(NoRecipientRefused):
        rewrap.rewrap(scene.network.context, ACTOR, scene.request(layout))
