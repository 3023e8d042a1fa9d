"""What becomes of VMs that run when leases end: their profiles' `on_lease_end`, `keep`, `pause` or `stop`.

A lease ends the use of a key in the TPM; a running VM has its keys in memory already. What is done here is done by this
host's software, so it binds hosts that cooperate; docs/spec/lease-v1.md says what binds the others.

An instance is affected while none of the ways to open its package is usable: a way is usable through profiles whose key
this host holds with standing approvals, or with a lease that runs. Of several profiles whose leases ended, the
strictest wish counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sealvm.attest.profile import load_profile
from sealvm.errors import ConflictError, NotFoundError
from sealvm.host.config import HostConfig
from sealvm.host.halt_vm import machine_of
from sealvm.host.hypervisor.base import Hypervisor, RunState
from sealvm.host.instance_record import InstanceFolder, folder_of, locked
from sealvm.host.instances import list_instances, stop_instance
from sealvm.host.keyring import Keyring
from sealvm.host.leases import LeaseState, LeaseStatus
from sealvm.package.expression import AllOf, AnyOf, Expression, leaves_of
from sealvm.package.recipients import stated_expression
from sealvm.statements.bundle import TrustBundle
from sealvm.store.atomic import write_atomic

STRICTNESS = ("keep", "pause", "stop")
_MARK = "paused-by-lease"


@dataclass(frozen=True, slots=True)
class Standing:
    """Which profiles this host can use now, and what those whose leases ended wish for running VMs."""

    usable: frozenset[str]
    ended: Mapping[str, str]

    def satisfies(self, expression: Expression) -> bool:
        """Whether one of the ways to open the package is usable."""
        if isinstance(expression, AllOf):
            return all(self.satisfies(child) for child in expression.children)
        if isinstance(expression, AnyOf):
            return any(self.satisfies(child) for child in expression.children)
        return expression.profile in self.usable

    def wish(self, expression: Expression) -> str:
        """`keep`, or the strictest wish of the profiles whose leases ended."""
        wishes = {self.ended[profile] for profile in leaves_of(expression) if profile in self.ended}
        return max(wishes, key=STRICTNESS.index, default="keep")


def standing_of(keyring: Keyring, bundle: TrustBundle, statuses: Collection[LeaseStatus]) -> Standing:
    """From the keys this host holds, the profiles as the trust bundle has them, and how the leases stand."""
    leased = {(s.key.profile, s.key.epoch, s.key.cell): s.state for s in statuses}
    usable, ended = set(), {}
    for profile in bundle.profiles:
        held = [(profile.name, e.epoch, e.cell) for e in profile.epochs if keyring.holds(profile.name, e.epoch, e.cell)]
        if any(leased.get(key, LeaseState.GOOD) is LeaseState.GOOD for key in held):
            usable.add(profile.name)
        elif held:
            ended[profile.name] = load_profile(profile.document, profile.name).on_lease_end
    return Standing(frozenset(usable), ended)


def enforce(
    config: HostConfig, standing: Standing, hypervisor: Hypervisor, tell: Callable[[str, str, str], None]
) -> bool:
    """Pause or stop the running instances whose leases ended, and resume those paused here whose leases run again.

    True when all is done. Stopping waits for the guest, so it is one instance at a time: then False, to be called again
    after what else is due. `tell` gets action, instance and a sentence. Raises HypervisorFault, StorageFault,
    MalformedError. An instance on which another command works is left for the next time.
    """
    for instance in list_instances(config.directory, hypervisor):
        folder = folder_of(config.directory, instance.record.id)
        try:
            expression = stated_expression(folder.read_wrap())
            if _enforce_one(config, folder, instance.state, standing, (hypervisor, expression, tell)):
                return False
        except (ConflictError, NotFoundError):
            continue
    return True


def _enforce_one(
    config: HostConfig,
    folder: InstanceFolder,
    state: RunState,
    standing: Standing,
    means: tuple[Hypervisor, Expression, Callable[[str, str, str], None]],
) -> bool:
    """Do what one instance needs; True when it was stopped."""
    hypervisor, expression, tell = means
    name, mark = folder.path.name, folder.path / _MARK
    profiles = ", ".join(sorted(set(leaves_of(expression))))
    if standing.satisfies(expression):
        if mark.exists():
            if state is RunState.PAUSED:
                _told(folder, hypervisor.resume)
                tell("resumed", name, f"{name} runs on: its lease was renewed")
            mark.unlink(missing_ok=True)
        return False
    wish = standing.wish(expression)
    if wish == "pause" and state is RunState.RUNNING:
        write_atomic(mark, b"", 0o600)
        _told(folder, hypervisor.pause)
        tell("paused", name, f"{name} is paused: no lease of {profiles} runs any more")
    elif wish == "stop" and state not in (RunState.STOPPED, RunState.STARTING):
        stop_instance(config.directory, name, hypervisor)
        mark.unlink(missing_ok=True)
        tell("stopped", name, f"{name} is stopped: no lease of {profiles} runs any more")
        return True
    return False


def _told(folder: InstanceFolder, order: Callable[..., None]) -> None:
    with locked(folder):
        machine = machine_of(folder.read())
        if machine is not None:
            order(machine)
