"""Runs inside the measured host: unwrap a package's key by its TPM, and read the whole disk, every chunk verified.

Prints JSON: the plaintext disk's SHA-256, or the refusal with its explanation.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from sealvm.errors import StateRefused
from sealvm.host.config import load_host
from sealvm.host.explain import refusal_lines
from sealvm.host.unlock import accepted_provisioners, open_keys
from sealvm.package.expression import leaves_of
from sealvm.package.open import open_package
from sealvm.package.reader import PackageReader
from sealvm.store.layout import OciLayout
from sealvm.store.reference import parse_reference

STEP_BYTES = 1 << 20


def main(host_dir: str, name: str) -> dict[str, object]:
    config, reference = load_host(Path(host_dir)), parse_reference(name)
    opener = open_keys(config)
    with OciLayout.open(reference.directory) as layout:
        package = open_package(layout, reference.tag, accepted_provisioners(opener.bundle))
        try:
            key = package.unwrap(opener)
        except StateRefused as refusal:
            lines = refusal_lines(config, leaves_of(package.header.expression))
            return {"refused": refusal.code, "message": refusal.message, "lines": lines}
        reader = PackageReader(package.header, key, layout)
        digest = hashlib.sha256()
        for offset in range(0, reader.disk_bytes, STEP_BYTES):
            digest.update(reader.read_at(offset, min(STEP_BYTES, reader.disk_bytes - offset)))
    return {"sha256": digest.hexdigest(), "disk_bytes": reader.disk_bytes, "tpm_seconds": opener.tpm_seconds}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
