"""One manufactured swtpm for all tests of this package that want a second opinion."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tcg.tpm2tools import Tools


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    started = Tools.start(tmp_path_factory.mktemp("tpm"))
    yield started
    started.stop()
