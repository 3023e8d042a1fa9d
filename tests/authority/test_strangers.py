"""What somebody without token and without an enrolled key can make the authority do: nothing that others wait for."""

from __future__ import annotations

import os

import pytest

from sealvm.authority.operators import host_of
from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import AccessRefused
from sealvm.protocol.proof import make_proof
from tests.authority.harness import Authority


def test_a_strangers_proof_does_not_take_the_write_lock(authority: Authority) -> None:
    ctx, stranger = authority.context, SoftwareSigner.generate()
    url = f"{ctx.settings.url}/v1/sync"
    proof = make_proof(stranger, "POST", url, b"", now=authority.clock(), jti=os.urandom(16))
    with ctx.store.write(), pytest.raises(AccessRefused, match="not an enrolled host's"):
        host_of(ctx, proof, "POST", "/v1/sync", b"")
