"""Building a package: a disk image in, a tagged launch package out (docs/spec/package-v1.md, sections 4 to 7).

The tag appears last; until then the target holds nothing that looks like a package, and after an interruption nothing
of this build at all. Memory: a few MiB a thread, whatever the size of the image.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sealvm.crypto.dsse import sign_envelope
from sealvm.crypto.ec import Signer
from sealvm.package.chunks import Compression, EncryptedChunk
from sealvm.package.expression import Expression
from sealvm.package.header import PAYLOAD_TYPE, Header, parse_header, timestamp
from sealvm.package.keys import KEY_BYTES, commitment
from sealvm.package.manifest import EMPTY_CONFIG, build_manifest
from sealvm.package.recipients import ProfileKeyRef, build_recipients
from sealvm.package.settings import Settings
from sealvm.package.writer import Contents, PackageWriter, Plan, Slots
from sealvm.provisioner.image import ImageSource
from sealvm.secret import Secret
from sealvm.store.layout import OciLayout
from sealvm.store.reference import Reference

DEFAULT_CHUNK_BYTES = 128 * 1024
"""Chosen by measurement: docs/adr/0001-package-format.md."""

_RUN_BYTES = 2 * 1024 * 1024
_Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build. A new lineage (16 random bytes, a UUID) begins when none is given."""

    lineage: bytes | None = None
    version: int = 1
    chunk_bytes: int = DEFAULT_CHUNK_BYTES
    compression: Compression = field(default_factory=Compression)
    settings: Settings = field(default_factory=Settings)


DEFAULT_OPTIONS = BuildOptions()


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was built; sizes in bytes. `used_bytes` counts chunks that are not zero, `stored_bytes` all blobs."""

    reference: str
    header_digest: str
    manifest_digest: str
    lineage: str
    version: int
    disk_bytes: int
    used_bytes: int
    stored_bytes: int
    recipients_bytes: int
    seconds: float


def build_package(
    image: Path,
    target: Reference,
    *,
    expression: Expression,
    profile_keys: Sequence[ProfileKeyRef],
    signer: Signer,
    options: BuildOptions = DEFAULT_OPTIONS,
    progress: _Progress | None = None,
) -> BuildReport:
    """Encrypt `image` for the profiles of `expression`, sign it, and tag it in the target's layout.

    K and every pack key are drawn afresh. `progress(done_bytes, total_bytes)` is called as the image is read. Raises
    ImageError, InputError (a profile without key), MalformedError (chunk size), StorageFault; then nothing is tagged,
    and every blob that was begun is gone. The image must not change meanwhile: a change of its size or modification
    time is an ImageError.
    """
    started = time.monotonic()
    key = Secret(os.urandom(KEY_BYTES))
    lineage = options.lineage or uuid.uuid4().bytes
    with ImageSource(image) as source:
        plan = Plan(lineage, options.version, source.disk_bytes, options.chunk_bytes)
        build_recipients(key, "00" * 32, profile_keys, expression)  # refuses a missing key before the long work
        with OciLayout.create(target.directory) as layout, layout.transaction() as blobs:
            with PackageWriter(blobs, key, plan, options.compression) as writer:
                _encrypt_image(source, plan, writer, progress or _silent)
                source.check_unchanged()
                contents = writer.finish()
            header = _header(plan, key, contents, expression, options.settings)
            recipients = blobs.put_blob(build_recipients(key, header.digest, profile_keys, expression))
            envelope = blobs.put_blob(sign_envelope(PAYLOAD_TYPE, header.encode(), signer))
            layout.put_blob(EMPTY_CONFIG)
            manifest = layout.put_manifest(target.tag, build_manifest(header, envelope, recipients))
            blobs.keep()
    parts = [recipients.size, envelope.size, manifest.size, header.index.blob.size, *(p.size for p in header.packs)]
    return BuildReport(
        reference=str(target),
        header_digest=header.digest,
        manifest_digest=manifest.digest,
        lineage=header.lineage.hex(),
        version=header.version,
        disk_bytes=header.disk_bytes,
        used_bytes=contents.used_bytes,
        stored_bytes=sum(parts),
        recipients_bytes=recipients.size,
        seconds=time.monotonic() - started,
    )


def _header(plan: Plan, key: Secret, contents: Contents, expression: Expression, settings: Settings) -> Header:
    header = Header(
        lineage=plan.lineage,
        version=plan.version,
        created=timestamp(datetime.now(UTC)),
        disk_bytes=plan.disk_bytes,
        chunk_bytes=plan.chunk_bytes,
        index=contents.index,
        packs=contents.packs,
        commitment=commitment(key, plan.lineage, plan.version),
        expression=expression,
        settings=settings,
    )
    return parse_header(header.encode())  # what no reader would accept is not signed


def _encrypt_image(source: ImageSource, plan: Plan, writer: PackageWriter, progress: _Progress) -> None:
    """Read and encrypt in threads, a bounded number of runs ahead; append in the order of the disk."""
    threads = len(os.sched_getaffinity(0))
    pending: deque[tuple[Slots, Future[list[EncryptedChunk | None]]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="encrypt")
    try:
        for first, count in _runs(source, plan):
            slots = writer.slots(first, count)
            pending.append((slots, pool.submit(_encrypt_run, source, plan, writer, slots)))
            if len(pending) > threads + 1:
                _append(writer, plan, progress, *pending.popleft())
        while pending:
            _append(writer, plan, progress, *pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
    progress(plan.disk_bytes, plan.disk_bytes)


def _runs(source: ImageSource, plan: Plan) -> Iterator[tuple[int, int]]:
    """(first chunk, count) for all chunks that hold data, at most _RUN_BYTES of them at a time."""
    per_run = max(1, _RUN_BYTES // plan.chunk_bytes)
    next_chunk = 0
    for offset, length in source.data_runs():
        first = max(next_chunk, offset // plan.chunk_bytes)
        next_chunk = max(next_chunk, -(-(offset + length) // plan.chunk_bytes))
        for start in range(first, next_chunk, per_run):
            yield start, min(per_run, next_chunk - start)


def _encrypt_run(source: ImageSource, plan: Plan, writer: PackageWriter, slots: Slots) -> list[EncryptedChunk | None]:
    chunks: list[EncryptedChunk | None] = []
    zeros = bytes(plan.chunk_bytes)
    for position in range(slots.count):
        offset = (slots.first + position) * plan.chunk_bytes
        plaintext = source.read(offset, min(plan.chunk_bytes, plan.disk_bytes - offset))
        empty = plaintext == (zeros if len(plaintext) == len(zeros) else zeros[: len(plaintext)])
        chunks.append(None if empty else writer.encrypt(slots, position, plaintext))
    return chunks


def _append(
    writer: PackageWriter, plan: Plan, progress: _Progress, slots: Slots, future: Future[list[EncryptedChunk | None]]
) -> None:
    for position, chunk in enumerate(future.result()):
        if chunk is not None:
            writer.append(slots, position, chunk)
    progress(min((slots.first + slots.count) * plan.chunk_bytes, plan.disk_bytes), plan.disk_bytes)


def _silent(done_bytes: int, total_bytes: int) -> None:
    """Progress that nobody watches."""
