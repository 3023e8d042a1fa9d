"""To which keys a package is wrapped: all epochs and cells that the trust bundle lists for its profiles."""

from __future__ import annotations

from collections.abc import Iterable

from sealvm.errors import NotFoundError
from sealvm.package.recipients import ProfileKeyRef
from sealvm.statements.bundle import TrustBundle


def profile_key_refs(bundle: TrustBundle, profiles: Iterable[str]) -> list[ProfileKeyRef]:
    """The public profile keys of `profiles` in a verified bundle. NotFoundError for a profile it does not list."""
    listed = {profile.name: profile for profile in bundle.profiles}
    refs: list[ProfileKeyRef] = []
    for name in dict.fromkeys(profiles):
        if name not in listed:
            known = ", ".join(sorted(listed)) or "none"
            raise NotFoundError(f"profile {name!r} does not exist", hint=f"the authority's profiles: {known}")
        refs += [ProfileKeyRef(name, epoch.epoch, epoch.cell, epoch.point) for epoch in listed[name].epochs]
    return refs
