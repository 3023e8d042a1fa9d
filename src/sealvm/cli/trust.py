"""The trust bundle for commands that are not a host's: from the authority, or from a file, under the pinned anchor."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sealvm.cli.files import read_bytes
from sealvm.client.operator import operator_client
from sealvm.crypto.ec import point_from_pem
from sealvm.host.files import read_limited
from sealvm.host.keyring import BUNDLE_LIMIT_BYTES
from sealvm.statements.bundle import TrustBundle, verify_bundle

ANCHOR_FILE = "anchor.pub"


def trusted_bundle(authority_dir: Path, file: Path | None) -> TrustBundle:
    """The bundle in `file`, or the authority's present one, verified under `authority_dir`/anchor.pub and fresh.

    Raises as `verify_bundle`, and NotFoundError when the anchor is not there.
    """
    anchor = point_from_pem(read_bytes(authority_dir / ANCHOR_FILE, "authority's anchor"))
    if file is not None:
        envelope = read_limited(file, BUNDLE_LIMIT_BYTES, hint="export it on a host: bundle.dsse")
    else:
        with operator_client(authority_dir) as client:
            envelope = client.bundle()
    return verify_bundle(envelope, anchor, datetime.now(UTC), floor_version=0)
