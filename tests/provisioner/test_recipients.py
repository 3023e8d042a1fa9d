"""A package is wrapped to what the trust bundle keeps open, and to nothing that was closed."""

from __future__ import annotations

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import NotFoundError
from sealvm.provisioner.recipients import profile_key_refs
from sealvm.statements.bundle import BundleEpoch, BundleProfile, TrustBundle
from sealvm.statements.times import parse_time

NOW = parse_time("2026-11-23T12:00:00Z", "now")


def epoch(number: int, cell: str = "", *, wraps: bool = True) -> BundleEpoch:
    point = SoftwareSigner.generate().point
    return BundleEpoch(
        epoch=number,
        cell=cell,
        mode="standing",
        selection=(0, 2, 4, 7),
        point=point,
        public=b"",
        approver_point=point,
        approvals=(),
        wraps=wraps,
    )


def bundle(*epochs: BundleEpoch) -> TrustBundle:
    return TrustBundle(1, NOW, NOW, (BundleProfile("p", "", epochs),), ())


def test_every_open_epoch_and_cell() -> None:
    refs = profile_key_refs(bundle(epoch(1), epoch(2), epoch(2, "rack")), ["p", "p"])
    assert [(ref.epoch, ref.cell) for ref in refs] == [(1, ""), (2, ""), (2, "rack")]


def test_an_epoch_from_which_a_state_was_withdrawn_gets_no_new_package() -> None:
    refs = profile_key_refs(bundle(epoch(1, wraps=False), epoch(2)), ["p"])
    assert [ref.epoch for ref in refs] == [2]
    with pytest.raises(NotFoundError, match="no epoch for new packages"):
        profile_key_refs(bundle(epoch(1, wraps=False)), ["p"])


def test_a_profile_that_is_not_listed() -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        profile_key_refs(bundle(epoch(1)), ["q"])
