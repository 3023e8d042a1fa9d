"""Letting a host go: it is removed, or its TPM is replaced. Both say what the old TPM goes on opening.

Nothing reaches into a TPM from here. A standing profile key that was sealed to it keeps opening, while the host is in a
state that is approved, everything that is wrapped to that epoch (docs/threat-model.md). A rotation takes new wraps away
from it, nothing else.
"""

from __future__ import annotations

from sealvm.authority import audit, bundle
from sealvm.authority.epochs import cell_for, cells_of
from sealvm.authority.observed import digest_in
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import EpochRecord, HostRecord
from sealvm.authority.register import refuse_known_ek, write_ticket
from sealvm.authority.rotate import close, rotate_in
from sealvm.errors import ConflictError, NotFoundError
from sealvm.protocol.hosts import EkRequest, HeldKey, RemovalView, RemoveRequest
from sealvm.protocol.trust import RotateRequest
from sealvm.tcg.policy import MODE_STANDING

LOCKED_OUT = "it gets nothing more from the authority: no keys, no approvals, no leases"
KEEPS = "the TPM keeps {names}: while in an approved state, it goes on opening everything that is wrapped to them"
LEASED = "its leased keys ({names}) open until the present lease ends, at most the profile's term from now"
ROTATION = (
    "a rotation protects only new packages, and re-wrapped ones whose old wraps this host cannot obtain; "
    "whoever copied an old wrap goes on opening it there"
)
OFFER = "start new epochs without it: sealvm host remove {host} --rotate, or sealvm profile rotate {profiles}"
ROTATED = "new epochs of {names} are made, nothing new is wrapped to the old ones; re-wrap: sealvm package rewrap"


def remove_host(ctx: Context, actor: str, name: str, request: RemoveRequest) -> RemovalView:
    """Forget a host: its request key, states, challenges, leases and ticket are void at once.

    With `rotate`, every standing profile whose key it holds gets a new epoch, and its old ones no new wraps. With
    `dry_run` nothing changes. All of it is one transaction: it happens, or the host is still there. NotFoundError.
    """
    with ctx.store.write() as tx:
        host = _required(tx, name)
        held = _held(tx, host)
        if not request.dry_run:
            tx.remove_host(name)
            details = {"ek_digest": "" if host.ek_digest is None else host.ek_digest.hex(), "keys": len(held)}
            audit.record(ctx, tx, actor, audit.Action.HOST_REMOVED, name, **details)
        profiles = _standing_profiles(held) if request.rotate else ()
        if profiles and not request.dry_run:
            for profile in profiles:
                rotate_in(ctx, tx, actor, profile, RotateRequest())
            _close_old(ctx, tx, actor, held)
            bundle.publish(ctx, tx, actor, urgent=True)
    return RemovalView(
        host=name,
        outcome="dry-run" if request.dry_run else "removed",
        held=held,
        rotated=profiles,
        says=_says(name, held, rotated=bool(profiles)),
    )


def replace_host(ctx: Context, actor: str, name: str, request: EkRequest) -> RemovalView:
    """Give the host another TPM, as after a motherboard swap: the old one's records are void, a ticket is for the new.

    The host keeps its name, id and cell; its disks reopen by their profiles once it has enrolled and is in an approved
    state. NotFoundError; ConflictError when the EK is this or another host's already.
    """
    with ctx.store.write() as tx:
        host = _required(tx, name)
        if host.ek_digest == request.ek_digest:
            raise ConflictError(
                f"host {name} is registered with this EK already",
                hint=f"to enroll it again: sealvm host register {name} --ek DIGEST --again",
            )
        refuse_known_ek(tx, request.ek_digest)
        held = _held(tx, host)
        tx.void_enrollment(name)
        fresh = HostRecord(
            name=host.name,
            host_id=host.host_id,
            ek_digest=request.ek_digest,
            registered=host.registered,
            cell=host.cell,
        )
        tx.update_host(fresh)
        old = "" if host.ek_digest is None else host.ek_digest.hex()
        details = {"ek_digest": request.ek_digest.hex(), "old_ek_digest": old, "keys": len(held)}
        audit.record(ctx, tx, actor, audit.Action.HOST_REPLACED, name, **details)
        ticket = write_ticket(ctx, tx, actor, fresh, request.valid_seconds)
    return RemovalView(
        host=name,
        outcome="replaced",
        held=held,
        rotated=(),
        says=_says(name, held, rotated=False, gone=False),
        ticket=ticket,
    )


def _required(tx: Transaction, name: str) -> HostRecord:
    host = tx.host(name)
    if host is None:
        raise NotFoundError(f"host {name[:64]!r} is not registered", hint="see: sealvm host list")
    return host


def _held(tx: Transaction, host: HostRecord) -> tuple[HeldKey, ...]:
    """The keys that were there to be sealed to the host when it last synchronised, retired ones included."""
    if host.enrolled is None or host.last_sync is None:
        return ()
    trust = {record.name: record.trust for record in tx.profiles()}
    by_profile: dict[str, list[EpochRecord]] = {}
    for record in tx.epochs():
        if host.trust_class in trust[record.profile] and record.created <= host.last_sync:
            by_profile.setdefault(record.profile, []).append(record)
    approved = {(*approval.key, approval.pcr_digest) for approval in tx.approvals()}
    values = tx.pcr_values().get(host.name, {})
    return tuple(
        HeldKey(
            profile=record.profile,
            epoch=record.epoch,
            cell=record.cell,
            mode=record.mode,
            approved_now=(*record.key, digest_in(values, record.selection)) in approved,
        )
        for _profile, records in sorted(by_profile.items())
        for record in records
        if record.cell == cell_for(host.cell, cells_of(records))
    )


def _close_old(ctx: Context, tx: Transaction, actor: str, held: tuple[HeldKey, ...]) -> None:
    keys = {(key.profile, key.epoch, key.cell) for key in held if key.mode == MODE_STANDING}
    for record in tx.epochs():
        if record.key in keys and record.retired is None:
            close(ctx, tx, actor, record)


def _standing_profiles(held: tuple[HeldKey, ...]) -> tuple[str, ...]:
    return tuple(sorted({key.profile for key in held if key.mode == MODE_STANDING}))


def _says(name: str, held: tuple[HeldKey, ...], *, rotated: bool, gone: bool = True) -> tuple[str, ...]:
    standing = [_named(key) for key in held if key.mode == MODE_STANDING]
    leased = [_named(key) for key in held if key.mode != MODE_STANDING]
    says = [LOCKED_OUT if gone else f"the old TPM is no host any more: {LOCKED_OUT}"]
    if standing:
        says.append(KEEPS.format(names=", ".join(standing)))
    if leased:
        says.append(LEASED.format(names=", ".join(leased)))
    if standing:
        profiles = _standing_profiles(held)
        says.append(ROTATION)
        if rotated:
            says.append(ROTATED.format(names=", ".join(profiles)))
        elif gone:
            says.append(OFFER.format(host=name, profiles=" ".join(profiles)))
        else:
            says.append(f"start new epochs without it: sealvm profile rotate {' '.join(profiles)}")
    return tuple(says)


def _named(key: HeldKey) -> str:
    cell = f" cell {key.cell}" if key.cell else ""
    return f"profile {key.profile} epoch {key.epoch}{cell}" + ("" if key.approved_now else " (state not approved now)")
