"""An OCI image layout directory (OCI image-spec 1.1, image-layout.md) as a store of packages.

Blobs appear under their digest only when they are complete, a tag only when all that it names is there. May import
errors, crypto.canonical and the store's own modules. Holds ciphertext and public structure, never a key.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from sealvm.crypto import canonical
from sealvm.errors import IntegrityRefused, MalformedError, NotFoundError, StorageFault
from sealvm.package.ports import Descriptor, ResolvedManifest
from sealvm.store.atomic import PARTIAL_PREFIX, write_atomic
from sealvm.store.blob import BlobFile, storage_errors
from sealvm.store.reference import check_tag

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_INDEX_BYTES = 4 * 1024 * 1024
_LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Transaction:
    """Blobs of one build: a sink like the layout itself, which forgets them on leaving unless `keep()` was called."""

    def __init__(self, layout: OciLayout) -> None:
        self._layout = layout
        self._committed: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for digest in self._committed:
            self._layout.discard(digest)

    def new_blob(self) -> BlobFile:
        """As the layout's; what is committed is remembered."""
        return self._layout.new_blob(self._committed.append)

    def put_blob(self, data: bytes) -> Descriptor:
        """As the layout's; what is committed is remembered."""
        with self.new_blob() as blob:
            blob.write(data)
            return blob.commit()

    def keep(self) -> None:
        """Everything is referred to now: forget nothing."""
        self._committed.clear()


