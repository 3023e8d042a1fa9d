"""Who is calling: operators by bearer token, hosts by their request key."""

from __future__ import annotations

from sealvm.authority.admission import check_admitted
from sealvm.authority.ports import Context
from sealvm.authority.records import HostRecord
from sealvm.authority.tokens import token_digest
from sealvm.crypto.labels import label_digest
from sealvm.errors import AccessRefused
from sealvm.protocol.proof import verify_proof


def operator_of(ctx: Context, token: str) -> str:
    """The operator who holds this bearer token; AccessRefused, the same for every wrong one."""
    with ctx.store.read() as tx:
        record = tx.operator_by_token(token_digest(token))
    if record is None:
        raise AccessRefused(
            "operator token refused", hint="use the token in the authority's directory, file operator-token"
        )
    return f"operator {record.name}"


def host_of(ctx: Context, proof: str, method: str, path: str, body: bytes) -> HostRecord:
    """The enrolled host that made this very request now, and has not made it before; AccessRefused.

    1. the proof verifies and is for this method, URL, body and minute (protocol.proof);
    2. its key is the request key of an enrolled host, certified by that host's AK when it enrolled;
    3. it was not used before;
    4. that host may take part still (authority.admission): EnrollmentRefused otherwise.
    """
    now = ctx.now()
    urls = frozenset(f"{origin}{path}" for origin in ctx.settings.origins)
    verified = verify_proof(proof, method, urls, body, now)  # 1
    with ctx.store.read() as tx:  # strangers never take the one write lock that all wait for
        host = tx.host_by_request_key(verified.keyid)
    if host is None:  # 2
        raise AccessRefused("request proof refused: its key is not an enrolled host's", hint="enroll this host")
    proof_id = label_digest("proof-id", verified.keyid.encode(), verified.jti.encode())
    with ctx.store.write() as tx:
        if not tx.use_proof(proof_id, now, verified.expires):  # 3
            raise AccessRefused("request proof refused: it was used before", hint="make a new proof for each request")
    with ctx.store.read() as tx:
        check_admitted(tx, host)  # 4
    return host
