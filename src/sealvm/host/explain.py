"""Why this host can, or cannot, use each of its profile keys now. Needs its TPM, its boot log and its trust bundle; no
network.

For people, and proves nothing to others: the TPM decides by the approvals. The same text serves `host explain` and
whoever sees a launch refused.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sealvm.attest.explain import Explanation, explain, render
from sealvm.attest.profile import Profile, load_profile
from sealvm.attest.state import MeasuredState, local_state
from sealvm.crypto import canonical
from sealvm.errors import MalformedError, NotFoundError, SealvmError
from sealvm.host.config import HostConfig
from sealvm.host.files import read_limited
from sealvm.host.keyring import Keyring
from sealvm.host.leases import LeaseState, LeaseStatus, lease_statuses
from sealvm.host.unlock import stored_bundle
from sealvm.protocol.messages import EVENT_LOG_BYTES_LIMIT, IMA_LOG_BYTES_LIMIT
from sealvm.statements.bundle import TrustBundle
from sealvm.tcg.imalog import IMA_PCR
from sealvm.tcg.policy import MODE_LEASED
from sealvm.tpm import pcr

_LOG = logging.getLogger(__name__)

BOOT_PCRS = (*range(10), *range(11, 15))
"""PCRs that boot code extends; 10 is IMA's and keeps moving."""
PREIMAGES_FILE_LIMIT_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProfileAnswer:
    """One profile on this host: whether its key is here, whether the state is an approved one, and the explanation."""

    profile: str
    holds_key: bool
    explanation: Explanation
    leases: tuple[LeaseStatus, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether a package for this profile would start here now, as far as this host can tell."""
        return self.holds_key and self.explanation.satisfied and self.leased

    @property
    def leased(self) -> bool:
        """Whether a lease runs, or none is needed."""
        return not self.leases or any(status.state is LeaseState.GOOD for status in self.leases)

    def lines(self) -> list[str]:
        """For people."""
        if not self.holds_key:
            return ["this host does not have the profile's key", "to do: sealvm host sync"]
        if not self.explanation.satisfied:
            return render(self.explanation)
        leases = [f"epoch {status.key.epoch}: {status.line()}" for status in self.leases]
        if self.leases:  # the authority judges every requirement at each renewal
            leases += [f'no further lease: {one.name} "{one.says}": {one.detail}' for one in self.explanation.breaks]
        if self.usable:
            return [f"this state is approved for profile '{self.profile}': its key can be used", *leases]
        return [
            f"this state is approved for profile '{self.profile}', but its key needs a lease",
            *leases,
            "to do: sealvm host lease renew, with the authority in reach",
        ]

    def to_json(self) -> dict[str, Any]:
        """Stable JSON."""
        leases = {"leases": [status.to_json() for status in self.leases]} if self.leases else {}
        return {"usable": self.usable, "holds_key": self.holds_key, **leases, **self.explanation.to_json()}


def measured_state(config: HostConfig, *, ima: bool = True) -> MeasuredState:
    """The PCRs as they are now, with the boot log, preimages and, with `ima`, the IMA log that this host has for them.

    PCR 10 is left out where there is no IMA log.
    Raises TpmAwayFault, TpmFault, NotFoundError or MalformedError for a log or preimages that cannot be read.
    """
    shown = ima and config.ima_log is not None and config.ima_log.exists()
    with config.open_tpm() as tpm:
        values = pcr.read(tpm, (*BOOT_PCRS, IMA_PCR) if shown else BOOT_PCRS)
    files = read_ima_log(config) if shown else None  # after PCR 10: it has grown since, and never shrinks
    if files is None:
        values = {index: value for index, value in values.items() if index != IMA_PCR}
    hint = "the kernel shows the boot log only when it booted by UEFI with a TPM"
    log = read_limited(config.eventlog, EVENT_LOG_BYTES_LIMIT, hint=hint)
    return local_state(values, log, read_preimages(config), files or b"")


def read_ima_log(config: HostConfig) -> bytes | None:
    """IMA's log; None where there is none, or a longer one than the authority takes: that only a reboot cures.

    StorageFault for one that cannot be read.
    """
    if config.ima_log is None:
        return None
    try:
        return read_limited(config.ima_log, IMA_LOG_BYTES_LIMIT)
    except NotFoundError:
        return None
    except MalformedError as error:
        _LOG.warning("what IMA measured cannot be proved until the next boot: %s", error.message)
        return None


def read_preimages(config: HostConfig) -> tuple[bytes, ...]:
    """The preimages beside the boot log; none when the host has no such file. MalformedError for another form."""
    if config.preimages is None:
        return ()
    data = read_limited(config.preimages, PREIMAGES_FILE_LIMIT_BYTES, hint="correct its path in host.json")
    listed = canonical.loads(data, str(config.preimages), PREIMAGES_FILE_LIMIT_BYTES)
    expected = f"{config.preimages}: expected a list of base64 strings"
    if not isinstance(listed, list):
        raise MalformedError(expected)
    try:
        return tuple(base64.b64decode(preimage, validate=True) for preimage in listed)
    except (TypeError, ValueError, binascii.Error) as problem:
        raise MalformedError(expected) from problem


def explain_host(config: HostConfig, profiles: Collection[str] | None = None) -> list[ProfileAnswer]:
    """An answer for each profile of the stored trust bundle, or for those of `profiles` that it lists."""
    keyring = Keyring(config.directory)
    bundle = stored_bundle(keyring)
    state = measured_state(config)
    leases = lease_statuses(config, datetime.now(UTC))
    return [_answer(here, state, leases) for here in profiles_here(keyring, bundle, profiles)]


@dataclass(frozen=True, slots=True)
class ProfileHere:
    """A profile of the trust bundle as this host has it: its document, and the references of the states approved for
    the epochs whose keys are here, or for all epochs where none is. `leased`: a key that is here works by lease only.
    """

    document: Profile
    holds_key: bool
    leased: bool
    references: tuple[Mapping[str, Any], ...]


def profiles_here(
    keyring: Keyring, bundle: TrustBundle, profiles: Collection[str] | None = None
) -> Iterator[ProfileHere]:
    """The profiles of `bundle`, or those of `profiles` that it lists. MalformedError for a document that is none."""
    for profile in bundle.profiles:
        if profiles is not None and profile.name not in profiles:
            continue
        held = [epoch for epoch in profile.epochs if keyring.holds(profile.name, epoch.epoch, epoch.cell)]
        yield ProfileHere(
            document=load_profile(profile.document, f"profile {profile.name} in the trust bundle"),
            holds_key=bool(held),
            leased=bool(held) and all(epoch.mode == MODE_LEASED for epoch in held),
            references=tuple(approval.reference for epoch in held or profile.epochs for approval in epoch.approvals),
        )


def _answer(here: ProfileHere, state: MeasuredState, leases: Sequence[LeaseStatus]) -> ProfileAnswer:
    name = here.document.name
    statuses = tuple(status for status in leases if here.leased and status.key.profile == name)
    return ProfileAnswer(name, here.holds_key, explain(here.document, here.references, state), statuses)


def refusal_lines(config: HostConfig, profiles: Sequence[str]) -> list[str]:
    """What `explain_host` says about the profiles a launch was refused for; what kept it from saying so, otherwise.

    Never raises a SealvmError: the refusal that it explains must reach the operator whatever else is wrong.
    """
    try:
        answers = explain_host(config, profiles)
    except SealvmError as error:
        return [f"no explanation can be given: {error.message}"]
    return [line for answer in answers for line in answer.lines()]
