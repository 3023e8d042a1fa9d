"""The trust bundle: made anew, one version higher, in the transaction of every change that hosts must learn.

It has a largest size (docs/spec/trust-bundle-v1.md, section 6). A change that would exceed it is refused and stores
nothing. A change that takes trust away, and signing anew, is not: its bundle leaves out the events of approved
states, which only `explain` reads. Other changes must leave room for that.
"""

from __future__ import annotations

from dataclasses import replace

from sealvm.authority import audit, epochs
from sealvm.authority.ports import BUNDLE_KEY, Context, Transaction
from sealvm.authority.records import BundleRecord, EpochRecord
from sealvm.crypto import canonical
from sealvm.errors import ConflictError, NotFoundError
from sealvm.statements.approval import Approval
from sealvm.statements.bundle import (
    BUNDLE_BYTES_LIMIT,
    BundleEpoch,
    BundleProfile,
    BundleProvisioner,
    TrustBundle,
    bundle_to_json,
    sign_bundle,
    verify_bundle,
)
from sealvm.statements.rule import Delegation

EPOCH_BYTES = 2048
"""What an epoch has in a bundle besides its approvals, about."""
RESERVE_BYTES = BUNDLE_BYTES_LIMIT // 2
"""Without events a bundle is at most so large after a change that may be refused: a withdrawal at most doubles it."""


def publish(ctx: Context, tx: Transaction, actor: str, *, urgent: bool = False) -> BundleRecord:
    """Sign and store the next version, from what `tx` (a write transaction) now holds.

    ConflictError when it is too large, so that nothing of the change is stored. `urgent`: the change takes trust away,
    or none is made; rather than refuse, the events of approved states are left out.
    """
    bundle = _fitting(_made(ctx, tx), urgent=urgent)
    now = bundle.issued
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
        return publish(ctx, tx, "authority", urgent=True).envelope


def size(tx: Transaction) -> int:
    """The bytes of profiles and approvals in the bundle that `tx` would publish: nearly all of it."""
    return sum(
        len(profile.document.encode())
        + sum(len(canonical.dumps(approval.to_json())) for epoch in profile.epochs for approval in epoch.approvals)
        + EPOCH_BYTES * len(profile.epochs)
        for profile in _profiles(tx)
    )


def _made(ctx: Context, tx: Transaction) -> TrustBundle:
    last = tx.bundle()
    now = ctx.now()
    return TrustBundle(
        version=last.version + 1 if last else 1,
        issued=now,
        expires=now + ctx.settings.bundle_lifetime,
        profiles=_profiles(tx),
        provisioners=tuple(
            BundleProvisioner(name=record.name, point=record.point, profiles=record.profiles)
            for record in tx.provisioners()
        ),
    )


def _fitting(bundle: TrustBundle, *, urgent: bool) -> TrustBundle:
    full = _bytes(bundle)
    if full <= RESERVE_BYTES or (urgent and full <= BUNDLE_BYTES_LIMIT):
        return bundle
    lean = replace(bundle, profiles=tuple(_without_events(profile) for profile in bundle.profiles))
    least = _bytes(lean)
    if urgent and least <= BUNDLE_BYTES_LIMIT:
        return lean
    if not urgent and full <= BUNDLE_BYTES_LIMIT and least <= RESERVE_BYTES:
        return bundle
    found, limit = (full, BUNDLE_BYTES_LIMIT) if full > BUNDLE_BYTES_LIMIT else (least, RESERVE_BYTES)
    raise ConflictError(
        f"the trust bundle would have {found} bytes{'' if found == full else ' without events'}, at most {limit} fit: "
        "nothing is changed",
        hint="retire epochs that are not needed any more: sealvm profile retire NAME --epoch N",
        found=found,
        limit=limit,
    )


def _bytes(bundle: TrustBundle) -> int:
    return len(canonical.dumps(bundle_to_json(bundle)))


def _without_events(profile: BundleProfile) -> BundleProfile:
    return replace(profile, epochs=tuple(_lean_epoch(epoch) for epoch in profile.epochs))


def _lean_epoch(epoch: BundleEpoch) -> BundleEpoch:
    selected = {str(pcr) for pcr in epoch.selection}
    return replace(epoch, approvals=tuple(_lean(approval, selected) for approval in epoch.approvals))


def _lean(approval: Approval, selected: set[str]) -> Approval:
    values = {pcr: value for pcr, value in approval.reference.get("pcrs", {}).items() if pcr in selected}
    return replace(approval, reference={"pcrs": values, "events": []})


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
