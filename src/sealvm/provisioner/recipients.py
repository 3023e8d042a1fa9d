"""To which keys a package is wrapped: all epochs and cells of its profiles that the trust bundle keeps open for wraps.

An epoch that lost a state by a withdrawal is closed: on hosts in that state it opens what was wrapped to it before, and
must open nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable

from sealvm.errors import NotFoundError
from sealvm.package.recipients import ProfileKeyRef
from sealvm.statements.bundle import TrustBundle


def profile_key_refs(bundle: TrustBundle, profiles: Iterable[str]) -> list[ProfileKeyRef]:
    """The public profile keys of `profiles` in a verified bundle.

    NotFoundError for a profile that it does not list, or of which it keeps no epoch open.
    """
    listed = {profile.name: profile for profile in bundle.profiles}
    refs: list[ProfileKeyRef] = []
    for name in dict.fromkeys(profiles):
        if name not in listed:
            known = ", ".join(sorted(listed)) or "none"
            raise NotFoundError(f"profile {name!r} does not exist", hint=f"the authority's profiles: {known}")
        open_epochs = [epoch for epoch in listed[name].epochs if epoch.wraps]
        if not open_epochs:
            raise NotFoundError(
                f"profile {name!r} has no epoch for new packages: a state was withdrawn from every one",
                hint=f"make another: sealvm profile rotate {name}",
            )
        refs += [ProfileKeyRef(name, epoch.epoch, epoch.cell, epoch.point) for epoch in open_epochs]
    return refs
