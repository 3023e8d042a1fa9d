"""Hosts for tests: a started swtpm with identity, one profile key sealed into it, and an approver in software."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sealvm.crypto.ec import SoftwareSigner
from sealvm.lab.attacks.view import AttackerView, tempting_approvals
from sealvm.lab.swtpm import LabCa, Swtpm, make_ca, manufacture
from sealvm.statements.approval import Approval, sign_approval
from sealvm.statements.lease import LeaseKey, sign_lease
from sealvm.tcg import policy, templates
from sealvm.tcg.duplicate import DuplicateBlob, duplicate
from sealvm.tcg.public import name_of
from sealvm.tpm import leases, pcr
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.identity import HostIdentityBlobs, provision
from sealvm.tpm.leases import HeldLease
from sealvm.tpm.profile_key import SealedKey, import_key

SELECTION = (0, 2, 4, 7, 9)
PROFILE = "measured-kernel"


@contextmanager
def started_tpm(directory: Path, ca: LabCa | None = None) -> Iterator[Swtpm]:
    """A newly manufactured TPM that runs for the length of a block."""
    manufacture(directory, ca or make_ca(directory.parent / "ca"))
    swtpm = Swtpm(directory)
    swtpm.start()
    try:
        yield swtpm
    finally:
        swtpm.stop()


class Owner:
    """The key owner's side in software: one approver, one lease key, one profile key."""

    def __init__(
        self,
        profile: str = PROFILE,
        epoch: int = 1,
        approver: SoftwareSigner | None = None,
        mode: str = "standing",
        lease_key: SoftwareSigner | None = None,
    ) -> None:
        self.profile, self.epoch, self.mode = profile, epoch, mode
        self.approver = approver or SoftwareSigner.generate()
        self.lease_key = lease_key or SoftwareSigner.generate()
        self.key = SoftwareSigner.generate()
        reference = policy.profile_ref(profile, epoch, "", mode)
        name = name_of(templates.verifier_public(self.approver.point))
        self.public = templates.profile_key_public(self.key.point, policy.profile_key_policy(name, reference))

    def duplicate_to(self, blobs: HostIdentityBlobs) -> DuplicateBlob:
        return duplicate(self.key.scalar(), self.public, blobs.import_parent_public)

    def approve(self, values: Mapping[int, bytes], selection: Sequence[int] = SELECTION) -> Approval:
        return sign_approval(
            self.approver,
            profile=self.profile,
            epoch=self.epoch,
            cell="",
            selection=selection,
            pcr_values=values,
            mode=self.mode,
            lease_point=self.lease_key.point if self.mode == "leased" else b"",
        )

    def seal(self, tpm: Tpm, blobs: HostIdentityBlobs) -> SealedKey:
        private = import_key(tpm, blobs, self.duplicate_to(blobs))
        return SealedKey(self.profile, self.epoch, "", self.mode, self.public, private)

    def lease_key_for(self, blobs: HostIdentityBlobs) -> LeaseKey:
        return LeaseKey(self.profile, self.epoch, "", blobs.srk_name, self.lease_key.point)

    def lease(self, tpm: Tpm, blobs: HostIdentityBlobs, seconds: int = 3600) -> HeldLease:
        """Ask for a lease and grant it, as host and authority do."""
        session, key = leases.begin(tpm), self.lease_key_for(blobs)
        signed = sign_lease(
            self.lease_key, key, reset_count=session.reset_count, nonce_tpm=session.nonce_tpm, seconds=seconds
        )
        return leases.finish(tpm, session, key, signed)


@dataclass(frozen=True, slots=True)
class Host:
    """A host with its keys, and what its PCRs held when it was made."""

    swtpm: Swtpm
    blobs: HostIdentityBlobs
    owner: Owner
    key: SealedKey
    values: Mapping[int, bytes]

    @property
    def key_point(self) -> bytes:
        return self.owner.key.point


def make_host(swtpm: Swtpm, owner: Owner) -> Host:
    with open_tpm(swtpm.tcti, swtpm.lock) as tpm:
        blobs = provision(tpm)
        return Host(swtpm, blobs, owner, owner.seal(tpm, blobs), pcr.read(tpm, range(24)))


def view_of(host: Host, good: Mapping[int, bytes]) -> AttackerView:
    """What root of this host has when only the state `good` is approved."""
    owner = host.owner
    approvals = (
        owner.approve(good),
        *tempting_approvals(owner.approver, host.key, host.values, SELECTION),
    )
    point = SoftwareSigner.generate().point
    duplicate_blob = owner.duplicate_to(host.blobs)
    return AttackerView(host.swtpm.tcti, host.swtpm.lock, host.blobs, host.key, duplicate_blob, approvals, point)
