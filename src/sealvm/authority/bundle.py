"""The trust bundle: made anew, one version higher, in the transaction of every change that hosts must learn."""

from __future__ import annotations

from sealvm.authority import audit, epochs
from sealvm.authority.ports import BUNDLE_KEY, Context, Transaction
from sealvm.authority.records import BundleRecord, EpochRecord
from sealvm.errors import NotFoundError
from sealvm.statements.approval import Approval
from sealvm.statements.bundle import (
    BundleEpoch,
    BundleProfile,
    BundleProvisioner,
    TrustBundle,
    sign_bundle,
    verify_bundle,
)
from sealvm.statements.rule import Delegation


def publish(ctx: Context, tx: Transaction, actor: str) -> BundleRecord:
    """Sign and store the next version, from what `tx` (a write transaction) now holds."""
    last = tx.bundle()
    now = ctx.now()
    bundle = TrustBundle(
        version=last.version + 1 if last else 1,
        issued=now,
        expires=now + ctx.settings.bundle_lifetime,
        profiles=_profiles(tx),
        provisioners=tuple(
            BundleProvisioner(name=record.name, point=record.point, profiles=record.profiles)
            for record in tx.provisioners()
        ),
    )
    signer = ctx.custody.signer(BUNDLE_KEY)
    envelope = sign_bundle(bundle, signer)
    verify_bundle(envelope, signer.point, now, bundle.version)  # nothing is published that hosts would refuse
    record = BundleRecord(bundle.version, envelope, bundle.issued, bundle.expires)
    tx.put_bundle(record)
    audit.record(ctx, tx, actor, audit.Action.BUNDLE_PUBLISHED, f"version {bundle.version}")
    return record


def current(ctx: Context) -> bytes:
    """The envelope of the newest bundle; it is signed anew when half of its life is over."""
    with ctx.store.read() as tx:
        record = tx.bundle()
    if record is None:
        raise NotFoundError("this authority has published no trust bundle", hint="run `sealvm authority init`")
    if ctx.now() < record.issued + (record.expires - record.issued) / 2:
        return record.envelope
    with ctx.store.write() as tx:
        newest = tx.bundle()
        if newest is not None and newest.version > record.version:
            return newest.envelope
        return publish(ctx, tx, "authority").envelope


def _profiles(tx: Transaction) -> tuple[BundleProfile, ...]:
    present: dict[str, list[BundleEpoch]] = {}
    for record in epochs.present(tx):
        present.setdefault(record.profile, []).append(_epoch(tx, record))
    return tuple(
        BundleProfile(name=record.name, document=record.document, epochs=tuple(present.get(record.name, ())))
        for record in tx.profiles()
    )


def _epoch(tx: Transaction, record: EpochRecord) -> BundleEpoch:
    approvals = tuple(
        Approval.from_json(approval.body) for approval in tx.approvals(record.profile) if approval.key == record.key
    )
    delegations = tuple(
        Delegation.from_json(rule.delegation)
        for rule in tx.rules(record.profile)
        if rule.key == record.key and rule.delegation is not None
    )
    return BundleEpoch(
        epoch=record.epoch,
        cell=record.cell,
        mode=record.mode,
        selection=record.selection,
        point=record.point,
        public=record.public,
        approver_point=record.approver_point,
        approvals=approvals,
        wraps=record.wraps,
        delegations=delegations,
    )
