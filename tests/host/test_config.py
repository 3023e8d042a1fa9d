from __future__ import annotations

from pathlib import Path

import pytest

from sealvm.errors import MalformedError, NotFoundError, StorageFault, TpmAwayFault
from sealvm.host.config import HostConfig, load_host, save_host
from sealvm.host.files import read_limited


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    directory = tmp_path / "host"
    config = HostConfig(
        directory=directory,
        name="host-1",
        tcti="swtpm:path=/run/tpm",
        eventlog=directory / "eventlog.bin",
        preimages=directory / "preimages.json",
        authority_url="https://localhost:8443",
        ca_file=Path("/etc/sealvm/ca.pem"),
    )
    save_host(config)
    assert load_host(directory) == config
    assert (directory / "host.json").stat().st_mode & 0o777 == 0o600


def test_a_directory_can_be_moved(tmp_path: Path) -> None:
    save_host(HostConfig(directory=tmp_path / "a", name="h", eventlog=tmp_path / "a" / "log"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert load_host(tmp_path / "b").eventlog == tmp_path / "b" / "log"


def test_name_alone_gives_the_systems_own_tpm(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text('{"name": "h"}')
    config = load_host(tmp_path)
    assert (config.tcti, config.preimages) == ("device:/dev/tpmrm0", None)
    assert str(config.eventlog) == "/sys/kernel/security/tpm0/binary_bios_measurements"


def test_missing_configuration_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"host\.json") as caught:
        load_host(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"name": "UPPER"}',
        '{"name": "h", "more": 1}',
        '{"name": "h", "tcti": 5}',
        '{"name":"h","name":"i"}',
    ],
)
def test_other_forms_are_malformed(tmp_path: Path, text: str) -> None:
    (tmp_path / "host.json").write_text(text)
    with pytest.raises(MalformedError, match=r"host\.json"):
        load_host(tmp_path)


def test_tpm_that_is_away(tmp_path: Path) -> None:
    config = HostConfig(directory=tmp_path, name="h", tcti=f"swtpm:path={tmp_path}/none")
    with pytest.raises(TpmAwayFault), config.open_tpm():
        pass


def test_reading_is_limited(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 11)
    assert read_limited(tmp_path / "file", 11) == b"x" * 11
    with pytest.raises(MalformedError, match="longer than 10"):
        read_limited(tmp_path / "file", 10)
    with pytest.raises(StorageFault):
        read_limited(tmp_path, 10)
