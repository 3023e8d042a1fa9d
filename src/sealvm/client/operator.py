"""An operator's client from the folder that says where the authority is.

    DIR/endpoint.json     {"url": …}, written by `authority serve`
    DIR/tls/ca.pem        the CA of its TLS certificate
    DIR/operator-token    the operator's bearer token, mode 0600
    DIR/anchor.pub        the public key of its trust bundles, PEM

An authority's own folder has these; for another machine an operator copies the four files.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sealvm.client.authority import AuthorityClient
from sealvm.crypto import canonical
from sealvm.crypto.ec import point_from_pem
from sealvm.errors import AuthorityAwayFault, MalformedError, NotFoundError, StorageFault
from sealvm.secret import Secret
from sealvm.statements.bundle import TrustBundle, verify_bundle

ANCHOR_FILE = "anchor.pub"
_FILE_LIMIT_BYTES = 64 * 1024


def operator_client(directory: Path) -> AuthorityClient:
    """A client for the authority that `directory` names, with the operator's token.

    Raises NotFoundError when there is no authority there, AuthorityAwayFault when none is being served, MalformedError.
    """
    if not (directory / "tls" / "ca.pem").exists():
        raise NotFoundError(
            f"no authority is known in {directory}",
            hint="make one with `sealvm authority init`, or name its folder with --authority",
        )
    if not (directory / "endpoint.json").exists():
        raise AuthorityAwayFault(
            f"the authority in {directory} is not being served", hint="start it with: sealvm authority serve"
        )
    endpoint = canonical.loads(_read(directory / "endpoint.json"), "endpoint.json", _FILE_LIMIT_BYTES)
    url = endpoint.get("url") if isinstance(endpoint, dict) else None
    if not isinstance(url, str):
        raise MalformedError(f"{directory / 'endpoint.json'}: has no url")
    token = Secret(_read(directory / "operator-token").strip())
    return AuthorityClient(url, _read(directory / "tls" / "ca.pem").decode("ascii", "replace"), token=token)


def trusted_bundle(directory: Path, envelope: bytes | None = None) -> TrustBundle:
    """The authority's present trust bundle, or the one in `envelope`, verified under the pinned anchor and fresh.

    Raises as `operator_client` and `statements.bundle.verify_bundle`.
    """
    anchor = point_from_pem(_read(directory / ANCHOR_FILE))
    if envelope is None:
        with operator_client(directory) as client:
            envelope = client.bundle()
    return verify_bundle(envelope, anchor, datetime.now(UTC), floor_version=0)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT_BYTES + 1)
    except FileNotFoundError as problem:
        raise NotFoundError(f"{path} does not exist", hint="copy it from the authority's folder") from problem
    except OSError as problem:
        raise StorageFault(f"{path} cannot be read: {problem.strerror}") from problem
    if len(data) > _FILE_LIMIT_BYTES:
        raise MalformedError(f"{path}: more than {_FILE_LIMIT_BYTES} bytes")
    return data
