"""What a host keeps between runs: its identity, its anchor, the trust bundle and its sealed profile keys.

    identity.json                       public areas, blobs of import parent and request key, pinned SRK Name, host id
    anchor.json                         the key that signs trust bundles, and the highest bundle version seen
    bundle.dsse                         the trust bundle as received
    bundle.kept.dsse                    an older one, while a disk is wrapped to a key that only it lists
    keys/PROFILE.EPOCH[.CELL].json      a profile key: public area, and the blob that only this host's TPM loads
    leases/PROFILE.EPOCH[.CELL].json    the newest lease of a leased profile key: a ticket that only this TPM takes

Every file is mode 0600, limited in size, checked when it is read, and written whole or not at all. None holds a key in
the clear; whoever copies them to another computer has nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter

from sealvm.crypto import canonical
from sealvm.errors import MalformedError, NotFoundError
from sealvm.host.files import read_limited
from sealvm.statements.encoding import (
    Base64Bytes,
    CellName,
    Epoch,
    HexBytes,
    Moment,
    ObjectName,
    Point,
    parse_message,
)
from sealvm.store.atomic import PARTIAL_PREFIX, write_atomic
from sealvm.tpm.identity import HostIdentityBlobs
from sealvm.tpm.leases import HeldLease
from sealvm.tpm.profile_key import SealedKey

FILE_LIMIT_BYTES = 64 * 1024
BUNDLE_LIMIT_BYTES = 32 * 1024 * 1024
KEYS_LIMIT = 4096
_ENROLL_HINT = "enroll this host first with: sealvm host enroll"

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
_Public = Annotated[Base64Bytes, Field(min_length=8, max_length=1024)]
_Private = Annotated[Base64Bytes, Field(min_length=8, max_length=1024)]
_Name = Annotated[HexBytes, Field(min_length=34, max_length=34)]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Anchor:
    """Who signs this host's trust bundles (65-byte point, pinned at enrollment), and how new what was seen is.

    version, issued: the highest version, and its time of issue. passed: the newest time of which the authority has said
    that it is over; a clock behind it was set back. None where nothing was seen yet.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    point: Point
    version: Annotated[int, Field(ge=0, strict=True)]
    issued: Moment | None = None
    passed: Moment | None = None


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """The keys with which this host enrolled, the SRK Name pinned then, and the authority's id for it ("" before)."""

    blobs: HostIdentityBlobs
    srk_name: bytes
    host_id: str = ""


@dataclass(frozen=True, slots=True)
class _IdentityFile:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    host_id: Annotated[str, Field(max_length=128)]
    srk_name: _Name
    ek_nv_index: Annotated[int, Field(ge=0x01000000, le=0x01FFFFFF, strict=True)]
    ek_public: _Public
    ak_public: _Public
    srk_public: _Public
    import_parent_public: _Public
    import_parent_private: _Private
    request_key_public: _Public
    request_key_private: _Private


@dataclass(frozen=True, slots=True)
class _KeyFile:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    profile: ObjectName
    epoch: Epoch
    cell: CellName
    mode: Annotated[str, Field(max_length=16)]
    public: _Public
    private: _Private


@dataclass(frozen=True, slots=True)
class StoredLease:
    """A lease, and when the session that asked for it began by this host's clock, from which the term counts."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    held: HeldLease
    began: Moment

    @property
    def ends(self) -> datetime:
        """When it ends by this host's clock. The TPM goes by its own, and ends it at any reset as well."""
        return self.began + timedelta(seconds=self.held.signed.seconds)


_ANCHOR: TypeAdapter[Anchor] = TypeAdapter(Anchor)
_IDENTITY: TypeAdapter[_IdentityFile] = TypeAdapter(_IdentityFile)
_KEY: TypeAdapter[_KeyFile] = TypeAdapter(_KeyFile)
_LEASE: TypeAdapter[StoredLease] = TypeAdapter(StoredLease)


