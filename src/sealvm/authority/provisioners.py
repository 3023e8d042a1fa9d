"""Provisioners: whose packages hosts accept, for which profiles. This list decides whose VMs run."""

from __future__ import annotations

from sealvm.authority import audit, bundle
from sealvm.authority.ports import Context
from sealvm.authority.records import ProvisionerRecord
from sealvm.crypto.ec import keyid_of, load_point
from sealvm.errors import ConflictError, NotFoundError
from sealvm.protocol.operator import ProvisionerRequest, ProvisionerView


def trust_provisioner(ctx: Context, actor: str, request: ProvisionerRequest) -> ProvisionerView:
    """Accept a provisioner's key for these profiles, and publish it. The same name and key again replaces the profiles.

    NotFoundError for a profile that does not exist, ConflictError when the name has another key, or the key another
    name.
    """
    load_point(request.point)
    record = ProvisionerRecord(request.name, request.point, tuple(sorted(set(request.profiles))), ctx.now())
    with ctx.store.write() as tx:
        for profile in record.profiles:
            if tx.profile(profile) is None:
                raise NotFoundError(f"profile {profile} does not exist", hint="apply it first")
        known = tx.provisioner(request.name)
        if known is not None and known.point != request.point:
            raise ConflictError(
                f"provisioner {request.name} has key {keyid_of(known.point)[:16]}, not {keyid_of(request.point)[:16]}",
                hint="trust the new key under another name",
            )
        other = next((r.name for r in tx.provisioners() if r.point == request.point and r.name != request.name), None)
        if other is not None:
            raise ConflictError(
                f"key {keyid_of(request.point)[:16]} is provisioner {other}'s, not {request.name}'s",
                hint=f"to change the profiles it is accepted for, name them all: sealvm provisioner trust {other}",
            )
        if known is not None and known.profiles == record.profiles:
            return _view(known)
        tx.put_provisioner(record)
        details = {"keyid": keyid_of(record.point), "profiles": list(record.profiles)}
        audit.record(ctx, tx, actor, audit.Action.PROVISIONER_TRUSTED, record.name, **details)
        bundle.publish(ctx, tx, actor)
    return _view(record)


def list_provisioners(ctx: Context) -> list[ProvisionerView]:
    """All accepted provisioners, by name."""
    with ctx.store.read() as tx:
        return [_view(record) for record in tx.provisioners()]


def _view(record: ProvisionerRecord) -> ProvisionerView:
    return ProvisionerView(
        name=record.name,
        keyid=keyid_of(record.point),
        point=record.point,
        profiles=record.profiles,
        trusted=record.trusted,
    )
