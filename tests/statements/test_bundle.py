"""The trust bundle: it comes back as it was signed, and each of its five checks refuses."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from sealvm.crypto import canonical, dsse
from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import (
    IntegrityRefused,
    MalformedError,
    RollbackRefused,
    SealvmError,
    SignatureRefused,
    UntrustedRefused,
)
from sealvm.statements.approval import Approval, sign_approval
from sealvm.statements.bundle import (
    BUNDLE_TYPE,
    BundleEpoch,
    BundleProfile,
    BundleProvisioner,
    TrustBundle,
    bundle_to_json,
    expected_public,
    sign_bundle,
    verify_bundle,
    verify_stored_bundle,
)

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SIGNER = SoftwareSigner.generate()
APPROVER = SoftwareSigner.generate()
KEY = SoftwareSigner.generate()
VALUES = {index: bytes([index]) * 32 for index in (0, 2, 4, 7)}
SELECTION = (0, 2, 4, 7)


def approval(
    signer: SoftwareSigner = APPROVER, profile: str = "web", epoch: int = 1, selection: tuple[int, ...] = SELECTION
) -> Approval:
    return sign_approval(
        signer, profile=profile, epoch=epoch, cell="", selection=selection, pcr_values=VALUES, label="host-1"
    )


def epoch_of(**changes: object) -> BundleEpoch:
    base = BundleEpoch(
        epoch=1,
        cell="",
        mode="standing",
        selection=SELECTION,
        point=KEY.point,
        public=expected_public("web", 1, "", "standing", point=KEY.point, approver_point=APPROVER.point),
        approver_point=APPROVER.point,
        approvals=(approval(),),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def bundle_of(*epochs: BundleEpoch, **changes: object) -> TrustBundle:
    base = TrustBundle(
        version=3,
        issued=NOW,
        expires=NOW + timedelta(days=30),
        profiles=(BundleProfile(name="web", document="name: web\n", epochs=epochs or (epoch_of(),)),),
        provisioners=(BundleProvisioner(name="builder", point=KEY.point, profiles=("web",)),),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_round_trip() -> None:
    bundle = bundle_of()
    verified = verify_bundle(sign_bundle(bundle, SIGNER), SIGNER.point, NOW, 3)
    assert verified == bundle
    assert verified.epoch_of("web", 1, "") == bundle.profiles[0].epochs[0]
    assert verified.epoch_of("web", 2, "") is None
    assert verified.epoch_of("other", 1, "") is None
    assert verified.provisioner_points("web") == (KEY.point,)
    assert verified.provisioner_points("other") == ()


def test_it_is_public() -> None:
    assert KEY.scalar().reveal() not in sign_bundle(bundle_of(), SIGNER)


FOREIGN = approval(KEY)


@pytest.mark.parametrize(
    ("bundle", "now", "floor", "refusal", "message"),
    [
        (bundle_of(), NOW, 4, RollbackRefused, "version 3, expected at least 4"),
        (bundle_of(), NOW + timedelta(days=30), 0, RollbackRefused, "expired"),
        (bundle_of(), NOW - timedelta(minutes=6), 0, RollbackRefused, "clock"),
        (bundle_of(epoch_of(mode="host-standing")), NOW, 0, IntegrityRefused, "public area"),
        (bundle_of(epoch_of(epoch=2)), NOW, 0, IntegrityRefused, "public area"),
        (bundle_of(epoch_of(cell="rack")), NOW, 0, IntegrityRefused, "public area"),
        (bundle_of(epoch_of(point=APPROVER.point)), NOW, 0, IntegrityRefused, "public area"),
        (bundle_of(epoch_of(approver_point=KEY.point)), NOW, 0, IntegrityRefused, "public area"),
        (bundle_of(epoch_of(approvals=(approval(KEY),))), NOW, 0, IntegrityRefused, "another key"),
        (bundle_of(epoch_of(approvals=(approval(profile="db"),))), NOW, 0, IntegrityRefused, "another key"),
        (bundle_of(epoch_of(approvals=(approval(epoch=2),))), NOW, 0, IntegrityRefused, "another key"),
        (bundle_of(epoch_of(approvals=(approval(selection=(0, 2)),))), NOW, 0, IntegrityRefused, "other PCRs"),
        (
            bundle_of(epoch_of(approvals=(dataclasses.replace(approval(), signature_der=FOREIGN.signature_der),))),
            NOW,
            0,
            SignatureRefused,
            "approver",
        ),
        (
            bundle_of(epoch_of(approvals=(dataclasses.replace(approval(), pcr_digest=bytes(32)),))),
            NOW,
            0,
            SignatureRefused,
            "approved policy",
        ),
        (bundle_of(profiles=bundle_of().profiles * 2), NOW, 0, IntegrityRefused, "twice"),
    ],
)
def test_refused(bundle: TrustBundle, now: datetime, floor: int, refusal: type[SealvmError], message: str) -> None:
    with pytest.raises(refusal, match=message):
        verify_bundle(sign_bundle(bundle, SIGNER), SIGNER.point, now, floor)


def test_another_anchor() -> None:
    with pytest.raises(UntrustedRefused):
        verify_bundle(sign_bundle(bundle_of(), SIGNER), KEY.point, NOW, 0)


def test_altered_payload() -> None:
    envelope = canonical.loads(sign_bundle(bundle_of(), SIGNER), "t", 1 << 20)
    other = canonical.loads(sign_bundle(bundle_of(version=9), SIGNER), "t", 1 << 20)
    with pytest.raises(SignatureRefused):
        verify_bundle(canonical.dumps(envelope | {"payload": other["payload"]}), SIGNER.point, NOW, 0)


def test_another_kind_of_statement() -> None:
    envelope = dsse.sign_envelope("application/vnd.sealvm.other", canonical.dumps(bundle_to_json(bundle_of())), SIGNER)
    with pytest.raises(SignatureRefused):
        verify_bundle(envelope, SIGNER.point, NOW, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "sealvm-trust-bundle-v2"},
        {"more": 1},
        {"version": 0},
        {"version": "3"},
        {"version": True},
        {"issued": "2026-11-23"},
        {"issued": "2026-11-23T12:00:00+00:00"},
        {"profiles": {}},
        {"provisioners": [{"name": "Builder", "point": KEY.point.hex(), "profiles": []}]},
        {"provisioners": [{"name": "b", "point": KEY.point.hex()[:-2], "profiles": []}]},
        {"provisioners": [{"name": "b", "point": KEY.point.hex().upper(), "profiles": []}]},
        {"provisioners": [{"name": "b", "point": KEY.point.hex(), "profiles": [], "more": 1}]},
    ],
)
def test_malformed(change: dict[str, object]) -> None:
    payload = canonical.dumps(bundle_to_json(bundle_of()) | change)
    with pytest.raises(MalformedError, match="trust bundle"):
        verify_bundle(dsse.sign_envelope(BUNDLE_TYPE, payload, SIGNER), SIGNER.point, NOW, 0)


def test_stored_bundle_outlives_its_date_but_is_never_rolled_back() -> None:
    envelope = sign_bundle(bundle_of(), SIGNER)
    assert verify_stored_bundle(envelope, SIGNER.point, 3).expires < NOW + timedelta(days=31)
    with pytest.raises(RollbackRefused):
        verify_stored_bundle(envelope, SIGNER.point, 4)
