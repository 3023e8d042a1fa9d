from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.lab.image import build_grub_image
from tests.host import guests


@pytest.fixture(scope="session")
def grub_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk that boots to a boot loader's greeting in a fraction of a second."""
    return build_grub_image(tmp_path_factory.mktemp("image") / "grub.raw", guests.GREETING)


@pytest.fixture
def runtime() -> Iterator[Path]:
    with guests.runtime_dir() as path:
        yield path
