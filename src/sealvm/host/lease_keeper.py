"""Keeps this host's leases: renews each when half of its term is over, and sees to running VMs when one ends.

`sealvm host lease run` does nothing else. One step does what is due now and says when the next one is; whatever fails
is told and tried again, sooner the nearer the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sealvm.errors import Fault, InputError, Refusal
from sealvm.host import lease
from sealvm.host.config import HostConfig
from sealvm.host.hypervisor.base import Hypervisor
from sealvm.host.keyring import Keyring
from sealvm.host.lease_end import enforce, standing_of
from sealvm.host.leases import LeaseState, LeaseStatus, lease_statuses
from sealvm.host.unlock import stored_bundle
from sealvm.statements.times import format_time

LONGEST_WAIT = timedelta(seconds=60)
SHORTEST_WAIT = timedelta(seconds=0.2)
RETRY_SHORTEST = timedelta(seconds=1)
RETRY_PART = 8

Key = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that was done or failed: `what` is renewed, failed, ended, paused, resumed or stopped."""

    time: datetime
    what: str
    subject: str
    says: str


@dataclass(slots=True)
class LeaseKeeper:
    """The state between steps: when to try again, and which ends were told. A new keeper needs none of it."""

    config: HostConfig
    hypervisor: Hypervisor
    tell: Callable[[Happening], None]
    clock: Callable[[], datetime]
    _retry_at: dict[Key, datetime] = field(default_factory=dict)
    _ended: set[Key] = field(default_factory=set)

    def step(self) -> timedelta:
        """Renew what is due, see to the VMs, and return how long nothing will be due.

        Raises NotFoundError before enrollment, and what `stored_bundle` raises when the host's files were tampered
        with; a TPM, authority or hypervisor that fails is told, and tried again.
        """
        now = self.clock()
        keyring = Keyring(self.config.directory)
        bundle = stored_bundle(keyring)
        try:
            for status in lease_statuses(self.config, now):
                if status.due(now) and self._retry_at.get(_key(status), now) <= now:
                    self._renew(status, now)
            now = self.clock()
            statuses = lease_statuses(self.config, now)
            self._tell_ends(statuses, now)
            standing = standing_of(keyring, bundle, statuses)
            if not enforce(self.config, standing, self.hypervisor, lambda *told: self.tell(Happening(now, *told))):
                return SHORTEST_WAIT
        except Fault as fault:
            self.tell(Happening(now, "failed", "host", fault.message))
            return RETRY_SHORTEST
        return self._wait(statuses, now)

    def _renew(self, status: LeaseStatus, now: datetime) -> None:
        key = _key(status)
        try:
            stored = lease.renew(self.config, *key)
        except (Refusal, Fault, InputError) as error:
            self._retry_at[key] = now + _pause_before_retry(status, now)
            self.tell(Happening(now, "failed", status.key.profile, f"{status.key.what}: {error.message}"))
            return
        self._retry_at.pop(key, None)
        self._ended.discard(key)
        says = f"{status.key.what}: lease until {format_time(stored.ends)}"
        self.tell(Happening(now, "renewed", status.key.profile, says))

    def _tell_ends(self, statuses: list[LeaseStatus], now: datetime) -> None:
        for status in statuses:
            if status.state not in (LeaseState.GOOD, LeaseState.NONE) and _key(status) not in self._ended:
                self._ended.add(_key(status))
                self.tell(Happening(now, "ended", status.key.profile, f"{status.key.what}: {status.line()}"))

    def _wait(self, statuses: list[LeaseStatus], now: datetime) -> timedelta:
        moments = [now + LONGEST_WAIT]
        for status in statuses:
            moments.append(self._retry_at.get(_key(status)) or status.renew_at or now)
            if status.lease is not None and status.state is LeaseState.GOOD:
                moments.append(status.lease.ends)
        return max(min(moments) - now, SHORTEST_WAIT)


def _pause_before_retry(status: LeaseStatus, now: datetime) -> timedelta:
    """An eighth of what is left of the lease, or of its term when it is over: from one second to a minute."""
    if status.lease is None:
        return LONGEST_WAIT / 6
    left = status.lease.ends - now
    whole = left if status.state is LeaseState.GOOD else status.lease.ends - status.lease.began
    return min(max(whole / RETRY_PART, RETRY_SHORTEST), LONGEST_WAIT)


def _key(status: LeaseStatus) -> Key:
    return status.key.profile, status.key.epoch, status.key.cell
