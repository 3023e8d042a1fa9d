"""The client against a served authority: pinned TLS, errors that come back as themselves, an authority that is away."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealvm.authority.serve import serve
from sealvm.client.authority import AuthorityClient
from sealvm.client.operator import operator_client
from sealvm.errors import (
    AccessRefused,
    AuthorityAwayFault,
    ConflictError,
    EnvironmentFault,
    InputError,
    MalformedError,
    NotFoundError,
    SealvmError,
)
from sealvm.secret import Secret
from tests.authority.harness import Authority, Server, document, make_authority, operator_of


@pytest.fixture
def authority(server: Server, initialised: Path, tmp_path: Path) -> Authority:
    shutil.copytree(initialised, tmp_path / "authority")
    return server.serve(tmp_path / "authority")


@pytest.fixture
def client(authority: Authority) -> Iterator[AuthorityClient]:
    with operator_of(authority) as client:
        yield client


def test_calls(client: AuthorityClient) -> None:
    assert client.healthy()
    assert client.roots() == client.hosts() == client.provisioners() == []
    assert client.apply_profile(document()).outcome == "created"
    assert [view.name for view in client.profiles()] == ["measured"]
    assert client.profile("measured").pcrs == (0, 2, 4, 7, 9)
    ticket = client.register_host("host-1", "ab" * 32, valid_seconds=60)
    assert client.issue_ticket("host-1").token != ticket.token
    assert client.host("host-1").state == "registered"
    assert len(client.audit(after=1, limit=2)) == 2
    assert client.bundle()


def test_errors_come_back_as_themselves(client: AuthorityClient) -> None:
    with pytest.raises(NotFoundError, match="profile 'x' does not exist") as missing:
        client.profile("x")
    assert missing.value.hint
    client.register_host("host-1", "ab" * 32)
    with pytest.raises(ConflictError):
        client.register_host("host-1", "cd" * 32)
    with pytest.raises(MalformedError):
        client.apply_profile("name: x")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a?b", "ä", "a b"])
def test_names_never_change_the_path(client: AuthorityClient, name: str) -> None:
    with pytest.raises(InputError, match="is not a name"):
        client.profile(name)


def test_requests_are_checked_before_they_are_sent(client: AuthorityClient) -> None:
    with pytest.raises(MalformedError, match="ek_digest"):
        client.register_host("host-1", "xyz")


def test_wrong_token_and_none(authority: Authority) -> None:
    settings = authority.context.settings
    with (
        AuthorityClient(settings.url, settings.ca_pem, token=Secret(b"wrong")) as client,
        pytest.raises(AccessRefused, match="operator token refused"),
    ):
        client.hosts()
    with AuthorityClient(settings.url, settings.ca_pem) as client, pytest.raises(AccessRefused):
        client.hosts()


def test_another_ca(authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other").context.settings
    with (
        AuthorityClient(authority.context.settings.url, other.ca_pem) as client,
        pytest.raises(AuthorityAwayFault, match="certificate"),
    ):
        client.bundle()


def test_a_name_the_certificate_lacks(authority: Authority) -> None:
    settings = authority.context.settings
    with (
        AuthorityClient(settings.url.replace("127.0.0.1", "localhost"), settings.ca_pem) as client,
        pytest.raises(AuthorityAwayFault, match="certificate"),
    ):
        client.bundle()


def test_a_ca_that_is_none() -> None:
    with pytest.raises(InputError, match="PEM"):
        AuthorityClient("https://127.0.0.1:1", "junk")


def test_nobody_listens(authority: Authority) -> None:
    with (
        AuthorityClient("https://127.0.0.1:1", authority.context.settings.ca_pem) as client,
        pytest.raises(AuthorityAwayFault, match="does not answer") as away,
    ):
        client.bundle()
    assert "launches without it" in away.value.hint


def test_something_else_answers(authority: Authority) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def babble() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"SSH-2.0-hello\r\n")

    thread = threading.Thread(target=babble)
    thread.start()
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    with AuthorityClient(url, authority.context.settings.ca_pem) as client, pytest.raises(AuthorityAwayFault):
        client.bundle()
    thread.join()
    listener.close()


@pytest.mark.slow
def test_a_process_of_its_own(initialised: Path, tmp_path: Path) -> None:
    """It announces itself, answers, takes its announcement back at the end, and finds its data again."""
    directory = tmp_path / "authority"
    shutil.copytree(initialised, directory)
    for name in ("first", "second"):
        process = _start(directory)
        try:
            endpoint = json.loads((directory / "endpoint.json").read_text())
            assert endpoint["pid"] == process.pid
            with operator_client(directory) as client:
                assert client.apply_profile(document(name=name)).outcome == "created"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
        assert not (directory / "endpoint.json").exists()
    with pytest.raises(AuthorityAwayFault, match="not being served"):
        operator_client(directory)


@pytest.mark.slow
def test_killed_in_the_middle(initialised: Path, tmp_path: Path) -> None:
    directory = tmp_path / "authority"
    shutil.copytree(initialised, directory)
    process = _start(directory)
    try:
        with operator_client(directory) as client:
            client.apply_profile(document())
            process.kill()
            process.wait(timeout=20)
            with pytest.raises(AuthorityAwayFault):
                client.profiles()
    finally:
        process.kill()
    again = _start(directory)
    try:
        with operator_client(directory) as client:
            assert [view.name for view in client.profiles()] == ["measured"]
    finally:
        again.terminate()
        again.wait(timeout=20)


def _start(directory: Path) -> subprocess.Popen[bytes]:
    (directory / "endpoint.json").unlink(missing_ok=True)
    code = "import sys, pathlib; from sealvm.authority.serve import serve; serve(pathlib.Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not (directory / "endpoint.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("host", "names", "refusal", "message"),
    [
        ("0.0.0.0", [], InputError, "needs a name"),
        ("127.0.0.1", ["bad name"], InputError, "neither a host name"),
        ("127.0.0.1", ["-"], InputError, "neither a host name"),
        ("192.0.2.1", [], EnvironmentFault, "cannot listen"),
    ],
)
def test_addresses_that_do_not_work(
    initialised: Path, host: str, names: list[str], refusal: type[SealvmError], message: str
) -> None:
    with pytest.raises(refusal, match=message):
        serve(initialised, host, 0, names=names)


def test_a_port_that_is_taken(initialised: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(EnvironmentFault, match="cannot listen"):
        serve(initialised, "127.0.0.1", taken.getsockname()[1])


def test_serving_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no authority"):
        serve(tmp_path)
