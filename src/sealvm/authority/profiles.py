"""Profiles: applying a document, which makes the profile's key the first time; listing and showing."""

from __future__ import annotations

from typing import Literal

from sealvm.attest.profile import Profile, load_profile
from sealvm.authority import audit, bundle
from sealvm.authority.epochs import make_epoch
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import ProfileRecord
from sealvm.errors import ConflictError, MalformedError, NotFoundError
from sealvm.protocol.enroll import NEVER_SELECTED
from sealvm.protocol.operator import ApplyRequest, EpochView, ProfileView
from sealvm.tcg.policy import MODE_LEASED, MODE_STANDING

Outcome = Literal["created", "replaced", "unchanged", "shown"]


def apply_profile(ctx: Context, actor: str, request: ApplyRequest) -> ProfileView:
    """Make the document's profile true.

    A new name gets epoch 1: a fresh P-256 key in custody, usable only in states that the approver approves for exactly
    this profile and epoch. A known name gets the new document, if its PCRs and trust classes stay: those are what its
    key was sealed under, and changing them needs a rotation (ConflictError). States approved under the old document
    stay approved. MalformedError with the line of a mistake. The bundle is published in the same transaction.
    """
    profile = load_profile(request.document, "profile")
    _check_quotable(profile)
    record = ProfileRecord(profile.name, request.document, tuple(profile.pcrs), tuple(profile.trust), ctx.now())
    with ctx.store.write() as tx:
        known = tx.profile(profile.name)
        if known is not None and known.document == record.document:
            return _view(tx, known, "unchanged")
        outcome: Outcome = "created" if known is None else "replaced"
        if known is None:
            tx.put_profile(record)
            make_epoch(ctx, tx, profile, 1, "")
        else:
            _check_same_terms(known, record)
            tx.put_profile(record)
        details = {"outcome": outcome, "pcrs": list(record.pcrs), "trust": list(record.trust)}
        audit.record(ctx, tx, actor, audit.Action.PROFILE_APPLIED, profile.name, **details)
        bundle.publish(ctx, tx, actor)
        return _view(tx, record, outcome)


def list_profiles(ctx: Context) -> list[ProfileView]:
    """All profiles, by name."""
    with ctx.store.read() as tx:
        return [_view(tx, record, "shown") for record in tx.profiles()]


def show_profile(ctx: Context, name: str) -> ProfileView:
    """One profile; NotFoundError."""
    with ctx.store.read() as tx:
        return _view(tx, required_profile(tx, name), "shown")


def required_profile(tx: Transaction, name: str) -> ProfileRecord:
    """The profile `name`; NotFoundError."""
    record = tx.profile(name)
    if record is None:
        raise NotFoundError(f"profile {name[:64]!r} does not exist", hint="`sealvm profile list` shows those that do")
    return record


def _check_quotable(profile: Profile) -> None:
    unquoted = sorted(set(profile.pcrs) & NEVER_SELECTED)
    if unquoted:
        raise MalformedError(
            f"profile {profile.name} selects PCR {unquoted[0]}, of which no approved state can consist",
            hint="PCR 10 (IMA) changes while a host runs; with `lease`, ima.files is judged at each renewal without it",
        )


def _check_same_terms(known: ProfileRecord, new: ProfileRecord) -> None:
    terms: tuple[tuple[str, tuple[object, ...], tuple[object, ...]], ...] = (
        ("pcrs", known.pcrs, new.pcrs),
        ("trust", known.trust, new.trust),
        ("approvals", (_mode(known),), (_mode(new),)),
    )
    for what, before, after in terms:
        if set(before) != set(after):
            raise ConflictError(
                f"profile {known.name} has {what} {_listed(before)}, the document says {_listed(after)}: "
                "the key is sealed under the former, so this needs a rotation",
                hint="apply the document under another name, and wrap new packages to that profile",
            )


def _mode(record: ProfileRecord) -> str:
    leased = load_profile(record.document, record.name).lease_seconds is not None
    return MODE_LEASED if leased else MODE_STANDING


def _view(tx: Transaction, record: ProfileRecord, outcome: Outcome) -> ProfileView:
    approvals = tx.approvals(record.name)
    epochs = tuple(
        EpochView(
            epoch=epoch.epoch,
            cell=epoch.cell,
            mode=epoch.mode,
            point=epoch.point,
            digests=tuple(approval.pcr_digest for approval in approvals if approval.key == epoch.key),
            wraps=epoch.wraps,
            retired=epoch.retired,
            created=epoch.created,
            approvals=tuple(
                str(approval.body.get("label", ""))
                for approval in approvals
                if (approval.epoch, approval.cell) == (epoch.epoch, epoch.cell)
            ),
        )
        for epoch in tx.epochs(record.name)
    )
    return ProfileView(
        name=record.name,
        description=load_profile(record.document, record.name).description,
        pcrs=record.pcrs,
        trust=record.trust,
        document=record.document,
        epochs=epochs,
        outcome=outcome,
    )


def _listed(values: tuple[object, ...]) -> str:
    return " ".join(str(value) for value in values)
