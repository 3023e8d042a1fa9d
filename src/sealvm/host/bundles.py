"""The trust bundle on a host: taken from the authority or from a stick, never older than what was seen, whatever the
clock says.

A host remembers the highest version, its time of issue, and the newest time of which the authority said that it is over
(anchor.json). So an old bundle is refused also with the clock set back, and a clock behind that time is noticed: then a
synchronisation is refused, and a launch says so and goes on, since losing the authority must not stop it (G6).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from sealvm.errors import RollbackRefused
from sealvm.host.keyring import Anchor, Keyring
from sealvm.host.unlock import bundle_expired
from sealvm.statements.bundle import CLOCK_SKEW, BundleProfile, TrustBundle, verify_bundle, verify_stored_bundle
from sealvm.statements.times import format_time


def refuse_clock_set_back(anchor: Anchor, now: datetime) -> None:
    """RollbackRefused when `now`, by this host's clock, lies before a time that has passed for sure."""
    if anchor.passed is not None and now < anchor.passed - CLOCK_SKEW:
        raise RollbackRefused(
            f"this host's clock says {format_time(now)}, but {format_time(anchor.passed)} has passed already: "
            "it was set back",
            hint="set the clock, then synchronise",
        )


def no_earlier_than(anchor: Anchor, now: datetime) -> datetime:
    """The time for all checks of age: the clock's, or the newest that has passed for sure."""
    return now if anchor.passed is None else max(now, anchor.passed)


def warnings(anchor: Anchor, bundle: TrustBundle, now: datetime) -> tuple[str, ...]:
    """What an operator must hear about a bundle that is used all the same; none when it is fresh."""
    found = []
    if bundle_expired(bundle, no_earlier_than(anchor, now)):
        found.append(
            f"trust bundle {bundle.version} expired at {format_time(bundle.expires)}: approvals and provisioners may "
            "have changed since; run `sealvm host sync`, or carry a newer bundle here"
        )
    if anchor.passed is not None and now < anchor.passed - CLOCK_SKEW:
        found.append(
            f"this host's clock says {format_time(now)}, but {format_time(anchor.passed)} has passed already: set it"
        )
    return tuple(found)


def present_warnings(keyring: Keyring, bundle: TrustBundle) -> tuple[str, ...]:
    """`warnings` by this host's clock, now."""
    return warnings(keyring.anchor(), bundle, datetime.now(UTC))


def verify_offered(anchor: Anchor, envelope: bytes, now: datetime) -> TrustBundle:
    """A bundle that somebody offers, if it is newer than or the same as what was seen. Raises as `verify_bundle`."""
    refuse_clock_set_back(anchor, now)
    return verify_bundle(envelope, anchor.point, no_earlier_than(anchor, now), anchor.version, anchor.issued)


def store_bundle(keyring: Keyring, bundle: TrustBundle, envelope: bytes, passed: datetime | None) -> None:
    """Store a verified bundle, then what is remembered of it; safe to be killed in between and done again.

    The bundle it replaces is kept while this host has keys that only that one lists: disks may still be wrapped to
    them (`host.disks`).
    """
    anchor = keyring.anchor()
    if keyring.kept_bundle() is None and _orphans(keyring, bundle):
        keyring.keep_bundle(keyring.bundle())
    keyring.save_bundle(envelope)
    times = [time for time in (anchor.passed, bundle.issued, passed) if time is not None]
    keyring.save_anchor(Anchor(anchor.point, bundle.version, bundle.issued, max(times)))


def disk_bundle(keyring: Keyring, bundle: TrustBundle) -> TrustBundle:
    """`bundle` with the epochs that only the kept one lists: for opening disks that were not re-wrapped yet."""
    envelope = keyring.kept_bundle()
    if envelope is None:
        return bundle
    kept = verify_stored_bundle(envelope, keyring.anchor().point, 0)
    merged = {profile.name: profile for profile in bundle.profiles}
    for old in kept.profiles:
        present = merged.get(old.name, replace(old, epochs=()))
        known = {(epoch.epoch, epoch.cell) for epoch in present.epochs}
        more = tuple(replace(e, wraps=False) for e in old.epochs if (e.epoch, e.cell) not in known)
        merged[old.name] = BundleProfile(present.name, present.document, (*present.epochs, *more))
    return replace(bundle, profiles=tuple(merged.values()))


def _orphans(keyring: Keyring, bundle: TrustBundle) -> bool:
    held = keyring.keys()
    return any(bundle.epoch_of(key.profile, key.epoch, key.cell) is None for key in held)
