"""The commands of approvals, epochs and the offline approver, against a served authority and a host with a TPM."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sealvm.cli.main import cli
from sealvm.errors import ConflictError, NotFoundError
from sealvm.host.config import HostConfig
from sealvm.host.enroll import enroll
from sealvm.host.sync import sync
from sealvm.store.atomic import write_atomic
from tests.authority.conftest import (  # noqa: F401  fixtures
    host,
    initialised,
    lab_ca,
    manufactured,
    network,
    server,
)
from tests.authority.harness import Authority, ek_digest_of
from tests.authority.test_disks import Scene

pytestmark = pytest.mark.tpm


@pytest.fixture
def run(network: Authority):  # noqa: F811
    """Run a command with --json as this authority's operator; its result."""
    endpoint = json.dumps({"url": network.context.settings.url, "pid": os.getpid()})
    write_atomic(network.directory / "endpoint.json", endpoint.encode())

    def call(*words: object, operator: bool = True) -> Any:
        where = ["--authority", str(network.directory)] if operator else []
        arguments = [*map(str, words), *where, "--json"]
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)
        return json.loads(result.stdout)

    return call


def test_epochs_by_command(network: Authority, host: HostConfig, tmp_path: Path, run: Any) -> None:  # noqa: F811
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    (entry,) = run("profile", "queue", "measured")
    assert entry["satisfied"]
    (view,) = run("profile", "approve", "measured", "--state", entry["pcr_digest"][:16], "--dry-run")
    assert (view["outcome"], view["gaining"]) == ("dry-run", ["host-1"])
    saved = tmp_path / "evidence.json"
    run("host", "evidence", host.directory, "--out", saved, operator=False)
    (view,) = run("profile", "approve", "measured", "--evidence", saved)
    assert view["outcome"] == "signed"
    assert run("profile", "queue") == []
    assert run("profile", "rotate", "measured", "--dry-run")["dry_run"]
    assert [epoch["epoch"] for epoch in run("profile", "rotate", "measured")["epochs"]] == [2]
    assert run("profile", "cell", "add", "measured", "east", "--dry-run")["dry_run"]
    assert run("profile", "cell", "add", "measured", "east")["cell"] == "east"
    assert run("host", "assign", "host-1", "--cell", "east", "--dry-run")["dry_run"]
    assert [row["hosts"] for row in run("profile", "cell", "list", "measured")] == [["host-1"], []]
    assert run("host", "assign", "host-1", "--cell", "east")["profiles"] == ["measured"]
    assert [row["cell"] for row in run("profile", "cell", "list", "measured")] == ["", "east"]
    assert len(run("profile", "rule", "add", "measured", "firmware", "--match", "0,2,7")) == 3
    assert {row["state"] for row in run("profile", "rule", "list", "measured")} == {"active"}
    state = entry["pcr_digest"][:16]
    assert run("profile", "withdraw", "measured", "--state", state, "--dry-run")["losing"] == ["host-1"]
    sync(host.directory)
    assert run("profile", "retire", "measured", "--epoch", 1)["blocking"] == []
    with pytest.raises(ConflictError):
        run("profile", "retire", "measured", "--epoch", 1)
    carried = tmp_path / "bundle"
    exported = run("bundle", "export", "--out", carried)
    assert run("bundle", "import", host.directory, carried, operator=False)["version"] == exported["version"]
    with pytest.raises(ConflictError, match="in its custody"):
        run("approver", "request", "--out", tmp_path / "requests")
    shown = CliRunner().invoke(cli, ["profile", "show", "measured", "--authority", str(network.directory)])
    assert "epoch 1: retired" in shown.output


def test_package_rewrap_by_command(network: Authority, host: HostConfig, tmp_path: Path, run: Any) -> None:  # noqa: F811
    scene = Scene(network, host, tmp_path)
    run("profile", "rotate", "measured")
    done = run("package", "rewrap", scene.reference)
    assert (done["before"], done["after"]) == (["measured epoch 1"], ["measured epoch 1", "measured epoch 2"])
    assert scene.package().header_digest == done["package"]
    with pytest.raises(NotFoundError):
        run("package", "rewrap", f"oci:{scene.reference.directory}:nothing")
