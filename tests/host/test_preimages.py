"""Preimages: found from the kernel's options when the log has their digest, and never made up."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sealvm.attest.state import local_state
from sealvm.cli.host import host as host_command
from sealvm.errors import MalformedError, NotFoundError
from sealvm.host import config as config_module
from sealvm.host import preimages
from sealvm.host.config import HostConfig, load_host, save_host
from sealvm.host.explain import read_preimages
from sealvm.host.preimages import candidates, matching, present_preimages, write_preimages
from sealvm.lab.recording import load_recording
from sealvm.tcg.eventlog import parse_event_log

GOOD = load_recording("good")
OPTIONS = "root=/dev/vda ro lockdown=integrity initrd=initrd"


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    """A host that booted as the recording `good`, and has no preimages yet."""
    (tmp_path / "log").write_bytes(GOOD.eventlog)
    save_host(HostConfig(directory=tmp_path, name="host-1", eventlog=tmp_path / "log"))
    return load_host(tmp_path)


def cmdline(tmp_path: Path, text: str) -> Path:
    (tmp_path / "cmdline").write_text(text)
    return tmp_path / "cmdline"


def test_the_recorded_preimage_comes_out_of_the_options_alone(config: HostConfig) -> None:
    found = write_preimages(config, cmdline(config.directory, f"{OPTIONS}\n"))
    assert [(one.pcr, one.text) for one in found] == [(9, OPTIONS)]
    stored = load_host(config.directory)
    assert stored.preimages == config.directory / "preimages.json"
    assert read_preimages(stored) == GOOD.preimages
    state = local_state(GOOD.pcr_values, GOOD.eventlog, read_preimages(stored))
    assert state.evidence["kernel.cmdline"].value == OPTIONS


def test_a_preimages_file_named_by_the_operator_is_the_one_written(config: HostConfig) -> None:
    config = HostConfig(
        directory=config.directory, name="host-1", eventlog=config.eventlog, preimages=config.directory / "mine"
    )
    write_preimages(config, cmdline(config.directory, OPTIONS))
    assert [base64.b64decode(one) for one in json.loads((config.directory / "mine").read_text())] == [*GOOD.preimages]


@pytest.mark.parametrize("text", ["", "\n", "root=/dev/vda ro initrd=initrd\n", f"{OPTIONS} quiet\n", f" {OPTIONS}"])
def test_options_that_were_not_measured_are_refused_and_nothing_is_written(config: HostConfig, text: str) -> None:
    write_preimages(config, cmdline(config.directory, OPTIONS))
    before = (config.directory / "preimages.json").read_bytes()
    with pytest.raises(NotFoundError, match=r"no event of .* measured the kernel's options"):
        write_preimages(config, cmdline(config.directory, text))
    assert (config.directory / "preimages.json").read_bytes() == before


def test_options_that_are_no_text_have_no_candidates() -> None:
    assert candidates(b"root=\xff\xfe") == ()


def test_each_ending_is_tried_and_only_what_fits_is_kept() -> None:
    tried = candidates(OPTIONS.encode())
    assert len(tried) == len(set(tried)) == 4
    (found,) = matching(parse_event_log(GOOD.eventlog), tried)
    assert found.content == f"{OPTIONS}\0".encode("utf-16-le")


def test_a_missing_or_broken_log_is_named(config: HostConfig) -> None:
    where = cmdline(config.directory, OPTIONS)
    (config.directory / "log").write_bytes(GOOD.eventlog[:-1])
    with pytest.raises(MalformedError, match="event log"):
        write_preimages(config, where)
    (config.directory / "log").unlink()
    with pytest.raises(NotFoundError, match="log"):
        write_preimages(config, where)
    assert not (config.directory / "preimages.json").exists()


def test_the_command_says_which_event_it_explains(config: HostConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    where = cmdline(config.directory, OPTIONS)
    monkeypatch.setattr(preimages.write_preimages, "__defaults__", (where,))
    done = CliRunner().invoke(host_command, ["preimages", str(config.directory), "--json"], catch_exceptions=False)
    (told,) = json.loads(done.stdout)
    assert (told["pcr"], told["text"]) == (9, OPTIONS)


def test_what_the_file_has_besides_is_kept_while_this_boot_measured_it(config: HostConfig) -> None:
    log = parse_event_log(GOOD.eventlog)
    separator = next(event for event in log.events if event.type_name == "EV_SEPARATOR")
    path = config.directory / "preimages.json"
    listed = (separator.data, b"of another boot")
    path.write_text(json.dumps([base64.b64encode(one).decode() for one in listed]))
    save_host(dataclasses.replace(config, preimages=path))
    write_preimages(load_host(config.directory), cmdline(config.directory, OPTIONS))
    assert read_preimages(load_host(config.directory)) == (*GOOD.preimages, separator.data)


@pytest.fixture
def running(config: HostConfig, monkeypatch: pytest.MonkeyPatch) -> HostConfig:
    """The same host, whose log is the running system's, which was started with the recorded options."""
    monkeypatch.setattr(config_module, "SYSTEM_EVENT_LOG", str(config.eventlog))
    monkeypatch.setattr(preimages, "KERNEL_CMDLINE", cmdline(config.directory, OPTIONS))
    return config


def test_evidence_comes_with_the_preimages_of_this_boot(running: HostConfig) -> None:
    assert present_preimages(running) == GOOD.preimages
    path = load_host(running.directory).preimages
    assert path == running.directory / "preimages.json"
    path.write_text('["b2xk"]')  # of the boot before
    assert present_preimages(load_host(running.directory)) == GOOD.preimages
    path.write_text("broken")
    assert present_preimages(load_host(running.directory)) == GOOD.preimages
    before = path.stat().st_ino
    assert present_preimages(load_host(running.directory)) == GOOD.preimages
    assert path.stat().st_ino == before  # nothing new, nothing written


def test_a_host_json_that_was_edited_meanwhile_stays(running: HostConfig) -> None:
    save_host(dataclasses.replace(running, name="renamed"))
    present_preimages(running)
    assert load_host(running.directory).name == "renamed"


def test_a_file_that_stands_for_another_boot_is_taken_as_it_is(config: HostConfig) -> None:
    assert present_preimages(config) == ()
    path = config.directory / "preimages.json"
    path.write_text('["b2xk"]')
    named = dataclasses.replace(config, preimages=path)
    assert present_preimages(named) == (b"old",)
    assert path.read_text() == '["b2xk"]'


def test_options_that_were_not_measured_leave_the_file_as_it_is(running: HostConfig) -> None:
    cmdline(running.directory, f"{OPTIONS} quiet")
    assert present_preimages(running) == ()
    assert not (running.directory / "preimages.json").exists()
