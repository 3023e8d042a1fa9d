"""Use cases without a TPM: roots, registration, profiles, provisioners, the bundle, the audit chain, the store."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from sealvm.authority import audit, bundle, profiles, provisioners, register, roots
from sealvm.authority.audit import Action
from sealvm.authority.local import create, open_context
from sealvm.authority.operators import host_of, operator_of
from sealvm.authority.ports import BUNDLE_KEY
from sealvm.authority.records import AuditRecord, HostRecord, OperatorRecord
from sealvm.authority.tokens import token_digest
from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import (
    AccessRefused,
    ConflictError,
    InputError,
    IntegrityRefused,
    MalformedError,
    NotFoundError,
    StorageFault,
)
from sealvm.lab.swtpm import LabCa
from sealvm.protocol.operator import (
    ApplyRequest,
    ProvisionerRequest,
    RegisterRequest,
    RootRequest,
    TicketRequest,
)
from sealvm.protocol.proof import make_proof
from sealvm.statements.bundle import TrustBundle, verify_bundle
from tests.authority.harness import ACTOR, Authority, document, open_authority


def current(authority: Authority) -> TrustBundle:
    anchor = authority.context.custody.signer(BUNDLE_KEY).point
    return verify_bundle(bundle.current(authority.context), anchor, authority.clock(), 0)


def entries(authority: Authority) -> Sequence[AuditRecord]:
    with authority.context.store.read() as tx:
        return tx.audit(0, 1000)


def test_files_of_a_new_authority(authority: Authority) -> None:
    assert (authority.directory / "operator-token").stat().st_mode & 0o077 == 0
    assert (authority.directory / "authority.db").stat().st_mode & 0o077 == 0
    assert (authority.directory / "anchor.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")
    assert current(authority).version == 1
    token = authority.operator_token.reveal()
    assert token not in (authority.directory / "authority.db").read_bytes()


def test_create_twice(authority: Authority) -> None:
    with pytest.raises(ConflictError, match="already"):
        create(authority.directory)


def test_create_after_a_crash(authority: Authority) -> None:
    """Without its database the rest is an unfinished first start: it is completed with the keys that are there."""
    anchor = authority.context.custody.signer(BUNDLE_KEY).point
    for leftover in authority.directory.glob("authority.db*"):
        leftover.unlink()
    (authority.directory / "authority.db.new").write_bytes(b"half")
    create(authority.directory)
    again = open_authority(authority.directory)
    assert again.context.custody.signer(BUNDLE_KEY).point == anchor
    assert operator_of(again.context, again.operator_token.reveal().decode()) == "operator admin"


def test_open_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no authority in"):
        open_context(tmp_path, "https://x", [])


# callers


@pytest.mark.parametrize("token", ["", "x", "A" * 43, "A" * 100_000])
def test_wrong_operator_tokens(authority: Authority, token: str) -> None:
    with pytest.raises(AccessRefused, match=r"^operator token refused$"):
        operator_of(authority.context, token)


def test_host_requests(authority: Authority) -> None:
    signer, stranger = SoftwareSigner.generate(), SoftwareSigner.generate()
    ctx = authority.context
    with ctx.store.write() as tx:
        tx.add_host(HostRecord("h", "0" * 32, bytes(32), ctx.now(), request_keyid=signer.keyid))
    url = ctx.settings.url + "/v1/sync"

    def ask(key: SoftwareSigner, jti: bytes) -> HostRecord:
        proof = make_proof(key, "POST", url, b"", now=authority.clock(), jti=jti)
        return host_of(ctx, proof, "POST", "/v1/sync", b"")

    assert ask(signer, bytes(16)).name == "h"
    with pytest.raises(AccessRefused, match="used before"):
        ask(signer, bytes(16))
    assert ask(signer, b"\1" * 16).name == "h"
    with pytest.raises(AccessRefused, match="not an enrolled host's"):
        ask(stranger, b"\2" * 16)


def test_the_replay_memory_is_bounded(authority: Authority) -> None:
    ctx = authority.context
    with ctx.store.write() as tx:
        now = ctx.now()
        for number in range(50):
            assert tx.use_proof(bytes([number]) * 32, now, now + timedelta(seconds=121))
        assert not tx.use_proof(bytes(32), now, now + timedelta(seconds=121))
        later = now + timedelta(seconds=122)
        assert tx.use_proof(bytes([99]) * 32, later, later + timedelta(seconds=121))
    with sqlite3.connect(authority.directory / "authority.db") as database:
        assert database.execute("select count(*) from proofs").fetchone() == (1,)


# roots, registration


def test_roots(authority: Authority, lab_ca: LabCa) -> None:
    authority.trust(lab_ca)
    assert [(view.trust_class, "swtpm" in view.subject) for view in roots.list_roots(authority.context)] == [
        ("lab", True)
    ]
    with pytest.raises(ConflictError):
        authority.trust(lab_ca, "hardware")


@pytest.mark.parametrize(
    ("pem", "refusal"),
    [
        (lambda ca: "", MalformedError),
        (lambda ca: "junk", MalformedError),
        (
            lambda ca: ca.root.read_text() + "-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----",
            MalformedError,
        ),
    ],
)
def test_roots_that_are_none(
    authority: Authority, lab_ca: LabCa, pem: Callable[[LabCa], str], refusal: type[InputError]
) -> None:
    with pytest.raises(refusal, match="EK root"):
        request = RootRequest(certificate_pem=pem(lab_ca), trust_class="lab")
        roots.add_roots(authority.context, ACTOR, request)
    assert roots.list_roots(authority.context) == []


def test_registration(authority: Authority) -> None:
    ticket = authority.register("host-1", "ab" * 32)
    assert ticket.host == "host-1"
    assert ticket.anchor == authority.context.custody.signer(BUNDLE_KEY).point
    with pytest.raises(ConflictError, match="registered as host host-1"):
        authority.register("host-2", "ab" * 32)
    with pytest.raises(ConflictError, match="host host-1 exists"):
        authority.register("host-1", "cd" * 32)
    with pytest.raises(NotFoundError):
        register.issue_ticket(authority.context, ACTOR, "host-2", TicketRequest())
    assert register.issue_ticket(authority.context, ACTOR, "host-1", TicketRequest()).token != ticket.token


def test_tokens_are_not_stored(authority: Authority) -> None:
    ticket = authority.register("host-1", "ab" * 32)
    for file in authority.directory.rglob("*"):
        if file.is_file():
            assert ticket.token.encode() not in file.read_bytes(), file


def test_a_ticket_is_used_once_by_whoever_comes_first(authority: Authority) -> None:
    digest = token_digest(authority.register("host-1", "ab" * 32).token)
    outcomes: list[bool] = []

    def take() -> None:
        store = open_authority(authority.directory).context.store
        with store.write() as tx:
            outcomes.append(tx.use_ticket(digest, authority.context.now()))

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 5 + [True]


# profiles


def test_profile_gets_a_key_and_is_published(authority: Authority) -> None:
    view = authority.apply()
    assert view.outcome == "created"
    epoch = current(authority).epoch_of("measured", 1, "")
    assert epoch is not None
    assert epoch.point == view.epochs[0].point
    assert epoch.selection == (0, 2, 4, 7, 9)
    with authority.context.store.read() as tx:
        name = tx.epochs("measured")[0].custody_name
    scalar = authority.context.custody.scalar(name)
    assert SoftwareSigner.from_scalar(scalar).point == view.epochs[0].point
    assert scalar.reveal() not in (authority.directory / "authority.db").read_bytes()


def test_applying_again(authority: Authority) -> None:
    first = authority.apply()
    assert authority.apply().outcome == "unchanged"
    assert current(authority).version == 2
    changed = authority.apply(cmdline="other")
    assert changed.outcome == "replaced"
    assert changed.epochs == first.epochs
    assert current(authority).version == 3
    assert "other" in current(authority).profiles[0].document


@pytest.mark.parametrize("parts", [{"pcrs": "0, 2, 4, 7, 9, 14"}, {"trust": "hardware, lab"}, {"trust": "hardware"}])
def test_what_a_key_was_sealed_under_does_not_change(authority: Authority, parts: dict[str, str]) -> None:
    authority.apply()
    with pytest.raises(ConflictError, match="rotation"):
        authority.apply(**parts)
    assert current(authority).version == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "profile"),
        ("name: x", "profile"),
        (document(pcrs="0, 2, 4, 7, 9, 10"), "PCR 10"),
        (document(pcrs="0, 2, 4, 7, 9, 16"), "PCR 16"),
        (document(name="Bad Name"), "name"),
    ],
)
def test_profiles_that_are_none(authority: Authority, text: str, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        profiles.apply_profile(authority.context, ACTOR, ApplyRequest(document=text))
    assert profiles.list_profiles(authority.context) == []


def test_a_missing_profile(authority: Authority) -> None:
    with pytest.raises(NotFoundError, match="profile 'x'"):
        profiles.show_profile(authority.context, "x")


# provisioners, bundle


def test_provisioners(authority: Authority) -> None:
    key, other = SoftwareSigner.generate(), SoftwareSigner.generate()
    authority.apply()
    authority.apply(name="second")

    def trust(name: str, signer: SoftwareSigner, *names: str) -> None:
        request = ProvisionerRequest(name=name, point=signer.point, profiles=names)
        provisioners.trust_provisioner(authority.context, ACTOR, request)

    with pytest.raises(NotFoundError, match="profile third"):
        trust("builder", key, "third")
    trust("builder", key, "measured")
    assert current(authority).provisioner_points("measured") == (key.point,)
    assert current(authority).provisioner_points("second") == ()
    version = current(authority).version
    trust("builder", key, "measured")
    assert current(authority).version == version
    trust("builder", key, "second", "measured")
    assert current(authority).provisioner_points("second") == (key.point,)
    with pytest.raises(ConflictError, match="has key"):
        trust("builder", other, "measured")
    with pytest.raises(ConflictError, match="is provisioner builder's, not second-name's"):
        trust("second-name", key, "measured")
    with pytest.raises(MalformedError):
        request = ProvisionerRequest(name="x", point=b"\4" + bytes(64), profiles=("measured",))
        provisioners.trust_provisioner(authority.context, ACTOR, request)


def test_the_bundle_is_renewed_before_it_expires(authority: Authority) -> None:
    first = current(authority)
    authority.clock.offset = timedelta(days=14)
    assert current(authority) == first
    authority.clock.offset = timedelta(days=16)
    renewed = current(authority)
    assert renewed.version == 2
    assert renewed.expires > first.expires
    assert current(authority) == renewed


# audit


def test_audit_chain(authority: Authority) -> None:
    authority.apply()
    authority.register("host-1", "ab" * 32)
    log = list(entries(authority))
    assert audit.verify(log) == len(log)
    assert [entry.action for entry in log] == [
        "authority.initialised",
        "bundle.published",
        "profile.applied",
        "bundle.published",
        "host.registered",
        "host.ticket-issued",
    ]
    assert audit.verify(log, last_digest=log[-1].digest) == len(log)


def _replace(index: int, **changes: object) -> Callable[[list[AuditRecord]], list[AuditRecord]]:
    def change(log: list[AuditRecord]) -> list[AuditRecord]:
        return [dataclasses.replace(entry, **changes) if at == index else entry for at, entry in enumerate(log)]  # type: ignore[arg-type]

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log[1:],
        lambda log: log[:1] + log[2:],
        lambda log: [log[1], log[0], *log[2:]],
        lambda log: [log[0], *log],
        _replace(1, actor="somebody else"),
        _replace(1, action="host.enrolled"),
        _replace(1, subject="x"),
        _replace(1, details={"x": 1}),
        _replace(1, digest=bytes(32)),
        _replace(1, previous=bytes(32)),
        _replace(2, sequence=9),
    ],
)
def test_an_altered_audit_log(authority: Authority, change: Callable[[list[AuditRecord]], list[AuditRecord]]) -> None:
    authority.apply()
    with pytest.raises(IntegrityRefused, match="audit log"):
        audit.verify(change(list(entries(authority))))


def test_a_cut_audit_log(authority: Authority) -> None:
    authority.apply()
    log = list(entries(authority))
    assert audit.verify(log[:-1]) == len(log) - 1
    with pytest.raises(IntegrityRefused, match="not the last one"):
        audit.verify(log[:-1], last_digest=log[-1].digest)


def test_exported_audit_log(authority: Authority) -> None:
    authority.apply()
    views = audit.list_entries(authority.context, 0, 1000)
    lines = b"\n".join(view.model_dump_json().encode() for view in views)
    assert audit.parse_export(lines) == list(entries(authority))
    with pytest.raises(MalformedError, match="line 2"):
        audit.parse_export(lines.splitlines()[0] + b"\n{}")


def test_a_change_that_fails_leaves_neither_change_nor_entry(authority: Authority) -> None:
    before = len(entries(authority))
    ctx = authority.context
    with pytest.raises(RuntimeError), ctx.store.write() as tx:
        tx.add_operator(OperatorRecord("second", bytes(32), ctx.now()))
        audit.record(ctx, tx, ACTOR, Action.ROOT_ADDED, "x")
        raise RuntimeError
    assert len(entries(authority)) == before
    with ctx.store.read() as tx:
        assert tx.operator_by_token(bytes(32)) is None


# the store


def test_reading_sees_one_moment(authority: Authority) -> None:
    with authority.context.store.read() as reading:
        assert reading.profiles() == []
        authority.apply()
        assert reading.profiles() == []
    with authority.context.store.read() as later:
        assert len(later.profiles()) == 1


def test_writers_wait_for_each_other(authority: Authority) -> None:
    def add(number: int) -> None:
        other = open_authority(authority.directory)
        for part in range(5):
            other.register(f"host-{number}-{part}", f"{number:02x}{part:02x}" + "00" * 30)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = list(entries(authority))
    assert audit.verify(log) == len(log)
    assert sum(entry.action == "host.registered" for entry in log) == 30


def test_a_database_that_is_none(authority: Authority) -> None:
    for leftover in ("authority.db-wal", "authority.db-shm"):
        (authority.directory / leftover).unlink(missing_ok=True)
    (authority.directory / "authority.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageFault, match=r"authority\.db"):
        open_authority(authority.directory)


def test_another_schema(authority: Authority) -> None:
    with sqlite3.connect(authority.directory / "authority.db") as database:
        database.execute("update schema set version = 99")
    with pytest.raises(ConflictError, match="schema 99"):
        open_authority(authority.directory)


def test_names_are_checked_before_anything_else() -> None:
    for name in ("", "A", "a b", "../x", "a" * 64, "-a"):
        with pytest.raises(ValueError, match="validation error"):
            RegisterRequest(name=name, ek_digest=bytes(32))
