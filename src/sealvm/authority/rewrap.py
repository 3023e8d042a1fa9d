"""Re-wrapping a package: its key K, wrapped to the present epochs of the same profiles; nothing else is touched.

K is in this process's memory for as long as it takes, and is neither stored nor answered: the answer holds wraps only,
which open on hosts in approved states and nowhere else. That is why it is done here and not by an operator or a
provisioner: custody has the profile keys anyway, so nobody comes to hold a key that he did not have.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric import ec

from sealvm.authority import audit
from sealvm.authority.epochs import present
from sealvm.authority.ports import Context
from sealvm.authority.records import EpochRecord
from sealvm.crypto.dsse import verify_envelope
from sealvm.crypto.ec import keyid_of, load_point, private_key
from sealvm.custody.base import Custody
from sealvm.errors import UntrustedRefused
from sealvm.package.expression import leaves_of
from sealvm.package.header import PAYLOAD_TYPE, parse_header
from sealvm.package.recipients import ProfileKeyRef, build_recipients, describe_recipients, open_recipients
from sealvm.protocol.trust import RewrapRequest, RewrapView


def rewrap(ctx: Context, actor: str, request: RewrapRequest) -> RewrapView:
    """New recipients for a package, after these checks:

    1. an accepted provisioner signed the header, and is accepted for every profile of its expression;
    2. the recipients belong to this header;
    3. some key in custody, of a present or retired epoch, opens them, and K is the one the header commits to.

    Raises UntrustedRefused or SignatureRefused (1), MalformedError or IntegrityRefused (2, 3), NoRecipientRefused when
    no key fits, InputError when a profile of the expression has no epoch that is wrapped to.
    """
    with ctx.store.read() as tx:
        accepted = {record.point: record for record in tx.provisioners()}
        epochs = list(tx.epochs())
        targets = [record for record in present(tx) if record.wraps]
    verified = verify_envelope(request.envelope, PAYLOAD_TYPE, accepted, "package header")  # 1
    header = parse_header(verified.payload)
    names = sorted(set(leaves_of(header.expression)))
    signer = next(record for point, record in accepted.items() if keyid_of(point) == verified.keyid)
    if foreign := sorted(set(names) - set(signer.profiles)):
        raise UntrustedRefused(
            f"package header: provisioner {signer.name} is not accepted for profile {foreign[0]}",
            hint=f"sealvm provisioner trust {signer.name} --profile {foreign[0]}",
        )
    before = describe_recipients(request.recipients, header)  # 2
    key = open_recipients(request.recipients, header, _CustodyOpener(ctx.custody, epochs), names)  # 3
    refs = [ProfileKeyRef(record.profile, record.epoch, record.cell, record.point) for record in targets]
    recipients = build_recipients(key, header.digest, [r for r in refs if r.profile in names], header.expression)
    after = describe_recipients(recipients, header)
    with ctx.store.write() as tx:
        details = {"profiles": names, "lineage": header.lineage.hex(), "before": _named(before), "after": _named(after)}
        audit.record(ctx, tx, actor, audit.Action.PACKAGE_REWRAPPED, header.digest, **details)
    return RewrapView(
        package=bytes.fromhex(header.digest),
        recipients=recipients,
        before=tuple(_named(before)),
        after=tuple(_named(after)),
    )


class _CustodyOpener:
    """The private halves in custody as a `ProfileKeyOpener`."""

    def __init__(self, custody: Custody, epochs: Iterable[EpochRecord]) -> None:
        self._custody = custody
        self._epochs = {record.key: record for record in epochs}

    def holds(self, profile: str, epoch: int, cell: str) -> bool:
        """Whether custody has that key, also of a retired epoch."""
        return (profile, epoch, cell) in self._epochs

    def point(self, profile: str, epoch: int, cell: str) -> bytes:
        """Its public point."""
        return self._epochs[profile, epoch, cell].point

    def ecdh(self, profile: str, epoch: int, cell: str, point: bytes) -> bytes:
        """X coordinate of the shared point."""
        scalar = self._custody.scalar(self._epochs[profile, epoch, cell].custody_name)
        return private_key(scalar).exchange(ec.ECDH(), load_point(point))


def _named(recipients: Iterable[dict[str, object]]) -> list[str]:
    return [f"{r['profile']} epoch {r['epoch']}" + (f" cell {r['cell']}" if r["cell"] else "") for r in recipients]