class Keyring:
    """The files of one host's directory. Reads what is there at each call; keeps nothing in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def enrolled(self) -> bool:
        """Whether this host has an identity. Says nothing about whether the authority still knows it."""
        return (self.directory / "identity.json").exists()

    def identity(self) -> HostIdentity:
        """NotFoundError when this host never enrolled, MalformedError when the file is damaged."""
        file = self._read("identity.json", _IDENTITY)
        fields = {name: getattr(file, name) for name in _BLOB_FIELDS}
        return HostIdentity(HostIdentityBlobs(**fields), file.srk_name, file.host_id)

    def save_identity(self, identity: HostIdentity) -> None:
        """Replace the identity. The caller pins the SRK Name only when the authority has accepted it."""
        file = _IdentityFile(identity.host_id, identity.srk_name, **asdict(identity.blobs))
        self._write("identity.json", _IDENTITY.dump_python(file, mode="json"))

    def anchor(self) -> Anchor:
        """NotFoundError when this host never enrolled, MalformedError when the file is damaged."""
        return self._read("anchor.json", _ANCHOR)

    def save_anchor(self, anchor: Anchor) -> None:
        """Replace the anchor; the caller never lowers the version."""
        self._write("anchor.json", _ANCHOR.dump_python(anchor, mode="json"))

    def bundle(self) -> bytes:
        """The trust bundle's envelope as it was stored. The caller must verify it against the anchor."""
        return read_limited(self.directory / "bundle.dsse", BUNDLE_LIMIT_BYTES, _ENROLL_HINT)

    def save_bundle(self, envelope: bytes) -> None:
        """Replace the trust bundle by one that the caller has verified."""
        write_atomic(self.directory / "bundle.dsse", envelope, 0o600)

    def kept_bundle(self) -> bytes | None:
        """An older bundle's envelope, kept for disks that are still wrapped to its keys; None without one."""
        path = self.directory / "bundle.kept.dsse"
        return read_limited(path, BUNDLE_LIMIT_BYTES, _ENROLL_HINT) if path.exists() else None

    def keep_bundle(self, envelope: bytes | None) -> None:
        """Keep an older bundle, or (None) forget it."""
        path = self.directory / "bundle.kept.dsse"
        if envelope is None:
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, envelope, 0o600)

    def holds(self, profile: str, epoch: int, cell: str) -> bool:
        """Whether this host has that profile key."""
        return (self.directory / _key_file(profile, epoch, cell)).exists()

    def key(self, profile: str, epoch: int, cell: str) -> SealedKey:
        """NotFoundError when this host does not have that key, MalformedError when the file is damaged."""
        return self._load_key(_key_file(profile, epoch, cell))

    def keys(self) -> tuple[SealedKey, ...]:
        """All profile keys of this host, in the order of their files' names."""
        names = sorted(path.name for path in (self.directory / "keys").glob("*.json"))
        if len(names) > KEYS_LIMIT:
            raise MalformedError(f"{self.directory / 'keys'}: {len(names)} keys, at most {KEYS_LIMIT} are allowed")
        return tuple(self._load_key(f"keys/{name}") for name in names)

    def save_key(self, key: SealedKey) -> None:
        """Store a profile key, in place of an earlier blob of the same profile, epoch and cell."""
        (self.directory / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write(_key_file(key.profile, key.epoch, key.cell), _KEY.dump_python(_KeyFile(**asdict(key)), mode="json"))

    def sweep(self) -> None:
        """Remove what a killed synchronisation left unfinished beside the keys; the caller holds `sync.exclusive`."""
        for partial in (self.directory / "keys").glob(PARTIAL_PREFIX + "*"):
            partial.unlink(missing_ok=True)

    def remove_key(self, profile: str, epoch: int, cell: str) -> None:
        """Forget a profile key. This withdraws nothing from a root who kept a copy (docs/spec/tpm-policy-v1.md)."""
        (self.directory / _key_file(profile, epoch, cell)).unlink(missing_ok=True)

    def lease(self, profile: str, epoch: int, cell: str) -> StoredLease | None:
        """The newest lease for this profile key, ended or not; None when there never was one. MalformedError."""
        name = _lease_file(profile, epoch, cell)
        if not (self.directory / name).exists():
            return None
        stored = self._read(name, _LEASE)
        signed = stored.held.signed
        if (signed.profile, signed.epoch, signed.cell) != (profile, epoch, cell):
            found = _lease_file(signed.profile, signed.epoch, signed.cell)
            raise MalformedError(f"{self.directory / name}: holds what belongs into {found}")
        return stored

    def save_lease(self, lease: StoredLease) -> None:
        """Store a lease, in place of the earlier one for the same profile key."""
        (self.directory / "leases").mkdir(mode=0o700, parents=True, exist_ok=True)
        signed = lease.held.signed
        self._write(_lease_file(signed.profile, signed.epoch, signed.cell), _LEASE.dump_python(lease, mode="json"))

    def _load_key(self, name: str) -> SealedKey:
        file = self._read(name, _KEY)
        if _key_file(file.profile, file.epoch, file.cell) != name:
            found = _key_file(file.profile, file.epoch, file.cell)
            raise MalformedError(f"{self.directory / name}: holds what belongs into {found}")
        return SealedKey(file.profile, file.epoch, file.cell, file.mode, file.public, file.private)

    def _read(self, name: str, adapter: TypeAdapter[T]) -> T:
        path = self.directory / name
        data = read_limited(path, FILE_LIMIT_BYTES, _ENROLL_HINT)
        return parse_message(adapter, canonical.loads(data, str(path), FILE_LIMIT_BYTES), str(path))

    def _write(self, name: str, document: Any) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self.directory / name, canonical.dumps(document), 0o600)


_BLOB_FIELDS = tuple(HostIdentityBlobs.__dataclass_fields__)


def _key_file(profile: str, epoch: int, cell: str) -> str:
    return f"keys/{_file_name(profile, epoch, cell)}"


def _lease_file(profile: str, epoch: int, cell: str) -> str:
    return f"leases/{_file_name(profile, epoch, cell)}"


def _file_name(profile: str, epoch: int, cell: str) -> str:
    """PROFILE.EPOCH[.CELL].json. Neither names nor cells hold dots, so no two keys share a file."""
    for name in (profile, cell):
        if name and not set(name) <= _NAME_CHARACTERS:
            raise NotFoundError(f"no profile key has the name {name[:80]!r}")
    return f"{profile}.{int(epoch)}{'.' + cell if cell else ''}.json"


_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
