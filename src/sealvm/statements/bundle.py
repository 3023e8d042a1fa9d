"""The trust bundle: what hosts believe about profiles, approvals and provisioners (DESIGN section 5).

A JSON document in a DSSE envelope of type `application/vnd.sealvm.trust-bundle.v1+json`, signed by the authority's
bundle key, whose point hosts pin as their *anchor* when they enroll. It is public: it holds no key material. It is
versioned (every change is a higher version) and expires, so an old one cannot be replayed for ever.
Specification: docs/spec/trust-bundle-v1.md.

`verify_bundle` checks, in this order:

1. the envelope is signed by the anchor;
2. the document has this form, within limits;
3. its version and its time of issue are not below the highest seen, it is not from the future, and it has not
   expired;
4. every profile key's public area is the one that its approver, profile, epoch, cell and mode give, so its policy is
   PolicyAuthorize of that approver and nothing wider;
5. every delegation and approval is for that very key, by its approver or by a rule key to which a delegation in this
   epoch leads, and its signature verifies.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator, TypeAdapter

from sealvm.crypto import canonical, dsse
from sealvm.crypto.ec import Signer
from sealvm.errors import IntegrityRefused, MalformedError, RollbackRefused
from sealvm.statements.approval import Approval, verify_approval
from sealvm.statements.encoding import (
    Base64Bytes,
    CellName,
    Epoch,
    Moment,
    ObjectName,
    PcrIndex,
    Point,
    parse_message,
)
from sealvm.statements.rule import Delegation, verify_approval_by_rule, verify_delegation
from sealvm.statements.times import format_time
from sealvm.tcg.policy import profile_key_policy, profile_ref
from sealvm.tcg.public import name_of
from sealvm.tcg.templates import profile_key_public, verifier_public

BUNDLE_TYPE = "application/vnd.sealvm.trust-bundle.v1+json"
BUNDLE_FORMAT = "sealvm-trust-bundle-v1"
BUNDLE_BYTES_LIMIT = 8 * 1024 * 1024
DOCUMENT_CHARS_LIMIT = 64 * 1024
CLOCK_SKEW = timedelta(minutes=5)

STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)


def _read_approval(value: object) -> Approval:
    return value if isinstance(value, Approval) else Approval.from_json(value, "trust bundle: approval")


ApprovalJson = Annotated[Approval, PlainValidator(_read_approval), PlainSerializer(Approval.to_json)]


@dataclass(frozen=True, slots=True)
class BundleEpoch:
    """One generation of a profile's key: its public area (TPMT_PUBLIC), who approves its states, and the approvals.

    wraps: whether new packages and disks are to be wrapped to it. An epoch that lost a state by a withdrawal opens what
    was wrapped to it before, and gets nothing new.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epoch: Epoch
    cell: CellName
    mode: Annotated[str, Field(max_length=16)]
    selection: Annotated[tuple[PcrIndex, ...], Field(min_length=1, max_length=24)]
    point: Point
    public: Annotated[Base64Bytes, Field(max_length=256)]
    approver_point: Point
    approvals: Annotated[tuple[ApprovalJson, ...], Field(max_length=4096)]
    wraps: Annotated[bool, Field(strict=True)] = True
    delegations: Annotated[tuple[Delegation, ...], Field(max_length=64)] = ()


@dataclass(frozen=True, slots=True)
class BundleProfile:
    """A profile as the authority applied it: the YAML text, and its key's epochs in ascending order."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: ObjectName
    document: Annotated[str, Field(max_length=DOCUMENT_CHARS_LIMIT)]
    epochs: Annotated[tuple[BundleEpoch, ...], Field(max_length=256)]


@dataclass(frozen=True, slots=True)
class BundleProvisioner:
    """A provisioner whose packages hosts accept, for the named profiles only."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: ObjectName
    point: Point
    profiles: Annotated[tuple[ObjectName, ...], Field(max_length=1024)]


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The whole document. Trust it only as the return value of `verify_bundle`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    version: Annotated[int, Field(ge=1, strict=True)]
    issued: Moment
    expires: Moment
    profiles: Annotated[tuple[BundleProfile, ...], Field(max_length=1024)]
    provisioners: Annotated[tuple[BundleProvisioner, ...], Field(max_length=4096)]

    def epoch_of(self, profile: str, epoch: int, cell: str) -> BundleEpoch | None:
        """The epoch of a profile's key, or None when the bundle does not list it."""
        for candidate in self.profiles:
            if candidate.name == profile:
                return next((e for e in candidate.epochs if (e.epoch, e.cell) == (epoch, cell)), None)
        return None

    def provisioner_points(self, profile: str) -> tuple[bytes, ...]:
        """Points of the provisioners whose packages are accepted for `profile`."""
        return tuple(p.point for p in self.provisioners if profile in p.profiles)


_ADAPTER: TypeAdapter[TrustBundle] = TypeAdapter(TrustBundle)


def bundle_to_json(bundle: TrustBundle) -> dict[str, Any]:
    """The document that is signed."""
    body: dict[str, Any] = _ADAPTER.dump_python(bundle, mode="json")
    return {"format": BUNDLE_FORMAT, **body}


def sign_bundle(bundle: TrustBundle, signer: Signer) -> bytes:
    """The DSSE envelope of `bundle`, signed by the bundle key."""
    return dsse.sign_envelope(BUNDLE_TYPE, canonical.dumps(bundle_to_json(bundle)), signer)


