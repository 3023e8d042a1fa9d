"""Packages for tests, made of the package code alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from sealvm.crypto.dsse import sign_envelope
from sealvm.crypto.ec import SoftwareSigner
from sealvm.package.chunks import Compression
from sealvm.package.expression import Expression, ProfileLeaf, leaves_of
from sealvm.package.header import PAYLOAD_TYPE, Header
from sealvm.package.keys import commitment
from sealvm.package.manifest import EMPTY_CONFIG, build_manifest
from sealvm.package.open import VerifiedPackage, open_package
from sealvm.package.recipients import build_recipients
from sealvm.package.settings import Settings
from sealvm.package.writer import PackageWriter, Plan
from sealvm.secret import Secret

from .memory import MemoryStore, SoftwareKeys

CHUNK = 4096
FOR_P = ProfileLeaf("p")
ZSTD = Compression()


@dataclass
class Built:
    """A package, and everything an attacker or a host could want to know about it."""

    store: MemoryStore
    disk: bytes
    key: Secret
    header: Header
    signer: SoftwareSigner
    keys: SoftwareKeys = field(default_factory=SoftwareKeys)

    def open(self, tag: str = "v1") -> VerifiedPackage:
        return open_package(self.store, tag, {self.signer.point: None})


def build(
    disk: bytes,
    *,
    store: MemoryStore | None = None,
    signer: SoftwareSigner | None = None,
    expression: Expression = FOR_P,
    tag: str = "v1",
    lineage: bytes = bytes(range(16)),
    version: int = 1,
    chunk_bytes: int = CHUNK,
    compression: Compression = ZSTD,
    key: Secret | None = None,
) -> Built:
    store, signer, keys = store or MemoryStore(), signer or SoftwareSigner.generate(), SoftwareKeys()
    key = key or Secret(os.urandom(32))
    plan = Plan(lineage, version, len(disk), chunk_bytes)
    with PackageWriter(store, key, plan, compression) as writer:
        for number in range(plan.chunk_count):
            chunk = disk[number * chunk_bytes : (number + 1) * chunk_bytes]
            if any(chunk):
                slots = writer.slots(number, 1)
                writer.append(slots, 0, writer.encrypt(slots, 0, chunk))
        contents = writer.finish()
    header = Header(
        lineage=lineage,
        version=version,
        created="2026-11-23T12:00:00Z",
        disk_bytes=len(disk),
        chunk_bytes=chunk_bytes,
        index=contents.index,
        packs=contents.packs,
        commitment=commitment(key, lineage, version),
        expression=expression,
        settings=Settings(),
    )
    leaves = [keys.add(name) for name in dict.fromkeys(leaves_of(expression))]
    recipients = store.put_blob(build_recipients(key, header.digest, leaves, expression))
    envelope = store.put_blob(sign_envelope(PAYLOAD_TYPE, header.encode(), signer))
    store.put_blob(EMPTY_CONFIG)
    store.put_manifest(tag, build_manifest(header, envelope, recipients))
    return Built(store, disk, key, header, signer, keys)
