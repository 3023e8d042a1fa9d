"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.network import Network


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """Where the Debian system of the lab's guests is kept between runs; made on first use."""
    cache = Path(__file__).parents[1] / ".sealvm" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


@pytest.fixture(scope="session")
def enrolled_network() -> Iterator[Network]:
    """A lab that is enrolled, approved and trusted; one for all tests of this process, made in some 8 s."""
    from tests.e2e.network import make_network

    with make_network() as made:
        yield made


@pytest.fixture
def network(enrolled_network: Network) -> Iterator[Network]:
    """That network, whose hosts have no instance after the test, and whose parts all run again."""
    yield enrolled_network
    enrolled_network.clear()
    for host in enrolled_network.lab.hosts():
        enrolled_network.lab.power_on(host)
    enrolled_network.lab.start_authority()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes go by their argument's name: random ones would give a test another name in every process."""
    return argname if isinstance(val, bytes) else None
