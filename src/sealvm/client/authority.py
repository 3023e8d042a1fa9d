"""Calls of the authority's HTTP API, one method a route (docs/spec/http-api-v1.md)."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter

from sealvm.client.problems import error_of
from sealvm.client.request_auth import HostAuth, OperatorAuth
from sealvm.crypto import canonical
from sealvm.crypto.ec import Signer
from sealvm.errors import AuthorityAwayFault, InputError
from sealvm.protocol.lease import LeaseAnswer, LeaseChallenge, LeaseRequest, LeaseView
from sealvm.protocol.messages import (
    EnrollChallenge,
    EnrollFinish,
    EnrollStart,
    JoinTicket,
    SyncAnswer,
    SyncChallenge,
    SyncRequest,
)
from sealvm.protocol.operator import (
    ApplyRequest,
    ApprovalView,
    ApproveRequest,
    AuditEntryView,
    HostView,
    ProfileView,
    ProvisionerRequest,
    ProvisionerView,
    RegisterRequest,
    RootRequest,
    RootView,
    TicketRequest,
)
from sealvm.secret import Secret
from sealvm.statements.encoding import parse_message

ANSWER_BYTES_LIMIT = 48 * 1024 * 1024
TIMEOUT_SECONDS = 30.0
CONNECT_SECONDS = 5.0

T = TypeVar("T")


class AuthorityClient:
    """One authority, seen by an operator (`token`), a host (`signer`), or anybody.

    Trusts only certificates under `ca_pem`; follows no redirect and no proxy setting. Every method raises the error
    that the authority raised, AuthorityAwayFault when it does not answer, and MalformedError when it answers nonsense.
    A request is never repeated: the caller may, since every call is idempotent or refused the second time.
    """

    def __init__(self, url: str, ca_pem: str, *, token: Secret | None = None, signer: Signer | None = None) -> None:
        self._url = url.rstrip("/")
        auth = OperatorAuth(token) if token is not None else HostAuth(signer) if signer is not None else None
        self._client = httpx.Client(
            base_url=self._url,
            verify=_tls(ca_pem),
            auth=auth,
            timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS),
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # hosts

    def enroll_start(self, message: EnrollStart) -> EnrollChallenge:
        """Steps 1 and 2 of enrollment."""
        return self.post("/v1/enroll/start", message, EnrollChallenge)

    def enroll_finish(self, message: EnrollFinish) -> SyncAnswer:
        """Steps 3 and 4 of enrollment. The answer is not to be believed before `protocol.answer.accept_answer`."""
        return self.post("/v1/enroll/finish", message, SyncAnswer)

    def sync_challenge(self) -> SyncChallenge:
        """What to quote; as an enrolled host."""
        return self.post("/v1/sync/challenge", None, SyncChallenge)

    def sync(self, message: SyncRequest) -> SyncAnswer:
        """What is new; as an enrolled host. The answer is not to be believed before `accept_answer`."""
        return self.post("/v1/sync", message, SyncAnswer)

    def lease_challenge(self) -> LeaseChallenge:
        """What to quote for a lease; as an enrolled host."""
        return self.post("/v1/leases/challenge", None, LeaseChallenge)

    def renew_lease(self, message: LeaseRequest) -> LeaseAnswer:
        """A lease for one profile key; as an enrolled host. The caller checks it by `protocol.lease.accept_answer`."""
        return self.post("/v1/leases", message, LeaseAnswer)

    def bundle(self) -> bytes:
        """The trust bundle's envelope. The caller verifies it under the pinned anchor."""
        return self._send("GET", "/v1/bundle", b"")

    def healthy(self) -> bool:
        """Whether the process answers."""
        return bool(self._loads(self._send("GET", "/healthz", b"")) == {"status": "ok"})

    # operators

    def add_root(self, certificate_pem: str, trust_class: str) -> list[RootView]:
        """Accept each CA certificate of a PEM bundle as an EK root of this class."""
        return self.post(
            "/v1/roots", _made(RootRequest, certificate_pem=certificate_pem, trust_class=trust_class), list[RootView]
        )

    def roots(self) -> list[RootView]:
        """The accepted EK roots."""
        return self.get("/v1/roots", list[RootView])

    def register_host(self, name: str, ek_digest: str, valid_seconds: int = 86400) -> JoinTicket:
        """Register a host's EK (hex digest); its join ticket."""
        request = _made(RegisterRequest, name=name, ek_digest=ek_digest, valid_seconds=valid_seconds)
        return self.post("/v1/hosts", request, JoinTicket)

    def issue_ticket(self, name: str, valid_seconds: int = 86400) -> JoinTicket:
        """Another join ticket for a registered host."""
        return self.post(
            f"/v1/hosts/{_path(name)}/ticket", _made(TicketRequest, valid_seconds=valid_seconds), JoinTicket
        )

    def hosts(self) -> list[HostView]:
        """All hosts."""
        return self.get("/v1/hosts", list[HostView])

    def host(self, name: str) -> HostView:
        """One host."""
        return self.get(f"/v1/hosts/{_path(name)}", HostView)

    def apply_profile(self, document: str) -> ProfileView:
        """Create a profile or replace its document."""
        return self.post("/v1/profiles", _made(ApplyRequest, document=document), ProfileView)

    def profiles(self) -> list[ProfileView]:
        """All profiles."""
        return self.get("/v1/profiles", list[ProfileView])

    def profile(self, name: str) -> ProfileView:
        """One profile."""
        return self.get(f"/v1/profiles/{_path(name)}", ProfileView)

    def approve(self, profile: str, host: str, *, dry_run: bool = False) -> list[ApprovalView]:
        """Approve the last verified state of `host`, for every epoch of `profile`; or say what that would do."""
        request = _made(ApproveRequest, host=host, dry_run=dry_run)
        return self.post(f"/v1/profiles/{_path(profile)}/approvals", request, list[ApprovalView])

    def trust_provisioner(self, name: str, point: bytes, profiles: tuple[str, ...]) -> ProvisionerView:
        """Accept a provisioner's packages for `profiles`."""
        request = _made(ProvisionerRequest, name=name, point=point, profiles=profiles)
        return self.post("/v1/provisioners", request, ProvisionerView)

    def provisioners(self) -> list[ProvisionerView]:
        """The accepted provisioners."""
        return self.get("/v1/provisioners", list[ProvisionerView])

    def leases(self) -> list[LeaseView]:
        """The newest lease of each host and profile key."""
        return self.get("/v1/leases", list[LeaseView])

    def audit(self, after: int = 0, limit: int = 1000) -> list[AuditEntryView]:
        """Entries of the audit chain after a sequence number."""
        return self.get(f"/v1/audit?after={after}&limit={limit}", list[AuditEntryView])

    # the one way out

    def get(self, path: str, answer: type[T]) -> T:
        """A GET of `path` (made of checked names), its answer read as `answer`."""
        return self._parsed(self._send("GET", path, b""), answer)

    def post(self, path: str, message: BaseModel | None, answer: type[T]) -> T:
        """A POST of `message` to `path` (made of checked names), its answer read as `answer`."""
        body = b"" if message is None else message.model_dump_json().encode()
        return self._parsed(self._send("POST", path, body), answer)

    def _parsed(self, body: bytes, answer: type[T]) -> T:
        return parse_message(TypeAdapter(answer), self._loads(body), f"answer of {self._url}")

    def _loads(self, body: bytes) -> Any:
        return canonical.loads(body, f"answer of {self._url}", ANSWER_BYTES_LIMIT)

    def _send(self, method: str, path: str, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            with self._client.stream(method, path, content=body, headers=headers) as response:
                received = bytearray()
                for part in response.iter_bytes():
                    received += part
                    if len(received) > ANSWER_BYTES_LIMIT:
                        raise AuthorityAwayFault(f"{self._url} answered with more than {ANSWER_BYTES_LIMIT} bytes")
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise AuthorityAwayFault(
                f"the authority at {self._url} does not answer: {_reason(error)}",
                hint="what was sealed and approved before still launches without it",
            ) from error
        if status != 200:
            raise error_of(status, bytes(received), self._url)
        return bytes(received)


def _tls(ca_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise InputError(
            "the authority's CA certificate is not PEM", hint="use the ca_pem of the join ticket"
        ) from error
    return context


def _made(kind: type[T], **fields: object) -> T:
    """A request from what the caller gave; MalformedError names the field that is wrong."""
    return parse_message(TypeAdapter(kind), fields, "request")


def _path(name: str) -> str:
    if not name or not all(character.isascii() and (character.isalnum() or character in "-_.") for character in name):
        raise InputError(f"{name[:64]!r} is not a name", hint="names are lower-case letters, digits and '-'")
    return name


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
