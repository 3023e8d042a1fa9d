"""Letting hosts in and out, without a TPM: bulk registration, expected hosts, bars, roots, removal, replacement."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from sealvm.authority import bars, hosts, pending, register, remove, roots
from sealvm.authority.admission import check_admitted
from sealvm.authority.records import AuditRecord, HostRecord, PendingRecord
from sealvm.errors import ConflictError, EnrollmentRefused, MalformedError, NotFoundError
from sealvm.lab.swtpm import LabCa
from sealvm.protocol.hosts import (
    BarRequest,
    BulkRequest,
    EkRequest,
    ExpectRequest,
    Registration,
    RemoveRequest,
)
from sealvm.protocol.operator import RootRequest, TicketRequest
from tests.authority.harness import ACTOR, Authority

EK, OTHER_EK = bytes.fromhex("ab" * 32), bytes.fromhex("cd" * 32)


def bulk(authority: Authority, *pairs: tuple[str, bytes]) -> list[tuple[str, str]]:
    request = BulkRequest(hosts=tuple(Registration(name=name, ek_digest=ek) for name, ek in pairs))
    return [(one.name, one.outcome) for one in register.register_hosts(authority.context, ACTOR, request)]


def actions(authority: Authority) -> list[str]:
    return [entry.action for entry in entries(authority)]


def entries(authority: Authority) -> list[AuditRecord]:
    with authority.context.store.read() as tx:
        return list(tx.audit(0, 1000))


def enrolled(authority: Authority, name: str = "host-1", ek: bytes = EK, root: bytes = bytes(32)) -> HostRecord:
    """A host as enrollment leaves it, as far as these tests look."""
    ctx = authority.context
    record = HostRecord(
        name,
        name.encode().hex().ljust(32, "0"),
        ek,
        ctx.now(),
        trust_class="lab",
        tpm="id:00001014 swtpm id:20191023",
        tpm_model=("id:00001014", "swtpm", "id:20191023"),
        ek_root=root,
        request_keyid=name,
        enrolled=ctx.now(),
        last_sync=ctx.now(),
    )
    with ctx.store.write() as tx:
        tx.add_host(record)
    return record


def test_bulk_registration(authority: Authority) -> None:
    assert bulk(authority, ("a", EK), ("b", OTHER_EK)) == [("a", "registered"), ("b", "registered")]
    assert bulk(authority, ("a", EK), ("c", bytes(32))) == [("a", "ticket-renewed"), ("c", "registered")]
    assert actions(authority).count("host.registered") == 3


def test_bulk_registration_is_all_or_nothing(authority: Authority) -> None:
    authority.register("a", EK.hex())
    for pairs in ((("b", OTHER_EK), ("c", EK)), (("b", bytes(32)), ("a", OTHER_EK))):
        with pytest.raises(ConflictError, match="nothing was registered"):
            bulk(authority, *pairs)
    assert [view.name for view in hosts.list_hosts(authority.context)] == ["a"]


def test_bulk_registration_leaves_enrolled_hosts_alone(authority: Authority) -> None:
    enrolled(authority)
    assert bulk(authority, ("host-1", EK)) == [("host-1", "enrolled-already")]
    with authority.context.store.read() as tx:
        assert tx.host("host-1") is not None


def test_expected_pending_approved(authority: Authority) -> None:
    ctx = authority.context
    ticket = pending.expect_host(ctx, ACTOR, ExpectRequest(name="host-1"))
    assert hosts.show_host(ctx, "host-1").state == "expected"
    with pytest.raises(NotFoundError, match="waits"):
        pending.approve_host(ctx, ACTOR, "host-1", EkRequest(ek_digest=EK))
    with ctx.store.write() as tx:
        tx.put_pending(PendingRecord("host-1", EK, "tpm", "lab", ctx.now(), ctx.now()))
    assert hosts.show_host(ctx, "host-1").state == "pending"
    with pytest.raises(ConflictError, match="presented EK"):
        pending.approve_host(ctx, ACTOR, "host-1", EkRequest(ek_digest=OTHER_EK))
    pending.approve_host(ctx, ACTOR, "host-1", EkRequest(ek_digest=EK))
    view = hosts.show_host(ctx, "host-1")
    assert (view.state, view.ek_digest) == ("registered", EK)
    assert pending.list_pending(ctx) == []
    with pytest.raises(ConflictError):
        pending.expect_host(ctx, ACTOR, ExpectRequest(name="host-1"))
    assert ticket.host == "host-1"


def test_an_ek_that_was_registered_meanwhile_is_not_approved(authority: Authority) -> None:
    ctx = authority.context
    pending.expect_host(ctx, ACTOR, ExpectRequest(name="host-1"))
    with ctx.store.write() as tx:
        tx.put_pending(PendingRecord("host-1", EK, "tpm", "lab", ctx.now(), ctx.now()))
    authority.register("host-2", EK.hex())
    with pytest.raises(ConflictError, match="registered as host host-2"):
        pending.approve_host(ctx, ACTOR, "host-1", EkRequest(ek_digest=EK))


def test_another_ticket_forgets_who_came_with_the_first(authority: Authority) -> None:
    ctx = authority.context
    pending.expect_host(ctx, ACTOR, ExpectRequest(name="host-1"))
    with ctx.store.write() as tx:
        tx.put_pending(PendingRecord("host-1", EK, "tpm", "lab", ctx.now(), ctx.now()))
    register.issue_ticket(ctx, ACTOR, "host-1", TicketRequest())
    assert pending.list_pending(ctx) == []


def test_bars_lock_out_and_let_in_again(authority: Authority, lab_ca: LabCa) -> None:
    ctx = authority.context
    authority.trust(lab_ca)
    host = enrolled(authority, root=roots.list_roots(ctx)[0].sha256)
    request = BarRequest(manufacturer="id:00001014", model="swtpm", before="id:20200101", reason="test")
    view = bars.add_bar(ctx, ACTOR, request)
    assert view.hosts == ("host-1",)
    assert bars.add_bar(ctx, ACTOR, request) == view
    assert [one.bar_id for one in bars.list_bars(ctx)] == [view.bar_id]
    assert hosts.show_host(ctx, "host-1").state == "locked-out"
    with ctx.store.read() as tx, pytest.raises(EnrollmentRefused) as refused:
        check_admitted(tx, host)
    assert refused.value.fields["check"] == "tpm-barred"
    bars.remove_bar(ctx, ACTOR, view.bar_id)
    assert hosts.show_host(ctx, "host-1").state == "enrolled"
    with pytest.raises(NotFoundError):
        bars.remove_bar(ctx, ACTOR, view.bar_id)
    assert actions(authority)[-2:] == ["tpm.barred", "tpm.bar-lifted"]


def test_root_bundles(authority: Authority, lab_ca: LabCa) -> None:
    ctx = authority.context
    both = "a comment\n" + lab_ca.root.read_text() + lab_ca.intermediate.read_text() + lab_ca.root.read_text()
    views = roots.add_roots(ctx, ACTOR, RootRequest(certificate_pem=both, trust_class="lab"))
    assert len(views) == 2
    assert roots.list_roots(ctx) == sorted(views, key=lambda view: view.sha256)
    again = roots.add_roots(ctx, ACTOR, RootRequest(certificate_pem=both, trust_class="lab"))
    assert again == views
    assert actions(authority).count("root.added") == 2


def test_a_root_bundle_is_accepted_whole_or_not(authority: Authority, lab_ca: LabCa) -> None:
    ctx = authority.context
    authority.trust(lab_ca)
    both = lab_ca.intermediate.read_text() + lab_ca.root.read_text()
    with pytest.raises(ConflictError, match="accepted as lab already"):
        roots.add_roots(ctx, ACTOR, RootRequest(certificate_pem=both, trust_class="hardware"))
    assert len(roots.list_roots(ctx)) == 1
    with pytest.raises(MalformedError):
        roots.add_roots(ctx, ACTOR, RootRequest(certificate_pem=both[:-200], trust_class="lab"))


def test_removing_a_root_locks_its_hosts_out(authority: Authority, lab_ca: LabCa) -> None:
    ctx = authority.context
    authority.trust(lab_ca)
    root = roots.list_roots(ctx)[0].sha256
    host = enrolled(authority, root=root)
    enrolled(authority, "host-2", OTHER_EK, bytes(32))
    assert roots.remove_root(ctx, ACTOR, root.hex()[:12]).hosts == ("host-1",)
    with ctx.store.read() as tx, pytest.raises(EnrollmentRefused) as refused:
        check_admitted(tx, host)
    assert refused.value.fields["check"] == "ek-root"
    with pytest.raises(NotFoundError):
        roots.remove_root(ctx, ACTOR, root.hex())
    authority.trust(lab_ca, "virtual")  # the same root as another class does not let it in again
    assert hosts.show_host(ctx, "host-1").state == "locked-out"


def test_a_prefix_of_two_roots(authority: Authority, lab_ca: LabCa) -> None:
    both = lab_ca.root.read_text() + lab_ca.intermediate.read_text()
    roots.add_roots(authority.context, ACTOR, RootRequest(certificate_pem=both, trust_class="lab"))
    with pytest.raises(ConflictError, match="2 roots"):
        roots.remove_root(authority.context, ACTOR, "")


def test_removal_says_what_the_tpm_keeps(authority: Authority) -> None:
    ctx = authority.context
    authority.apply()
    authority.apply(name="strict", trust="hardware")
    enrolled(authority)
    authority.clock.offset = timedelta(minutes=1)
    authority.apply(name="later")
    dry = remove.remove_host(ctx, ACTOR, "host-1", RemoveRequest(dry_run=True))
    assert [(key.profile, key.epoch, key.approved_now) for key in dry.held] == [("measured", 1, False)]
    text = " ".join(dry.says)
    assert "goes on opening everything that is wrapped" in text
    assert "whoever copied an old wrap" in text
    assert "host remove host-1 --rotate" in text
    assert hosts.show_host(ctx, "host-1").state == "locked-out"  # still there
    done = remove.remove_host(ctx, ACTOR, "host-1", RemoveRequest())
    assert (done.outcome, done.held, done.says) == ("removed", dry.held, dry.says)
    with pytest.raises(NotFoundError):
        hosts.show_host(ctx, "host-1")
    with pytest.raises(NotFoundError):
        remove.remove_host(ctx, ACTOR, "host-1", RemoveRequest())
    assert entries(authority)[-1].action == "host.removed"
    authority.register("host-1", EK.hex())  # an operator may let it in again


def test_removal_with_rotation(authority: Authority) -> None:
    ctx = authority.context
    authority.apply()
    enrolled(authority)
    view = remove.remove_host(ctx, ACTOR, "host-1", RemoveRequest(rotate=True))
    assert view.rotated == ("measured",)
    with ctx.store.read() as tx:
        epochs = {record.epoch: record.wraps for record in tx.epochs("measured")}
    assert epochs == {1: False, 2: True}
    assert {"host.removed", "profile.epoch-created", "profile.epoch-closed"} <= set(actions(authority))


@pytest.mark.parametrize("place", ["rotate_in", "_close_old"])
def test_removal_that_is_killed_can_be_repeated(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    ctx = authority.context
    authority.apply()
    enrolled(authority)
    before = len(entries(authority))

    def dies(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(remove, place, dies)
        with pytest.raises(KeyboardInterrupt):
            remove.remove_host(ctx, ACTOR, "host-1", RemoveRequest(rotate=True))
    with ctx.store.read() as tx:
        assert tx.host("host-1") is not None
        assert [(record.epoch, record.wraps) for record in tx.epochs("measured")] == [(1, True)]
    assert len(entries(authority)) == before
    assert remove.remove_host(ctx, ACTOR, "host-1", RemoveRequest(rotate=True)).rotated == ("measured",)
    with ctx.store.read() as tx:
        assert {record.epoch: record.wraps for record in tx.epochs("measured")} == {1: False, 2: True}
    assert actions(authority)[before:].count("bundle.published") == 1


def test_removing_a_host_that_never_enrolled(authority: Authority) -> None:
    authority.apply()
    authority.register("host-1", EK.hex())
    view = remove.remove_host(authority.context, ACTOR, "host-1", RemoveRequest(rotate=True))
    assert (view.held, view.rotated, len(view.says)) == ((), (), 1)


def test_replacement(authority: Authority) -> None:
    ctx = authority.context
    before = enrolled(authority)
    enrolled(authority, "host-2", OTHER_EK)
    for taken in (EK, OTHER_EK):
        with pytest.raises(ConflictError):
            remove.replace_host(ctx, ACTOR, "host-1", EkRequest(ek_digest=taken))
    with pytest.raises(NotFoundError):
        remove.replace_host(ctx, ACTOR, "host-9", EkRequest(ek_digest=bytes(32)))
    view = remove.replace_host(ctx, ACTOR, "host-1", EkRequest(ek_digest=bytes(32)))
    assert view.ticket is not None
    with ctx.store.read() as tx:
        after = tx.host("host-1")
        assert tx.host_by_request_key("host-1") is None
    expected = HostRecord("host-1", before.host_id, bytes(32), before.registered, cell=before.cell)
    assert after == expected
    assert dataclasses.replace(before, enrolled=None) != after
    assert actions(authority)[-2:] == ["host.replaced", "host.ticket-issued"]
