"""What operators and the authority say to each other about letting hosts in and out (docs/spec/http-api-v1.md).

Bulk registration, pending hosts, replacement, removal, and barred TPMs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sealvm.protocol.messages import JoinTicket, Message
from sealvm.protocol.operator import TrustClass
from sealvm.protocol.tpm_model import version_number
from sealvm.statements.encoding import CellName, Digest, Epoch, Moment, ObjectName

BULK_LIMIT = 1000
ValidSeconds = Annotated[int, Field(ge=60, le=30 * 86400)]
Text = Annotated[str, Field(max_length=128)]


class Registration(Message):
    """One line of a registration file."""

    name: ObjectName
    ek_digest: Digest


class BulkRequest(Message):
    """Register all of these hosts, or none: no name and no EK twice."""

    hosts: Annotated[tuple[Registration, ...], Field(min_length=1, max_length=BULK_LIMIT)]
    valid_seconds: ValidSeconds = 86400

    @model_validator(mode="after")
    def _each_once(self) -> BulkRequest:
        for field in ("name", "ek_digest"):
            values = [getattr(host, field) for host in self.hosts]
            if len(set(values)) != len(values):
                raise ValueError(f"a {field} is given twice")
        return self


class BulkResult(Message):
    """What became of one host: newly registered, another ticket (it had not enrolled yet), or enrolled already."""

    name: ObjectName
    outcome: Literal["registered", "ticket-renewed", "enrolled-already"]
    ticket: JoinTicket | None


class ExpectRequest(Message):
    """Expect a host whose EK is not known yet: it becomes pending when it presents its ticket."""

    name: ObjectName
    valid_seconds: ValidSeconds = 86400


class PendingView(Message):
    """A host that presented a good ticket and a certified EK, and waits for an operator."""

    name: ObjectName
    ek_digest: Digest
    tpm: str
    trust_class: TrustClass
    first_seen: Moment
    last_seen: Moment


class EkRequest(Message):
    """The EK an operator means: to approve a pending host, or as the replacement of a host's TPM."""

    ek_digest: Digest
    valid_seconds: ValidSeconds = 86400


class RemoveRequest(Message):
    """Remove a host; `rotate` the standing profiles whose keys it holds; or only say what that would do."""

    rotate: bool = False
    dry_run: bool = False


class HeldKey(Message):
    """A profile key that lies in the TPM of a host that is removed or replaced."""

    profile: ObjectName
    epoch: Epoch
    cell: CellName
    mode: Annotated[str, Field(max_length=16)]
    approved_now: bool


class RemovalView(Message):
    """What a removal or a replacement took, and what it could not take."""

    host: ObjectName
    outcome: Literal["removed", "dry-run", "replaced"]
    held: tuple[HeldKey, ...]
    rotated: tuple[str, ...]
    says: tuple[str, ...]
    ticket: JoinTicket | None = None


class BarRequest(Message):
    """Bar TPMs: of a manufacturer, its model, and one firmware version or all before one."""

    manufacturer: Annotated[str, Field(min_length=1, max_length=128)]
    model: Text = ""
    version: Text = ""
    before: Text = ""
    reason: Annotated[str, Field(max_length=256)] = ""

    @model_validator(mode="after")
    def _one_version(self) -> BarRequest:
        if not self.manufacturer.strip():
            raise ValueError("manufacturer is blank")
        if self.version and self.before:
            raise ValueError("either version or before, not both")
        if self.before and version_number(self.before) is None:
            raise ValueError("before is no firmware version, such as id:00490004")
        return self


class BarView(Message):
    """A bar, and the enrolled hosts that it covers."""

    bar_id: str
    manufacturer: str
    model: str
    version: str
    before: str
    reason: str
    added: Moment
    hosts: tuple[str, ...]


class RootRemovalView(Message):
    """The root that is no longer accepted, and the enrolled hosts that lose access to the authority with it."""

    sha256: Digest
    subject: str
    hosts: tuple[str, ...]
