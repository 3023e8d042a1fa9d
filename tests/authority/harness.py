"""An authority in a temporary directory, in this process, over real SQLite, custody and (where asked) TLS sockets."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from sealvm.authority import profiles, register, roots
from sealvm.authority.http.app import create_app
from sealvm.authority.local import create, open_context
from sealvm.authority.ports import TLS_CA_KEY, Context
from sealvm.authority.serve import listen
from sealvm.authority.sql.store import SqlStore
from sealvm.authority.tls import server_context
from sealvm.client.authority import AuthorityClient
from sealvm.host.config import HostConfig, save_host
from sealvm.host.enroll import read_ek_digest
from sealvm.lab.network import write_recording
from sealvm.lab.recording import load_recording
from sealvm.lab.swtpm import LabCa, Swtpm, manufacture, replay_pcrs
from sealvm.protocol.messages import JoinTicket
from sealvm.protocol.operator import ApplyRequest, ProfileView, RegisterRequest, RootRequest
from sealvm.secret import Secret
from sealvm.tcg.eventlog import extends, parse_event_log

ACTOR = "operator test"
PROFILE = """\
name: {name}
description: test
pcrs: [{pcrs}]
trust: [{trust}]
requirements:
  - name: cmdline-exact
    says: the kernel starts with the approved options
    fact: kernel.cmdline
    equals: {cmdline}
"""
GOOD_CMDLINE = "root=/dev/vda ro lockdown=integrity initrd=initrd"


def document(
    name: str = "measured", pcrs: str = "0, 2, 4, 7, 9", trust: str = "lab", cmdline: str = GOOD_CMDLINE
) -> str:
    """A profile the recorded good boot satisfies."""
    return PROFILE.format(name=name, pcrs=pcrs, trust=trust, cmdline=cmdline)


class Clock:
    """A clock that tests can turn; starts at the real time."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


@dataclass
class Authority:
    """One authority and what tests do with it."""

    directory: Path
    context: Context
    clock: Clock

    def close(self) -> None:
        """Close the database; the authority is not used afterwards."""
        store = self.context.store
        assert isinstance(store, SqlStore)
        store.close()

    def apply(self, **parts: str) -> ProfileView:
        return profiles.apply_profile(self.context, ACTOR, ApplyRequest(document=document(**parts)))

    def trust(self, ca: LabCa, trust_class: str = "lab") -> None:
        request = RootRequest.model_validate({"certificate_pem": ca.root.read_text(), "trust_class": trust_class})
        roots.add_roots(self.context, ACTOR, request)

    def register(self, name: str, ek_digest: str) -> JoinTicket:
        request = RegisterRequest(name=name, ek_digest=bytes.fromhex(ek_digest))
        return register.register_host(self.context, ACTOR, request)

    @property
    def operator_token(self) -> Secret:
        return Secret((self.directory / "operator-token").read_bytes().strip())


def make_authority(directory: Path, url: str = "https://127.0.0.1:8443") -> Authority:
    """A fresh authority under `directory`."""
    create(directory)
    return open_authority(directory, url)


def open_authority(directory: Path, url: str = "https://127.0.0.1:8443") -> Authority:
    clock = Clock()
    opened = open_context(directory, url, [url])
    context = Context(opened.store, opened.custody, opened.settings, clock, secrets.token_bytes)
    return Authority(directory, context, clock)


class Server:
    """TLS on a free port of 127.0.0.1, in a thread of this process, for one authority of the same CA after another."""

    def __init__(self, directory: Path) -> None:
        self._listener = listen("127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.app: FastAPI | None = None
        authority = open_authority(directory)
        ctx = authority.context
        tls = server_context(ctx.custody.scalar(TLS_CA_KEY), ctx.settings.ca_pem, ["127.0.0.1"], datetime.now(UTC))
        authority.close()
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            ssl_context_factory=lambda _c, _d: tls,
            log_config=None,
            access_log=False,
            lifespan="off",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)

    def serve(self, directory: Path) -> Authority:
        """Serve the authority in `directory` from now on."""
        authority = open_authority(directory, self.url)
        self.app = create_app(authority.context)
        return authority

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)
        self._listener.close()


@contextmanager
def served(directory: Path) -> Iterator[Authority]:
    """The authority in `directory`, served for the length of a block."""
    server = Server(directory)
    try:
        yield server.serve(directory)
    finally:
        server.stop()


def operator_of(authority: Authority) -> AuthorityClient:
    """A client with the operator's token."""
    settings = authority.context.settings
    return AuthorityClient(settings.url, settings.ca_pem, token=authority.operator_token)


def make_host(directory: Path, manufactured: Path, ca: LabCa, recording: str, name: str) -> HostConfig:
    """A host directory with a running swtpm (state copied from `manufactured`) that booted as `recording`."""
    (directory / "tpm").mkdir(parents=True)
    for file in manufactured.iterdir():
        if file.is_file() and file.name.startswith("tpm2-00"):
            shutil.copy(file, directory / "tpm" / file.name)
    tpm = Swtpm(directory / "tpm")
    write_recording(directory, load_recording(recording))
    shutil.copyfile(ca.intermediate, directory / "ek-chain.pem")
    config = HostConfig(
        directory=directory,
        name=name,
        tcti=tpm.tcti,
        eventlog=directory / "eventlog.bin",
        preimages=directory / "preimages.json",
        ek_chain=directory / "ek-chain.pem",
    )
    save_host(config)
    boot(config)
    return config


def boot(config: HostConfig) -> None:
    """Power the host's TPM on and replay its event log."""
    tpm = Swtpm(config.directory / "tpm")
    tpm.power_cycle()
    replay_pcrs(tpm.tcti, extends(parse_event_log(config.eventlog.read_bytes())))


def make_tpm(directory: Path, ca: LabCa) -> Path:
    """A manufactured TPM's state; about a second."""
    manufacture(directory, ca)
    return directory


def ek_digest_of(config: HostConfig) -> str:
    return read_ek_digest(config)


def preimages_json(preimages: tuple[bytes, ...]) -> str:
    return json.dumps([base64.b64encode(item).decode() for item in preimages])
