"""Shared by the tests of the authority and of hosts that enroll with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.host.config import HostConfig
from sealvm.lab.swtpm import LabCa, Swtpm, make_ca
from tests.authority.harness import Authority, Server, make_authority, make_host, make_tpm, open_authority


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an authority as `authority init` left it; tests copy it."""
    made = make_authority(tmp_path_factory.mktemp("initialised") / "authority")
    made.close()  # an open database has files beside it that come and go while tests copy the directory
    return made.directory


@pytest.fixture
def authority(initialised: Path, tmp_path: Path) -> Authority:
    """A fresh authority, not served."""
    shutil.copytree(initialised, tmp_path / "authority")
    return open_authority(tmp_path / "authority")


@pytest.fixture(scope="session")
def server(initialised: Path) -> Iterator[Server]:
    """One TLS socket for all authorities of this session."""
    server = Server(initialised)
    yield server
    server.stop()


@pytest.fixture
def network(server: Server, initialised: Path, tmp_path: Path, lab_ca: LabCa) -> Authority:
    """A fresh, served authority that accepts the lab's TPMs and has one profile."""
    shutil.copytree(initialised, tmp_path / "authority")
    authority = server.serve(tmp_path / "authority")
    authority.trust(lab_ca)
    authority.apply()
    return authority


@pytest.fixture(scope="session")
def lab_ca(tmp_path_factory: pytest.TempPathFactory) -> LabCa:
    """The CA of this session's software TPMs."""
    return make_ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def manufactured(tmp_path_factory: pytest.TempPathFactory, lab_ca: LabCa) -> Path:
    """The state of one TPM as it left the factory."""
    return make_tpm(tmp_path_factory.mktemp("m") / "tpm", lab_ca)


@pytest.fixture(scope="session")
def other_manufactured(tmp_path_factory: pytest.TempPathFactory, lab_ca: LabCa) -> Path:
    """The state of another TPM of the same maker."""
    return make_tpm(tmp_path_factory.mktemp("o") / "tpm", lab_ca)


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory, manufactured: Path, lab_ca: LabCa) -> Iterator[HostConfig]:
    """A host in the recorded good state."""
    config = make_host(tmp_path_factory.mktemp("h") / "a", manufactured, lab_ca, "good", "host-1")
    yield config
    Swtpm(config.directory / "tpm").stop()


@pytest.fixture
def other_host(
    tmp_path_factory: pytest.TempPathFactory, other_manufactured: Path, lab_ca: LabCa
) -> Iterator[HostConfig]:
    """Another host, in the tampered state."""
    config = make_host(tmp_path_factory.mktemp("h") / "b", other_manufactured, lab_ca, "tampered", "host-2")
    yield config
    Swtpm(config.directory / "tpm").stop()
