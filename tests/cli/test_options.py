"""Where a command looks for its host, authority and provisioner, in this order: option, environment, lab, system."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sealvm.cli import options
from sealvm.errors import NotFoundError


@click.command()
@options.host_option
@options.authority_option
@options.provisioner_option
def places(host_dir: Path, authority_dir: Path, provisioner_dir: Path) -> None:
    click.echo(json.dumps([str(host_dir), str(authority_dir), str(provisioner_dir)]))


def found(*arguments: str, env: dict[str, str] | None = None) -> list[str]:
    done = CliRunner().invoke(places, arguments, env=env, catch_exceptions=False)
    shown: list[str] = json.loads(done.output)
    return shown


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("SEALVM_HOST", "SEALVM_AUTHORITY", "SEALVM_PROVISIONER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SEALVM_LAB", str(tmp_path / "lab"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "lab"


def test_without_a_lab_everything_is_the_systems(lab: Path) -> None:
    assert found() == ["/var/lib/sealvm/host", "/var/lib/sealvm/authority", "/var/lib/sealvm/provisioner"]


def test_a_lab_that_is_there_gives_authority_and_provisioner(lab: Path) -> None:
    (lab / "hosts" / "host-1").mkdir(parents=True)
    assert found() == ["/var/lib/sealvm/host", str(lab / "authority"), str(lab / "provisioner")]
    assert found("--host", "host-1")[0] == str(lab / "hosts" / "host-1")


def test_the_environment_comes_before_the_lab_and_the_option_before_both(lab: Path) -> None:
    (lab / "hosts" / "host-1").mkdir(parents=True)
    env = {"SEALVM_HOST": "host-1", "SEALVM_AUTHORITY": "/a", "SEALVM_PROVISIONER": "/p"}
    assert found(env=env) == [str(lab / "hosts" / "host-1"), "/a", "/p"]
    assert found("--authority", "/b", "--provisioner", "/q", env=env)[1:] == ["/b", "/q"]


def test_a_path_names_a_host_folder_anywhere(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert found("--host", "./mine")[0] == str(tmp_path / "mine")
    assert found("--host", "mine")[0] == str(tmp_path / "mine")


@pytest.mark.parametrize("name", ["host-9", "../host-1", "/nowhere"])
def test_a_host_that_is_nowhere_is_not_found(lab: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="neither a host of the lab"):
        options.host_dir_of(name)


def test_the_lab_is_below_this_folder_unless_said_otherwise(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options.lab_dir() == lab
    monkeypatch.delenv("SEALVM_LAB")
    assert options.lab_dir() == lab.parent / ".sealvm" / "lab"
