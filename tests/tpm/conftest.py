"""One TPM with one host for all tests of this package; tests that change it make their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.lab.swtpm import LabCa, Swtpm, make_ca
from tests.tpm.rig import Host, Owner, make_host, started_tpm


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCa:
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def swtpm(tmp_path_factory: pytest.TempPathFactory, ca: LabCa) -> Iterator[Swtpm]:
    with started_tpm(tmp_path_factory.mktemp("t") / "host", ca) as started:
        yield started


@pytest.fixture(scope="session")
def host(swtpm: Swtpm) -> Host:
    return make_host(swtpm, Owner())


@pytest.fixture
def own_swtpm(tmp_path: Path, ca: LabCa) -> Iterator[Swtpm]:
    with started_tpm(tmp_path / "own", ca) as started:
        yield started