class OciLayout:
    """One image layout directory; safe to use from several threads, and by several processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blobs = path / "blobs" / "sha256"
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path) -> Self:
        """The layout at `path`, made if it is missing or empty; sweeps away what interrupted writers left there.

        Raises MalformedError when the directory holds something else, StorageFault when it cannot be written.
        """
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            marked = (path / "oci-layout").exists()
            if not marked and any(not entry.name.startswith(PARTIAL_PREFIX) for entry in path.iterdir()):
                raise MalformedError(f"{path} is not empty and no OCI image layout", hint="name a new directory")
            if not marked:  # the marker first: an attempt that ends after it can be taken up again
                write_atomic(path / "oci-layout", _LAYOUT_FILE)
            (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        layout = cls(path)
        if not (path / "index.json").exists():
            layout._write_index([])
        layout._sweep()
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The existing layout at `path`. Raises NotFoundError, or MalformedError for another kind of directory."""
        try:
            marker = (path / "oci-layout").read_bytes()[:4096]
        except (FileNotFoundError, NotADirectoryError) as problem:
            raise NotFoundError(
                f"{path} is no OCI image layout: it has no oci-layout file",
                hint="name the folder of a package: oci:DIR",
            ) from problem
        except OSError as problem:
            raise StorageFault(f"cannot read {path}: {problem.strerror}") from problem
        content = canonical.loads(marker, f"{path}/oci-layout", 4096)
        if not isinstance(content, dict) or content.get("imageLayoutVersion") != "1.0.0":
            raise MalformedError(f"{path}/oci-layout: expected imageLayoutVersion 1.0.0")
        return cls(path)

    def close(self) -> None:
        """Close all blobs that reads have opened."""
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- blobs

    def new_blob(self, committed: Callable[[str], None] | None = None) -> BlobFile:
        """A blob to be written in pieces; it appears under its digest at `commit()` and not before.

        `committed` is told the digest of a blob that is about to appear and was not there before.
        """
        return BlobFile(self._blobs, committed)

    def put_blob(self, data: bytes | Iterable[bytes]) -> Descriptor:
        """Store bytes, whole or in pieces, atomically, and return their digest and size. Raises StorageFault."""
        with self.new_blob() as blob:
            for piece in (data,) if isinstance(data, bytes) else data:
                blob.write(piece)
            return blob.commit()

    def transaction(self) -> Transaction:
        """New blobs that vanish again, committed or not, unless `keep()` is called on the result."""
        return Transaction(self)

    def discard(self, digest: str) -> None:
        """Remove a blob that nothing refers to; no error when it is gone. Raises StorageFault."""
        with storage_errors(self.path):
            (self._blobs / digest.removeprefix("sha256:")).unlink(missing_ok=True)

    def read_at(self, digest: str, offset: int, length: int) -> bytes:
        """`length` bytes of a blob from `offset`, **not checked** against any digest: the caller must.

        Raises NotFoundError, IntegrityRefused when the blob is shorter than asked, StorageFault.
        """
        descriptor = self._descriptor(digest)
        with storage_errors(self.path):
            data = os.pread(descriptor, length, offset)
            while data and len(data) < length:
                more = os.pread(descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        if len(data) != length:
            raise IntegrityRefused(
                f"blob {digest} is truncated: {length} bytes at {offset} expected, {len(data)} found"
            )
        return data

    def size(self, digest: str) -> int:
        """The blob's size in bytes. Raises NotFoundError."""
        return os.fstat(self._descriptor(digest)).st_size

    def get_blob(self, digest: str, limit: int) -> bytes:
        """A whole blob whose SHA-256 is `digest`.

        Raises NotFoundError, MalformedError above `limit` bytes, IntegrityRefused when the content does not match.
        """
        size = self.size(digest)
        if size > limit:
            raise MalformedError(f"blob {digest}: {size} bytes, at most {limit} allowed")
        data = self.read_at(digest, 0, size)
        found = "sha256:" + hashlib.sha256(data).hexdigest()
        if found != digest:
            raise IntegrityRefused(f"blob {digest}: its content has digest {found}")
        return data

    def _descriptor(self, digest: str) -> int:
        if not _DIGEST.fullmatch(digest):
            raise MalformedError(f"{digest!r} is no digest: expected sha256:<64 hex digits>")
        with self._lock:
            if digest not in self._descriptors:
                try:
                    self._descriptors[digest] = _open_regular(self._blobs / digest.removeprefix("sha256:"))
                except FileNotFoundError as problem:
                    raise NotFoundError(f"blob {digest} is not in {self.path}") from problem
                except OSError as problem:
                    raise StorageFault(f"cannot open blob {digest}: {problem.strerror}") from problem
            return self._descriptors[digest]

    # --- manifests

    def put_manifest(self, tag: str, manifest: dict[str, Any]) -> Descriptor:
        """Store a manifest and let `tag` name it, atomically. What the tag named before stays, without a name.

        The caller has stored every blob that the manifest names. Raises StorageFault.
        """
        check_tag(tag)
        stored = self.put_blob(canonical.dumps(manifest))
        entry: dict[str, Any] = {"mediaType": MANIFEST_TYPE, "digest": stored.digest, "size": stored.size}
        if "artifactType" in manifest:
            entry["artifactType"] = manifest["artifactType"]
        entry["annotations"] = {REF_NAME: tag}
        with self._exclusive():
            entries = [e for e in map(_without_name(tag), self._entries()) if not _same_unnamed(e, stored.digest)]
            self._write_index([*entries, entry])
        return stored

    def resolve(self, name: str) -> ResolvedManifest:
        """The manifest that a tag, or a manifest's own `sha256:` digest, names; its digest is checked.

        Raises NotFoundError, MalformedError, IntegrityRefused.
        """
        entries = self._entries()
        for entry in entries:
            # a name in index.json may look like a digest, and is not to be taken for one
            if name == (entry["digest"] if _DIGEST.fullmatch(name) else _name_of(entry)):
                return ResolvedManifest(entry["digest"], self.get_blob(entry["digest"], MAX_MANIFEST_BYTES))
        tags = ", ".join(sorted(n for n in map(_name_of, entries) if n)) or "none"
        raise NotFoundError(f"{self.path} has no package tagged {name!r}", hint=f"tags there: {tags}")

    def manifests(self) -> Iterator[ResolvedManifest]:
        """Every manifest listed in the layout, tagged or not, newest entry first. Raises as `resolve` does."""
        for entry in reversed(self._entries()):
            yield ResolvedManifest(entry["digest"], self.get_blob(entry["digest"], MAX_MANIFEST_BYTES))

    def _entries(self) -> list[dict[str, Any]]:
        what = f"{self.path}/index.json"
        try:
            with (self.path / "index.json").open("rb") as file:
                data = file.read(MAX_INDEX_BYTES + 1)
        except FileNotFoundError as problem:
            raise NotFoundError(f"{what} does not exist") from problem
        except OSError as problem:
            raise StorageFault(f"cannot read {what}: {problem.strerror}") from problem
        content = canonical.loads(data, what, MAX_INDEX_BYTES)
        entries = content.get("manifests") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise MalformedError(f"{what}: expected an OCI image index with a list of manifests")
        for entry in entries:
            if not isinstance(entry.get("digest"), str) or not _DIGEST.fullmatch(entry["digest"]):
                raise MalformedError(f"{what}: a manifest without a sha256 digest")
            if not isinstance(entry.get("annotations", {}), dict):
                raise MalformedError(f"{what}: annotations that are no object")
        return entries

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        content = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
        write_atomic(self.path / "index.json", canonical.dumps(content))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the directory's lock, so that two writers of index.json do not undo each other."""
        with storage_errors(self.path):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    def _sweep(self) -> None:
        """Remove unfinished blobs whose writer is gone; a living writer holds a lock on its file."""
        for partial in self._blobs.glob(PARTIAL_PREFIX + "*"):
            with contextlib.suppress(OSError), partial.open("rb") as file:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()


def _open_regular(path: Path) -> int:
    """A descriptor for reading. OSError for what is no regular file; a pipe in a blob's place must not make us wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def _name_of(entry: dict[str, Any]) -> str:
    return str(entry.get("annotations", {}).get(REF_NAME, ""))


def _without_name(tag: str) -> Any:
    def strip(entry: dict[str, Any]) -> dict[str, Any]:
        if _name_of(entry) != tag:
            return entry
        annotations = {k: v for k, v in entry["annotations"].items() if k != REF_NAME}
        return {k: v for k, v in entry.items() if k != "annotations"} | (
            {"annotations": annotations} if annotations else {}
        )

    return strip


def _same_unnamed(entry: dict[str, Any], digest: str) -> bool:
    return entry["digest"] == digest and not _name_of(entry)
