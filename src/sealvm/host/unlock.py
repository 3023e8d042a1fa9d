"""Unwrapping a package key on this host: the trust bundle, the keyring and the TPM behind package.recipients' opener.

Works without the authority: the bundle on disk was fresh when it was received, and losing the authority must not stop
launches (G6). Rollback below the highest version seen is refused. The TPM is opened for one ECDH step at a time. A
leased key is used with the stored lease; only where that is over may the caller let the authority be asked, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sealvm.errors import Fault, InputError, NoRecipientRefused, Refusal, StateRefused
from sealvm.host.config import HostConfig
from sealvm.host.keyring import Keyring, StoredLease
from sealvm.package.open import VerifiedPackage
from sealvm.package.recipients import MAX_ATTEMPTS
from sealvm.secret import Secret
from sealvm.statements.bundle import BundleEpoch, TrustBundle, verify_stored_bundle
from sealvm.statements.times import format_time
from sealvm.tpm import profile_key

Renewal = Callable[[HostConfig, str, int, str], StoredLease]
"""`host.lease.renew`, handed in by those who may use the network."""


def stored_bundle(keyring: Keyring) -> TrustBundle:
    """The trust bundle this host last received, verified against its anchor; perhaps expired, never rolled back.

    Raises NotFoundError before enrollment, RollbackRefused, SignatureRefused, UntrustedRefused, IntegrityRefused or
    MalformedError when the files were tampered with. The caller says so when `bundle_expired`.
    """
    anchor = keyring.anchor()
    return verify_stored_bundle(keyring.bundle(), anchor.point, anchor.version)


def bundle_expired(bundle: TrustBundle, now: datetime) -> bool:
    """Whether the bundle is past its date: launches go on, but the operator should sync."""
    return now >= bundle.expires


def accepted_provisioners(bundle: TrustBundle) -> dict[bytes, frozenset[str]]:
    """Point of every provisioner in the bundle to the profiles it may provision for, as `open_package` takes it."""
    accepted: dict[bytes, frozenset[str]] = {}
    for provisioner in bundle.provisioners:
        profiles = frozenset(provisioner.profiles)
        accepted[provisioner.point] = accepted.get(provisioner.point, frozenset()) | profiles
    return accepted


class KeyOpener:
    """This host's profile keys as a `ProfileKeyOpener`: held are those in the keyring that the bundle lists.

    Each `ecdh` is one opening of the TPM and, when PCRs hold still, one TPM2_ECDH_ZGen; at most 8 over its lifetime.
    With `renewal`, a lease that is missing or over is renewed, at most once for each key.
    """

    def __init__(
        self, config: HostConfig, keyring: Keyring, bundle: TrustBundle, renewal: Renewal | None = None
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._renewal = renewal
        self._renewed: set[tuple[str, int, str]] = set()
        self.bundle = bundle
        self.uses = 0
        """TPM2_ECDH_ZGen commands sent so far."""
        self.tpm_seconds = 0.0
        """Time spent with the TPM, waiting for a turn at it included."""

    def holds(self, profile: str, epoch: int, cell: str) -> bool:
        """Whether the keyring has this key and the bundle lists the very same one."""
        listed = self.bundle.epoch_of(profile, epoch, cell)
        if listed is None or not self._keyring.holds(profile, epoch, cell):
            return False
        return self._keyring.key(profile, epoch, cell).public == listed.public

    def point(self, profile: str, epoch: int, cell: str) -> bytes:
        """The key's public point as the bundle has it, 65 bytes. NoRecipientRefused when it is not listed."""
        return self._listed(profile, epoch, cell).point

    def ecdh(self, profile: str, epoch: int, cell: str, point: bytes) -> bytes:
        """X coordinate of the shared point, 32 bytes. StateRefused, naming the profile, in a state not approved, and
        for a leased key without a lease: then it says when the lease ended, and why it could not be renewed."""
        if self.uses >= MAX_ATTEMPTS:
            raise StateRefused(
                f"profile '{profile}' epoch {epoch}: {MAX_ATTEMPTS} keys were tried for this package already",
                profile=profile,
                epoch=epoch,
                cell=cell,
            )
        lease = self._keyring.lease(profile, epoch, cell)
        try:
            return self._use(profile, epoch, cell, point, lease)
        except StateRefused as refusal:
            if "lease" not in refusal.fields:
                raise
            return self._use(profile, epoch, cell, point, self._renew((profile, epoch, cell), lease, refusal))

    def _use(self, profile: str, epoch: int, cell: str, point: bytes, lease: StoredLease | None) -> bytes:
        listed, identity = self._listed(profile, epoch, cell), self._keyring.identity()
        key = self._keyring.key(profile, epoch, cell)
        started = time.monotonic()
        try:
            with self._config.open_tpm() as tpm:
                try:
                    return profile_key.ecdh(
                        tpm,
                        identity.blobs,
                        identity.srk_name,
                        key,
                        listed.approvals,
                        point=point,
                        delegations=listed.delegations,
                        lease=None if lease is None else lease.held,
                    )
                finally:
                    self.uses += tpm.counts["ecdh_zgen"]
        finally:
            self.tpm_seconds += time.monotonic() - started

    def _renew(self, key: tuple[str, int, str], lease: StoredLease | None, refusal: StateRefused) -> StoredLease:
        """A new lease, or `refusal` with the time at which the old one ended and what kept it from being renewed."""
        ended = "there is no lease" if lease is None else f"the lease until {format_time(lease.ends)} is over or void"
        problem = "the authority was not asked"
        if self._renewal is not None and key not in self._renewed:
            self._renewed.add(key)
            try:
                return self._renewal(self._config, *key)
            except (Refusal, Fault, InputError) as error:
                problem = f"renewing it failed: {error.message}"
        raise StateRefused(
            f"the key of profile '{key[0]}' epoch {key[1]} cannot be used: {ended}, and {problem}",
            hint=refusal.hint,
            **refusal.fields,
        ) from refusal

    def _listed(self, profile: str, epoch: int, cell: str) -> BundleEpoch:
        listed = self.bundle.epoch_of(profile, epoch, cell)
        if listed is None:
            raise NoRecipientRefused(
                f"profile '{profile}' epoch {epoch}: not in this host's trust bundle",
                hint="fetch the present bundle with: sealvm host sync",
            )
        return listed


@dataclass(frozen=True, slots=True)
class Unlocked:
    """A package key, and what it cost: seconds with the TPM and TPM2_ECDH_ZGen commands."""

    key: Secret
    tpm_seconds: float
    uses: int


def open_keys(config: HostConfig, renewal: Renewal | None = None) -> KeyOpener:
    """The opener of this host's keys, for packages and for overlay wraps. Raises as `stored_bundle`."""
    keyring = Keyring(config.directory)
    return KeyOpener(config, keyring, stored_bundle(keyring), renewal)


def unlock(config: HostConfig, package: VerifiedPackage) -> Unlocked:
    """K of a verified package, checked against the header's commitment, if this host's state satisfies the package.

    1. The trust bundle is verified against the anchor and its version against the highest seen.
    2. For wraps to keys this host holds, at most 8, the TPM does one ECDH step each; the first that fits ends it.
    3. The commitment is checked before K is returned.

    Raises NoRecipientRefused when the host holds none of the keys; StateRefused, naming the profile, when the TPM
    refused; IntegrityRefused when a wrap or the commitment does not fit; TpmFault or TpmAwayFault when the TPM failed.
    """
    opener = open_keys(config)  # 1
    key = package.unwrap(opener)  # 2, 3
    return Unlocked(key, opener.tpm_seconds, opener.uses)
