"""What changes while a lease is asked for counts: cell, withdrawal, retirement, host, profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from sealvm.authority import cells, retire, rotate
from sealvm.authority import lease as authority_lease
from sealvm.errors import AccessRefused, NotFoundError, SealvmError, StateRefused
from sealvm.host.config import HostConfig
from sealvm.protocol.trust import AssignRequest, CellRequest, RetireRequest, RotateRequest, WithdrawRequest
from tests.authority.harness import ACTOR, Authority
from tests.authority.test_leases import NAME, Asking, _record, actions, apply, asking, ready, renew

__all__ = ["asking", "ready"]
pytestmark = pytest.mark.tpm


def assign(network: Authority) -> None:
    cells.add_cell(network.context, ACTOR, NAME, CellRequest(cell="east"))
    cells.assign_host(network.context, ACTOR, "host-1", AssignRequest(cell="east"))


def withdraw(network: Authority) -> None:
    with network.context.store.read() as tx:
        state = tx.approvals(NAME)[0].pcr_digest.hex()
    view = rotate.withdraw(network.context, ACTOR, NAME, WithdrawRequest(state=state))
    assert any("until their present leases end" in line for line in view.says)


def end(network: Authority) -> None:
    rotate.rotate(network.context, ACTOR, NAME, RotateRequest())
    retire.retire(network.context, ACTOR, NAME, RetireRequest(epoch=1))


def demand(network: Authority) -> None:
    apply(network, cmdline="something newer")


def leave(network: Authority) -> None:
    with network.context.store.write() as tx:
        tx.remove_host("host-1")


def reclass(network: Authority) -> None:
    with network.context.store.write() as tx:
        tx.update_host(dataclasses.replace(_record(network), trust_class="virtual"))


def test_a_host_of_a_cell_with_a_key_gets_no_lease_of_the_key_of_none(network: Authority, ready: HostConfig) -> None:
    cells.add_cell(network.context, ACTOR, NAME, CellRequest(cell="east"))
    renew(ready)  # the host is in no cell
    cells.assign_host(network.context, ACTOR, "host-1", AssignRequest(cell="east"))
    with pytest.raises(AccessRefused, match="not for host host-1"):
        renew(ready)
    cells.assign_host(network.context, ACTOR, "host-1", AssignRequest(cell=""))
    renew(ready)


def test_a_withdrawn_state_gets_no_lease_of_older_epochs(network: Authority, ready: HostConfig) -> None:
    renew(ready)
    withdraw(network)
    with pytest.raises(StateRefused, match="none of the 0 approved ones"):
        renew(ready)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (assign, AccessRefused),
        (withdraw, StateRefused),
        (end, NotFoundError),
        (demand, StateRefused),
        (leave, AccessRefused),
        (reclass, AccessRefused),
    ],
)
def test_changes_between_check_and_grant(
    network: Authority,
    asking: Asking,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Authority], None],
    error: type[SealvmError],
) -> None:
    request, host = asking.request(), _record(network)
    real = authority_lease.check_request

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        proved = real(*arguments, **named)
        change(network)
        return proved

    monkeypatch.setattr(authority_lease, "check_request", meanwhile)
    with pytest.raises(error):
        authority_lease.renew(network.context, host, request)
    assert "lease.granted" not in actions(network)
    assert ("lease.refused" in actions(network)) == (error is not NotFoundError)
    with network.context.store.read() as tx:
        assert list(tx.leases()) == []
