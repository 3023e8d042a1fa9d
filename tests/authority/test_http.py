"""The HTTP surface: who may call what, what it answers to bad input, and that errors say the right amount."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sealvm import errors
from sealvm.authority.http.app import create_app
from sealvm.authority.http.limits import BODY_BYTES_LIMIT, BodyLimit
from sealvm.authority.http.problems import problem_of, status_of
from sealvm.client.problems import error_of
from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import Fault, SealvmError
from sealvm.protocol.messages import MESSAGE_BYTES_LIMIT
from sealvm.protocol.proof import make_proof
from tests.authority.harness import Authority, Server, document


def tree(kind: type[SealvmError] = SealvmError) -> Iterator[type[SealvmError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


@pytest.fixture
def authority(server: Server, initialised: Path, tmp_path: Path) -> Authority:
    shutil.copytree(initialised, tmp_path / "authority")
    return server.serve(tmp_path / "authority")


@pytest.fixture
def client(authority: Authority) -> Iterator[httpx.Client]:
    settings = authority.context.settings
    with httpx.Client(base_url=settings.url, verify=ssl.create_default_context(cadata=settings.ca_pem)) as client:
        yield client


@pytest.fixture
def operator(authority: Authority, client: httpx.Client) -> httpx.Client:
    client.headers["Authorization"] = f"Bearer {authority.operator_token.reveal().decode()}"
    return client


@pytest.mark.parametrize("kind", list(tree()))
def test_every_error_crosses_and_comes_back(kind: type[SealvmError]) -> None:
    error = kind("this is why", hint="do that", check="the-check", pcr=9)
    problem = problem_of(error)
    assert 400 <= status_of(error) < 600
    assert problem.code == kind.code
    back = error_of(problem.status, problem.model_dump_json().encode(), "https://x")
    assert type(back) is kind
    if issubclass(kind, Fault) or kind is SealvmError:
        assert "this is why" not in back.message
        assert back.fields == {}
        assert status_of(error) >= 500
    else:
        assert (back.message, back.hint, back.fields) == ("this is why", "do that", {"check": "the-check", "pcr": 9})
        assert status_of(error) < 500


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"type": 1}', b"\xff"])
def test_an_answer_that_is_no_problem(body: bytes) -> None:
    assert isinstance(error_of(502, body, "https://x"), errors.AuthorityAwayFault)


def test_an_unknown_code() -> None:
    problem = problem_of(errors.InputError("x")).model_copy(update={"code": "new-kind"})
    assert isinstance(error_of(400, problem.model_dump_json().encode(), "https://x"), errors.AuthorityAwayFault)


OPERATOR_ROUTES = [
    ("POST", "/v1/roots"),
    ("GET", "/v1/roots"),
    ("POST", "/v1/hosts"),
    ("GET", "/v1/hosts"),
    ("GET", "/v1/hosts/host-1"),
    ("POST", "/v1/hosts/host-1/ticket"),
    ("POST", "/v1/profiles"),
    ("GET", "/v1/profiles"),
    ("GET", "/v1/profiles/measured"),
    ("POST", "/v1/profiles/measured/approvals"),
    ("POST", "/v1/profiles/measured/predicted"),
    ("POST", "/v1/profiles/measured/withdraw"),
    ("POST", "/v1/profiles/measured/rotate"),
    ("POST", "/v1/profiles/measured/retire"),
    ("POST", "/v1/profiles/measured/cells"),
    ("POST", "/v1/profiles/measured/rules"),
    ("GET", "/v1/profiles/measured/rules"),
    ("GET", "/v1/queue"),
    ("POST", "/v1/evidence"),
    ("GET", "/v1/cells"),
    ("POST", "/v1/hosts/host-1/cell"),
    ("GET", "/v1/approver/requests"),
    ("POST", "/v1/approver/answers"),
    ("POST", "/v1/rewrap"),
    ("POST", "/v1/provisioners"),
    ("GET", "/v1/provisioners"),
    ("GET", "/v1/leases"),
    ("GET", "/v1/audit"),
    ("POST", "/v1/roots/ab12/remove"),
    ("POST", "/v1/registrations"),
    ("POST", "/v1/pending"),
    ("GET", "/v1/pending"),
    ("POST", "/v1/pending/host-1/approve"),
    ("POST", "/v1/hosts/host-1/replace"),
    ("POST", "/v1/hosts/host-1/remove"),
    ("POST", "/v1/bars"),
    ("GET", "/v1/bars"),
    ("POST", "/v1/bars/ab34/remove"),
]
PLACEHOLDERS = {"host-1": "{name}", "measured": "{name}", "ab12": "{prefix}", "ab34": "{bar_id}"}


def test_no_route_is_forgotten(authority: Authority) -> None:
    paths = create_app(authority.context).openapi()["paths"]
    operations = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    public = {
        ("GET", "/healthz"),
        ("GET", "/v1/bundle"),
        ("POST", "/v1/enroll/start"),
        ("POST", "/v1/enroll/finish"),
        ("POST", "/v1/sync"),
        ("POST", "/v1/sync/challenge"),
        ("POST", "/v1/sync/inventory"),
        ("POST", "/v1/leases"),
        ("POST", "/v1/leases/challenge"),
    }
    named = {(m, "/".join(PLACEHOLDERS.get(part, part) for part in p.split("/"))) for m, p in OPERATOR_ROUTES}
    assert operations == public | named


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer", "Basic YTpi", "Bearer " + "A" * 43])
def test_operators_must_show_their_token(client: httpx.Client, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in OPERATOR_ROUTES:
        answer = client.request(method, path, headers=headers, json=_body(path) if method == "POST" else None)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"]
        assert answer.json()["code"] == "access-refused"


TRUST = (
    "/v1/profiles/measured/",
    "/v1/evidence",
    "/v1/hosts/host-1/cell",
    "/v1/approver/",
    "/v1/rewrap",
)
"""Routes whose body is not looked at before the token is."""


def _body(path: str) -> dict[str, object]:
    if path.endswith(("ticket", "remove")):
        return {}
    if path.endswith(("approve", "replace")):
        return {"ek_digest": "ab" * 32}
    if path.endswith("approvals"):
        return {"host": "host-1"}
    if path in {found for _, found in OPERATOR_ROUTES if found.startswith(TRUST)}:
        return {}
    return {
        "/v1/registrations": {"hosts": [{"name": "host-1", "ek_digest": "ab" * 32}]},
        "/v1/pending": {"name": "host-1"},
        "/v1/bars": {"manufacturer": "STM"},
        "/v1/roots": {"certificate_pem": "x", "trust_class": "lab"},
        "/v1/hosts": {"name": "host-1", "ek_digest": "ab" * 32},
        "/v1/profiles": {"document": document()},
        "/v1/provisioners": {"name": "b", "point": "04" + "00" * 64, "profiles": ["measured"]},
    }[path]


@pytest.mark.parametrize("path", ["/v1/sync", "/v1/sync/challenge"])
@pytest.mark.parametrize("proof", [None, "", "a.b.c"])
def test_hosts_must_prove_their_key(client: httpx.Client, path: str, proof: str | None) -> None:
    state = {"attest": "AA==", "signature": "AA==", "event_log": ""}
    body = {"session": "0" * 32, "state": state}
    answer = client.post(path, headers={} if proof is None else {"DPoP": proof}, json=body)
    assert answer.status_code == 401


def test_a_stranger_learns_nothing_about_hosts(authority: Authority, client: httpx.Client) -> None:
    """A well-made proof of an unknown key is answered alike, whatever hosts there are."""

    def ask() -> bytes:
        url = authority.context.settings.url + "/v1/sync/challenge"
        proof = make_proof(
            SoftwareSigner.generate(), "POST", url, b"", now=authority.clock(), jti=secrets.token_bytes(16)
        )
        return client.post("/v1/sync/challenge", headers={"DPoP": proof}).content

    before = ask()
    authority.register("host-1", "ab" * 32)
    assert ask() == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"name": "a"}',
        b'{"name": "a", "name": "b", "ek_digest": "' + b"ab" * 32 + b'"}',
        b'{"name": "a", "ek_digest": "' + b"ab" * 32 + b'", "more": 1}',
        b'{"name": "A", "ek_digest": "' + b"ab" * 32 + b'"}',
        b'{"name": "a", "ek_digest": "' + b"AB" * 32 + b'"}',
        b'{"name": "a", "ek_digest": NaN}',
        b"[" * 100_000,
        b'"\xff"',
    ],
)
def test_malformed_bodies(operator: httpx.Client, body: bytes) -> None:
    answer = operator.post("/v1/hosts", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "malformed"
    assert operator.get("/v1/hosts").json() == []


def test_what_was_sent_is_not_repeated(client: httpx.Client) -> None:
    answer = client.post("/v1/enroll/start", json={"token": "SECRET TOKEN SECRET", "ek_public": "SECRET"})
    assert answer.status_code == 400
    assert "SECRET" not in answer.text


def test_bodies_without_end(operator: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(MESSAGE_BYTES_LIMIT // 65536 + 2):
            yield b" " * 65536

    for content in (endless(), b" " * (MESSAGE_BYTES_LIMIT + 1)):
        answer = operator.post("/v1/profiles", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"


def test_faults_say_nothing_to_peers(authority: Authority, operator: httpx.Client) -> None:
    shutil.rmtree(authority.directory / "custody")
    answer = operator.post("/v1/profiles", json={"document": document()})
    assert answer.status_code in (500, 503)
    assert str(authority.directory) not in answer.text
    with authority.context.store.read() as tx:
        assert tx.profiles() == []


def test_errors_without_a_class_of_their_own(client: httpx.Client) -> None:
    calls = [("GET", "/nothing", 404), ("DELETE", "/v1/hosts", 405), ("GET", "/v1/enroll/start", 405)]
    for method, path, status in calls:
        answer = client.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status


def test_names_in_paths_are_only_looked_up(operator: httpx.Client) -> None:
    for name in ("x", "%2e%2e", "a%00b", "a" * 5000, "<script>", "%F0%9F%92%A9"):
        assert operator.get(f"/v1/profiles/{name}").status_code == 404
        assert operator.get(f"/v1/hosts/{name}").status_code == 404
        assert operator.post(f"/v1/hosts/{name}/ticket", json={}).status_code == 404


def test_the_bundle_is_public(client: httpx.Client) -> None:
    answer = client.get("/v1/bundle")
    assert answer.status_code == 200
    assert json.loads(answer.content)["payloadType"] == "application/vnd.sealvm.trust-bundle.v1+json"
    assert client.get("/healthz").json() == {"status": "ok"}


def test_openapi_describes_every_operation(client: httpx.Client) -> None:
    document = client.get("/v1/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), (method, path)
            assert path == "/healthz" or path.startswith("/v1/")


def test_working_through_the_api(operator: httpx.Client, tmp_path: Path) -> None:
    applied = operator.post("/v1/profiles", json={"document": document()})
    assert applied.status_code == 200
    assert applied.json()["outcome"] == "created"
    ticket = operator.post("/v1/hosts", json={"name": "host-1", "ek_digest": "ab" * 32}).json()
    assert set(ticket) == {"url", "ca_pem", "anchor", "host", "token", "expires"}
    assert operator.get("/v1/hosts/host-1").json()["state"] == "registered"
    assert operator.post("/v1/hosts", json={"name": "host-1", "ek_digest": "cd" * 32}).status_code == 409
    refused = operator.post("/v1/profiles/measured/approvals", json={"host": "host-1"})
    assert (refused.status_code, refused.json()["code"]) == (404, "not-found")
    assert [entry["sequence"] for entry in operator.get("/v1/audit?after=2&limit=2").json()] == [3, 4]
    assert operator.get("/v1/audit?limit=5000").status_code == 400


def test_bodies_that_never_end_in_time(authority: Authority) -> None:
    """The limit on time, with a short one, at the ASGI level: half a body, then nothing."""
    sent: list[dict[str, object]] = []
    parts = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> dict[str, object]:
        part = next(parts, None)
        if part is None:
            await asyncio.sleep(30)
        return part or {}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    app = create_app(authority.context)
    app.user_middleware.clear()
    limited = BodyLimit(app, seconds=0.05)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/enroll/start",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
        "http_version": "1.1",
    }
    asyncio.run(limited(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


def test_event_logs_fit_where_they_are_sent_and_nowhere_else(operator: httpx.Client) -> None:
    padding = b" " * (BODY_BYTES_LIMIT + 1)
    for path, status in (("/v1/enroll/start", 413), ("/v1/roots", 413), ("/v1/enroll/finish", 400)):
        answer = operator.post(path, content=padding, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, path


def test_the_specification_lists_exactly_these_routes(authority: Authority) -> None:
    text = (Path(__file__).parents[2] / "docs" / "spec" / "http-api-v1.md").read_text()
    listed = set(re.findall(r"^\| `(GET|POST) (/[^`]*)`", text, flags=re.MULTILINE)) - {("GET", "/v1/openapi.json")}
    paths = create_app(authority.context).openapi()["paths"]
    assert listed == {(method.upper(), path) for path, methods in paths.items() for method in methods}
