"""An authority in a directory: which file holds what, made once, opened at each start.

    authority.db              SQLite: everything but keys
    custody/  credential      the private keys, and what they are wrapped under (custody.files)
    tls/ca.pem                certificate of the private CA
    anchor.pub                public key of the trust bundle, PEM: what hosts and provisioners pin
    operator-token            the first operator's bearer token, mode 0600
    endpoint.json             {"url", "pid"} of the running process (authority.serve)

The directory is mode 0700. Losing `credential` or `custody/` loses every profile key: keep backups of both, apart.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from sealvm.authority.init import create_keys, initialise
from sealvm.authority.ports import BUNDLE_KEY, TLS_CA_KEY, Context, Settings
from sealvm.authority.sql.store import SqlStore
from sealvm.authority.tls import make_ca
from sealvm.authority.tokens import TOKEN_BYTES, encode_token
from sealvm.crypto.ec import spki_pem
from sealvm.custody.files import FileCustody
from sealvm.errors import ConflictError, NotFoundError, StorageFault
from sealvm.store.atomic import write_atomic

FIRST_OPERATOR = "admin"


def create(directory: Path, approver_point: bytes | None = None) -> None:
    """Make an authority in `directory`: keys, CA, database, operator token, first trust bundle.

    `approver_point`: an approver whose private key is kept offline; without it that key is made here as well.
    ConflictError when there is one. The database appears last, complete; a run that was interrupted can be repeated.
    """
    database = directory / "authority.db"
    if database.exists():
        raise ConflictError(f"there is an authority in {directory} already")
    unfinished = directory / "authority.db.new"
    try:
        for path in (directory, directory / "tls"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in directory.glob(f"{unfinished.name}*"):
            leftover.unlink()
    except OSError as error:
        raise StorageFault(f"{directory} cannot be prepared: {error.strerror}") from error
    custody = FileCustody.initialise(directory / "custody", directory / "credential")
    create_keys(custody, approver=approver_point is None)
    write_atomic(directory / "tls" / "ca.pem", make_ca(custody.scalar(TLS_CA_KEY), datetime.now(UTC)).encode(), 0o644)
    write_atomic(directory / "anchor.pub", spki_pem(custody.signer(BUNDLE_KEY).point).encode(), 0o644)
    token = encode_token(secrets.token_bytes(TOKEN_BYTES))
    write_atomic(directory / "operator-token", token.reveal() + b"\n", 0o600)
    store = SqlStore.create(unfinished)
    initialise(
        _context(directory, custody, store, "https://127.0.0.1", frozenset()), FIRST_OPERATOR, token, approver_point
    )
    store.close()
    try:
        unfinished.rename(database)
    except OSError as error:
        raise StorageFault(f"{database} cannot be written: {error.strerror}") from error


def open_context(directory: Path, url: str, origins: Iterable[str]) -> Context:
    """The authority in `directory`, as it is known under `url` and `origins`; NotFoundError when there is none."""
    if not (directory / "authority.db").is_file():
        raise NotFoundError(f"there is no authority in {directory}", hint="make one with `sealvm authority init`")
    custody = FileCustody(directory / "custody", directory / "credential")
    return _context(directory, custody, SqlStore(directory / "authority.db"), url, frozenset(origins))


def _context(directory: Path, custody: FileCustody, store: SqlStore, url: str, origins: frozenset[str]) -> Context:
    try:
        ca_pem = (directory / "tls" / "ca.pem").read_text()
    except OSError as error:
        raise StorageFault(f"{directory / 'tls' / 'ca.pem'} cannot be read: {error.strerror}") from error
    return Context(
        store=store,
        custody=custody,
        settings=Settings(url=url, origins=origins, ca_pem=ca_pem),
        clock=lambda: datetime.now(UTC),
        random=secrets.token_bytes,
    )
