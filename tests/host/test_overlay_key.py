"""The key of a writable disk: what opens it, and that nobody without the package's key can put another disk there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.crypto.labels import label_digest
from sealvm.errors import InputError, IntegrityRefused, NoRecipientRefused
from sealvm.host.overlay_key import new_overlay_key, unwrap_overlay_key
from sealvm.host.storage import DiskSpec, create_disk, open_disk
from sealvm.package.header import Header
from sealvm.package.recipients import ProfileKeyRef, build_recipients, open_wraps
from sealvm.secret import Secret
from sealvm.statements.bundle import BundleEpoch, BundleProfile, TrustBundle
from sealvm.statements.times import parse_time
from tests.host import guests
from tests.package.builder import CHUNK, Built, build
from tests.package.memory import SoftwareKeys

NAME = "guest"
MIB = 1 << 20


@pytest.fixture(scope="module")
def built() -> Built:
    return build(os.urandom(CHUNK))


@pytest.fixture
def spec(grub_image: Path, runtime: Path, tmp_path: Path) -> Iterator[DiskSpec]:
    server = guests.PlainServers(grub_image)(tmp_path, "", guests.overlay_key(), runtime)
    yield DiskSpec(tmp_path / "overlay.luks", 64 * MIB, server.socket, runtime, tmp_path / "storage.log")
    server.stop()


def bundle_of(*refs: ProfileKeyRef, closed: int = 0) -> TrustBundle:
    """A bundle as its reader sees it; who signed it is not looked at here."""
    now = parse_time("2026-11-23T12:00:00Z", "now")
    epochs = tuple(
        BundleEpoch(
            epoch=ref.epoch,
            cell=ref.cell,
            mode="standing",
            selection=(0, 2, 4, 7),
            point=ref.point,
            public=b"",
            approver_point=ref.point,
            approvals=(),
            wraps=ref.epoch != closed,
        )
        for ref in refs
    )
    return TrustBundle(1, now, now, (BundleProfile("p", "", epochs),), ())


def refs_of(keys: SoftwareKeys) -> list[ProfileKeyRef]:
    return [ProfileKeyRef(*name, key.point) for name, key in keys.keys.items()]


def context_of(header: Header) -> str:
    """The digest in an overlay's wraps: public, so an attacker can compute it."""
    return label_digest("overlay", bytes.fromhex(header.digest), NAME.encode()).hex()


def test_the_key_comes_back_for_this_instance_only(built: Built) -> None:
    key, wrap = new_overlay_key(built.header, NAME, bundle_of(*refs_of(built.keys)), built.key)
    assert unwrap_overlay_key(wrap, built.header, NAME, built.keys, built.key) == key
    with pytest.raises(IntegrityRefused):
        unwrap_overlay_key(wrap, built.header, "other", built.keys, built.key)


def test_whoever_unwraps_it_without_the_packages_key_has_nothing(built: Built) -> None:
    """A trust bundle that lists an attacker's own key for the profile does not give him the disks made under it."""
    thief = SoftwareKeys()
    listed = [*refs_of(built.keys), thief.add("p", 99)]
    key, wrap = new_overlay_key(built.header, NAME, bundle_of(*listed), built.key)
    share = open_wraps(wrap, context_of(built.header), built.header.expression, thief, None, accept=lambda _: None)
    assert share != key
    assert unwrap_overlay_key(wrap, built.header, NAME, built.keys, built.key) == key


def test_a_disk_put_there_by_somebody_without_the_packages_key_is_not_opened(built: Built, spec: DiskSpec) -> None:
    """Anybody can wrap to a profile: a disk and a wrap that fit each other must not do."""
    known = Secret(os.urandom(32))
    forged = build_recipients(known, context_of(built.header), refs_of(built.keys), built.header.expression)
    create_disk(spec, known).stop()
    for socket in spec.runtime_dir.glob("*.qmp"):
        socket.unlink()
    key = unwrap_overlay_key(forged, built.header, NAME, built.keys, built.key)
    with pytest.raises(IntegrityRefused, match="cannot unlock any keyslot"):
        open_disk(spec, key).stop()


def test_another_packages_key_does_not_do(built: Built) -> None:
    key, wrap = new_overlay_key(built.header, NAME, bundle_of(*refs_of(built.keys)), built.key)
    other = Secret(os.urandom(32))
    assert unwrap_overlay_key(wrap, built.header, NAME, built.keys, other) != key


def test_an_epoch_that_is_closed_gets_no_new_disk(built: Built) -> None:
    withdrawn = SoftwareKeys()
    bundle = bundle_of(*refs_of(built.keys), withdrawn.add("p", 7), closed=7)
    _key, wrap = new_overlay_key(built.header, NAME, bundle, built.key)
    with pytest.raises(NoRecipientRefused):
        unwrap_overlay_key(wrap, built.header, NAME, withdrawn, built.key)
    with pytest.raises(InputError, match="no key of profile"):
        new_overlay_key(built.header, NAME, bundle_of(withdrawn.add("p", 7), closed=7), built.key)
