"""The authority's answer to enrollment and synchronisation, and what a host checks before it believes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sealvm.errors import IntegrityRefused
from sealvm.protocol.messages import SealedKey, SyncAnswer
from sealvm.statements.bundle import TrustBundle, expected_public, verify_bundle


@dataclass(frozen=True, slots=True)
class AcceptedAnswer:
    """Keys and bundle that belong together and come from the pinned authority; ready to be imported and stored."""

    host: str
    host_id: str
    trust_class: str
    events: int
    keys: tuple[SealedKey, ...]
    bundle: TrustBundle
    envelope: bytes


def accept_answer(
    answer: SyncAnswer, anchor_point: bytes, now: datetime, floor_version: int, floor_issued: datetime | None = None
) -> AcceptedAnswer:
    """The answer, after these checks:

    1. the trust bundle verifies under the pinned anchor, is fresh and not older than the newest seen;
    2. every key is one that the bundle lists, with the same public area, mode and approver;
    3. that public area is exactly the one computed from approver, profile, epoch, cell and mode, so nothing but that
       approver's approvals, and then nothing but ECDH, can use it;
    4. no key comes twice.

    Raises what `verify_bundle` raises, and IntegrityRefused for 2 to 4. That the duplicate holds the private half of
    that public area, the TPM checks at import.
    """
    bundle = verify_bundle(answer.bundle, anchor_point, now, floor_version, floor_issued)  # 1
    seen: set[tuple[str, int, str]] = set()
    for key in answer.keys:
        what = f"answer of the authority: key of profile {key.profile} epoch {key.epoch} cell {key.cell!r}"
        listed = bundle.epoch_of(key.profile, key.epoch, key.cell)
        if listed is None:  # 2
            raise IntegrityRefused(f"{what} is not in the trust bundle")
        if (listed.public, listed.mode, listed.approver_point) != (key.public, key.mode, key.approver_point):
            raise IntegrityRefused(f"{what} is not the one in the trust bundle")
        wanted = expected_public(
            key.profile, key.epoch, key.cell, key.mode, point=listed.point, approver_point=key.approver_point
        )
        if key.public != wanted:  # 3
            raise IntegrityRefused(f"{what} has another policy than its approver and profile give")
        if (key.profile, key.epoch, key.cell) in seen:  # 4
            raise IntegrityRefused(f"{what} comes twice")
        seen.add((key.profile, key.epoch, key.cell))
    return AcceptedAnswer(
        host=answer.host,
        host_id=answer.host_id,
        trust_class=answer.trust_class,
        events=answer.events,
        keys=answer.keys,
        bundle=bundle,
        envelope=answer.bundle,
    )
