"""What all tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """Where the Debian system of the lab's guests is kept between runs; made on first use."""
    cache = Path(__file__).parents[1] / ".sealvm" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their length: random ones would give a test another name in every process."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None
