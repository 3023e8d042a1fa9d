"""Join tickets: good once, for one host, and secret."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.e2e.network import Network

pytestmark = [pytest.mark.tpm, pytest.mark.slow]


def test_a_ticket_is_used_up(network: Network) -> None:
    ticket = network.ticket("host-3")
    kept = shutil.copy(ticket, network.work / "kept.ticket")
    assert ticket.stat().st_mode & 0o777 == 0o600
    assert network.run("host", "enroll", "host-3", "--ticket", str(ticket)).code == 0
    assert not ticket.exists()
    again = network.ask("host", "enroll", "host-3", "--ticket", str(kept))
    assert (again.code, again.error["code"]) == (25, "enrollment-refused")
    assert network.run("host", "sync", "host-3").code == 0


def test_a_made_up_ticket_is_refused(network: Network) -> None:
    ticket = network.ticket("host-3")
    made_up = json.loads(ticket.read_text()) | {"token": "A" * 43}
    ticket.write_text(json.dumps(made_up))
    refused = network.ask("host", "enroll", "host-3", "--ticket", str(ticket))
    assert (refused.code, refused.error["code"]) == (25, "enrollment-refused")
    assert ticket.exists()


def test_a_ticket_for_another_host_is_refused(network: Network) -> None:
    ticket = network.ticket("host-1")
    mistaken = network.ask("host", "enroll", "host-3", "--ticket", str(ticket))
    assert (mistaken.code, mistaken.error["code"]) == (10, "input")
    forged = json.loads(ticket.read_text()) | {"host": "host-3"}
    ticket.write_text(json.dumps(forged))
    refused = network.ask("host", "enroll", "host-3", "--ticket", str(ticket))
    assert (refused.code, refused.error["code"]) == (25, "enrollment-refused")
    assert network.run("host", "sync", "host-3").code == 0  # what it was before, it still is


def test_no_ticket_at_all_is_malformed(network: Network) -> None:
    empty = network.work / "empty.ticket"
    empty.write_text("{}")
    assert network.ask("host", "enroll", "host-3", "--ticket", str(empty)).error["code"] == "malformed"


def test_a_wrong_operator_token_opens_nothing(network: Network) -> None:
    stranger = network.work / "stranger"
    shutil.copytree(network.lab.authority_dir / "tls", stranger / "tls", dirs_exist_ok=True)
    for name in ("endpoint.json", "anchor.pub"):
        shutil.copy(network.lab.authority_dir / name, stranger / name)
    (stranger / "operator-token").write_text("B" * 43)
    for arguments in (("profile", "list"), ("host", "list"), ("provisioner", "list"), ("audit", "export")):
        refused = network.run(*arguments, "--authority", str(stranger))
        assert refused.code == 28, refused.err
        assert refused.out == ""
