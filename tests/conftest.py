"""What all tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """Where the Debian system of the lab's guests is kept between runs; made on first use."""
    cache = Path(__file__).parents[1] / ".sealvm" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    return cache