def verify_bundle(
    envelope: bytes, anchor_point: bytes, now: datetime, floor_version: int, floor_issued: datetime | None = None
) -> TrustBundle:
    """The bundle in `envelope`, after the five checks of the module's docstring.

    Raises SignatureRefused or UntrustedRefused (1), MalformedError (2), RollbackRefused (3), IntegrityRefused (4) or
    SignatureRefused (5). `floor_version` is the highest version this host has seen, 0 at first, and `floor_issued` the
    newest time of issue; the caller stores the new ones. A host whose clock was set back still refuses what is older
    than these; the caller passes as `now` no less than what it knows to have passed.
    """
    bundle = verify_stored_bundle(envelope, anchor_point, floor_version)
    if floor_issued is not None and bundle.issued < floor_issued:
        raise RollbackRefused(
            f"trust bundle version {bundle.version} was issued at {format_time(bundle.issued)}, "
            f"expected not before {format_time(floor_issued)}",
            hint="somebody offers an old bundle; run `sealvm host sync` against the real authority",
        )
    _check_fresh(bundle, now)
    return bundle


def verify_stored_bundle(envelope: bytes, anchor_point: bytes, floor_version: int) -> TrustBundle:
    """The bundle in `envelope` after the same checks, but whatever the clock says.

    For a bundle that this host verified with `verify_bundle` when it received it, and uses while the authority is away:
    losing the authority must not stop launches (G6). The caller says so when `expires` has passed.
    """
    if len(envelope) > 2 * BUNDLE_BYTES_LIMIT:
        raise MalformedError(f"trust bundle has {len(envelope)} bytes, more than {2 * BUNDLE_BYTES_LIMIT}")
    bundle = _parse(dsse.verify_envelope(envelope, BUNDLE_TYPE, [anchor_point], "trust bundle").payload)
    _check_version(bundle, floor_version)
    seen: set[str] = set()
    for profile in bundle.profiles:
        if profile.name in seen:
            raise IntegrityRefused(f"trust bundle lists profile {profile.name} twice")
        seen.add(profile.name)
        for epoch in profile.epochs:
            _check_epoch(profile.name, epoch)
    return bundle


def expected_public(profile: str, epoch: int, cell: str, mode: str, *, point: bytes, approver_point: bytes) -> bytes:
    """The TPMT_PUBLIC that a profile key must have: exactly the policy of TPM-POLICY, and no other."""
    approver_name = name_of(verifier_public(approver_point))
    return profile_key_public(point, profile_key_policy(approver_name, profile_ref(profile, epoch, cell, mode)))


def _parse(payload: bytes) -> TrustBundle:
    body = canonical.loads(payload, "trust bundle", BUNDLE_BYTES_LIMIT)
    if not isinstance(body, dict) or body.pop("format", None) != BUNDLE_FORMAT:
        raise MalformedError(f"trust bundle is not of format {BUNDLE_FORMAT}")
    return parse_message(_ADAPTER, body, "trust bundle")


def _check_version(bundle: TrustBundle, floor_version: int) -> None:
    if bundle.version < floor_version:
        raise RollbackRefused(
            f"trust bundle has version {bundle.version}, expected at least {floor_version}",
            hint="somebody offers an old bundle; run `sealvm host sync` against the real authority",
            found=bundle.version,
            expected=floor_version,
        )


def _check_fresh(bundle: TrustBundle, now: datetime) -> None:
    if now < bundle.issued - CLOCK_SKEW:
        raise RollbackRefused(
            f"trust bundle version {bundle.version} was issued at {format_time(bundle.issued)}, "
            f"but this clock says {format_time(now)}",
            hint="set this machine's clock",
        )
    if now >= bundle.expires:
        raise RollbackRefused(
            f"trust bundle version {bundle.version} expired at {format_time(bundle.expires)}, it is {format_time(now)}",
            hint="run `sealvm host sync`, or carry a newer bundle here",
        )


def _check_epoch(profile: str, epoch: BundleEpoch) -> None:
    what = f"trust bundle: profile {profile} epoch {epoch.epoch} cell {epoch.cell!r}"
    wanted = expected_public(
        profile, epoch.epoch, epoch.cell, epoch.mode, point=epoch.point, approver_point=epoch.approver_point
    )
    if epoch.public != wanted:
        raise IntegrityRefused(f"{what}: the key's public area is not the one its approver and policy give")
    own = (profile, epoch.epoch, epoch.cell, epoch.mode)
    delegations: dict[bytes, Delegation] = {}
    for delegation in epoch.delegations:
        found = (delegation.profile, delegation.epoch, delegation.cell, delegation.mode, delegation.approver_point)
        if found != (*own, epoch.approver_point):
            raise IntegrityRefused(f"{what}: a delegation in it is for another key")
        verify_delegation(delegation)
        delegations[delegation.rule_point] = delegation
    for approval in epoch.approvals:
        by_rule = delegations.get(approval.approver_point)
        if (approval.profile, approval.epoch, approval.cell, approval.mode) != own:
            raise IntegrityRefused(f"{what}: an approval in it is for another key")
        if by_rule is None and approval.approver_point != epoch.approver_point:
            raise IntegrityRefused(f"{what}: an approval in it is by another key than its approver's or a rule's")
        if tuple(approval.selection) != tuple(epoch.selection):
            raise IntegrityRefused(f"{what}: an approval in it selects other PCRs")
        if by_rule is None:
            verify_approval(approval)
        else:
            verify_approval_by_rule(approval, by_rule)
