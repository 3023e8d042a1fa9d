"""How this host's leases stand: from its files and its TPM's counters of resets alone, without network.

For people and for the renewal's timing, and proves nothing: the TPM decides when the key is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sealvm.host.config import HostConfig
from sealvm.host.keyring import Keyring, StoredLease
from sealvm.statements.times import format_time
from sealvm.tcg.policy import MODE_LEASED
from sealvm.tpm import leases
from sealvm.tpm.profile_key import SealedKey


class LeaseState(StrEnum):
    """How a lease stands."""

    NONE = "none"
    GOOD = "good"
    ENDED = "ended"
    RESET = "ended when the TPM lost power"


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """The lease of one leased profile key. `lease` is None where there never was one."""

    key: SealedKey
    state: LeaseState
    lease: StoredLease | None

    @property
    def renew_at(self) -> datetime | None:
        """When half of the term is over, which is when it is renewed; None for: now."""
        if self.lease is None or self.state is not LeaseState.GOOD:
            return None
        return self.lease.began + (self.lease.ends - self.lease.began) / 2

    def due(self, now: datetime) -> bool:
        """Whether it is to be renewed."""
        return self.renew_at is None or now >= self.renew_at

    def line(self) -> str:
        """For people."""
        if self.lease is None:
            return "no lease"
        ends = format_time(self.lease.ends)
        if self.state is LeaseState.GOOD:
            return f"lease until {ends}"
        if self.state is LeaseState.RESET:
            return "lease ended when the TPM lost power: a reboot or suspend"
        return f"lease ended at {ends}"

    def to_json(self) -> dict[str, Any]:
        """Stable JSON."""
        lease = self.lease
        return {
            "profile": self.key.profile,
            "epoch": self.key.epoch,
            "cell": self.key.cell,
            "state": self.state.name.lower(),
            "seconds": lease.held.signed.seconds if lease else None,
            "began": format_time(lease.began) if lease else None,
            "ends": format_time(lease.ends) if lease else None,
        }


def lease_statuses(config: HostConfig, now: datetime) -> list[LeaseStatus]:
    """The leases of all leased profile keys that this host holds, by profile, epoch and cell.

    Opens the TPM only when there are some. TpmAwayFault, TpmFault, MalformedError.
    """
    keyring = Keyring(config.directory)
    held = keyring.keys()
    keys = [key for key in held if key.mode == MODE_LEASED]
    if not keys:
        return []
    with config.open_tpm() as tpm:
        counts = leases.power_counts(tpm)
    return [_status(key, keyring.lease(key.profile, key.epoch, key.cell), counts, now) for key in keys]


def _status(key: SealedKey, lease: StoredLease | None, counts: tuple[int, int], now: datetime) -> LeaseStatus:
    if lease is None:
        return LeaseStatus(key, LeaseState.NONE, None)
    if (lease.held.signed.reset_count, lease.held.restart_count) != counts:
        return LeaseStatus(key, LeaseState.RESET, lease)
    return LeaseStatus(key, LeaseState.GOOD if now < lease.ends else LeaseState.ENDED, lease)
