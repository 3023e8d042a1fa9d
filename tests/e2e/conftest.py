from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.network import Network, enrolled_network


@pytest.fixture(scope="session")
def shared_network() -> Iterator[Network]:
    """One network for all tests of this process: made in some 10 s."""
    with enrolled_network() as network:
        yield network


@pytest.fixture
def network(shared_network: Network) -> Iterator[Network]:
    """The network, whose hosts have no instance before and after a test, and whose parts all run."""
    yield shared_network
    shared_network.clear()
    for host in shared_network.lab.hosts():
        shared_network.lab.power_on(host)
    shared_network.lab.start_authority()
