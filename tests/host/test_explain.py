"""Why a host can or cannot use a profile's key, asked of a host of a real network; read-only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sealvm.errors import MalformedError, NotFoundError, TpmAwayFault
from sealvm.host.config import HostConfig, load_host
from sealvm.host.explain import explain_host, measured_state, read_preimages, refusal_lines
from sealvm.lab.demo.stage import PROFILE
from tests.e2e.network import Network

pytestmark = pytest.mark.tpm


def own(network: Network, name: str, into: Path, **changes: str) -> HostConfig:
    """A copy of a host's folder with another configuration, to damage."""
    copy = network.copy_host(name, into / "host")
    (copy / "host.json").write_text(json.dumps(json.loads((copy / "host.json").read_text()) | changes))
    return load_host(copy)


def test_an_approved_state_is_usable(network: Network) -> None:
    (answer,) = explain_host(load_host(network.host_dir("host-1")))
    assert (answer.profile, answer.holds_key, answer.usable) == (PROFILE, True, True)
    assert answer.lines() == [f"this state is approved for profile '{PROFILE}': its key can be used"]


def test_another_state_names_pcr_and_event(network: Network) -> None:
    (answer,) = explain_host(load_host(network.host_dir("host-3")))
    assert (answer.holds_key, answer.usable) == (True, False)
    (difference,) = answer.to_json()["differences"]
    assert (difference["pcr"], difference["event_index"]) == (9, 21)
    assert answer.lines()[0] == "PCR 9 differs, from event 21: kernel command line"


def test_only_the_profiles_asked_for(network: Network) -> None:
    config = load_host(network.host_dir("host-1"))
    assert explain_host(config, ["nope"]) == []
    assert len(explain_host(config, [PROFILE, "nope"])) == 1


def test_a_host_without_the_key_is_told_to_sync(network: Network, tmp_path: Path) -> None:
    config = own(network, "host-1", tmp_path)
    for key in (config.directory / "keys").iterdir():
        key.unlink()
    (answer,) = explain_host(config)
    assert (answer.holds_key, answer.usable) == (False, False)
    assert answer.lines()[-1] == "to do: sealvm host sync"


def test_a_refusal_is_explained_or_the_reason_given_why_not(network: Network, tmp_path: Path) -> None:
    assert refusal_lines(load_host(network.host_dir("host-3")), [PROFILE])[0].startswith("PCR 9 differs")
    away = own(network, "host-3", tmp_path, tcti=f"swtpm:path={tmp_path / 'nobody'}")
    (line,) = refusal_lines(away, [PROFILE])
    assert line.startswith("no explanation can be given: ")


def test_a_tpm_that_is_away_is_a_fault(network: Network, tmp_path: Path) -> None:
    with pytest.raises(TpmAwayFault):
        explain_host(own(network, "host-1", tmp_path, tcti=f"swtpm:path={tmp_path / 'nobody'}"))


@pytest.mark.parametrize("content", [None, b"", b"\0" * 100])
def test_a_log_that_cannot_be_read_is_said_to_be(network: Network, tmp_path: Path, content: bytes | None) -> None:
    config = own(network, "host-1", tmp_path)
    config.eventlog.unlink()
    if content is not None:
        config.eventlog.write_bytes(content)
    with pytest.raises(NotFoundError if content is None else MalformedError):
        measured_state(config)


@pytest.mark.parametrize("content", ["", "7", "{}", '["no base64!"]', "[7]"])
def test_preimages_of_another_form_are_malformed(network: Network, tmp_path: Path, content: str) -> None:
    config = own(network, "host-1", tmp_path)
    assert config.preimages is not None
    config.preimages.write_text(content)
    with pytest.raises(MalformedError):
        read_preimages(config)
