"""`sealvm host lease` against a real authority and TPM."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from sealvm.authority import approve, profiles
from sealvm.cli.main import cli
from sealvm.errors import NotFoundError, StateRefused
from sealvm.host.config import HostConfig
from sealvm.host.enroll import enroll
from sealvm.host.sync import sync
from sealvm.protocol.operator import ApplyRequest, ApproveRequest
from tests.authority.conftest import (  # noqa: F401  (fixtures)
    host,
    initialised,
    lab_ca,
    manufactured,
    network,
    server,
)
from tests.authority.harness import ACTOR, Authority, boot, document, ek_digest_of

pytestmark = pytest.mark.tpm


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["host", *arguments], standalone_mode=False)


@pytest.fixture
def leased(network: Authority, host: HostConfig) -> HostConfig:  # noqa: F811
    text = document("leased") + "lease: 1h\n"
    profiles.apply_profile(network.context, ACTOR, ApplyRequest(document=text))
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    return host


def approved(network: Authority, config: HostConfig) -> str:  # noqa: F811
    approve.approve(network.context, ACTOR, "leased", ApproveRequest(host="host-1"))
    sync(config.directory)
    return str(config.directory)


def test_renew_list_and_explain(network: Authority, leased: HostConfig) -> None:  # noqa: F811
    directory = approved(network, leased)
    assert "no lease" in run("lease", "list", directory).output
    (row,) = json.loads(run("lease", "renew", directory, "--json").output)
    assert (row["profile"], row["state"], row["seconds"]) == ("leased", "good", 3600)
    assert "lease until" in run("lease", "list", directory).output
    assert "lease until" in run("explain", directory, "--profile", "leased").output
    before = run("lease", "list", directory, "--json").output
    assert run("lease", "renew", directory, "--due", "--json").exit_code == 0
    assert run("lease", "list", directory, "--json").output == before
    boot(leased)
    assert "when the TPM lost power" in run("lease", "list", directory).output
    assert run("lease", "renew", directory, "--profile", "leased").exit_code == 0


def test_renew_of_a_profile_without_leases(network: Authority, leased: HostConfig) -> None:  # noqa: F811
    directory = approved(network, leased)
    result = run("lease", "renew", directory, "--profile", "measured")
    assert isinstance(result.exception, NotFoundError)


def test_renew_without_an_approved_state(network: Authority, leased: HostConfig) -> None:  # noqa: F811
    result = run("lease", "renew", str(leased.directory))
    assert result.exception is not None
    assert "no state is approved" in str(result.exception)
    assert not isinstance(result.exception, StateRefused)


def test_granted_is_for_operators(network: Authority, leased: HostConfig) -> None:  # noqa: F811
    assert run("lease", "renew", approved(network, leased)).exit_code == 0
    (network.directory / "endpoint.json").write_text(json.dumps({"url": network.context.settings.url}))
    result = run("lease", "granted", "--authority", str(network.directory), "--json")
    (row,) = json.loads(result.output)
    assert (row["host"], row["profile"], row["ended"], row["renewals"]) == ("host-1", "leased", False, 1)
