"""A host's TPM changes: cleared, replaced, its other EK, chain in NV; and hosts let in and out over TLS."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from sealvm.authority import approve, bars, hosts, pending, register, remove, roots
from sealvm.authority.http.app import create_app
from sealvm.cli.main import cli
from sealvm.crypto.canonical import dumps
from sealvm.errors import AccessRefused, EnrollmentRefused, InputError, SealvmError, StateRefused
from sealvm.host.config import HostConfig, load_host, save_host
from sealvm.host.enroll import enroll, read_ek_digest
from sealvm.host.keyring import Keyring
from sealvm.host.overlay_key import OVERLAY_KEY_BYTES, unwrap_share, wrap_share
from sealvm.host.sync import connect, sync
from sealvm.host.unlock import open_keys, stored_bundle
from sealvm.lab.swtpm import LabCa, Swtpm
from sealvm.package.expression import any_of
from sealvm.protocol.hosts import BarRequest, EkRequest, ExpectRequest, RemoveRequest
from sealvm.protocol.operator import ApproveRequest, TicketRequest
from sealvm.secret import Secret
from sealvm.tpm.structures import ESYS_TR
from tests.authority.harness import ACTOR, Authority, boot, ek_digest_of
from tests.package.builder import build

pytestmark = pytest.mark.tpm


@pytest.fixture
def enrolled(network: Authority, host: HostConfig) -> HostConfig:
    """Host 1, enrolled and in an approved state."""
    enroll(host.directory, network.register("host-1", ek_digest_of(host)))
    approve.approve(network.context, ACTOR, "measured", ApproveRequest(host="host-1"))
    sync(host.directory)
    return load_host(host.directory)


def usable(config: HostConfig) -> bool:
    opener = open_keys(load_host(config.directory))
    return len(opener.ecdh("measured", 1, "", point=opener.point("measured", 1, ""))) == 32


def swap_tpm(config: HostConfig, other: HostConfig) -> None:
    """The motherboard: the other host's TPM, with this host's disks, boots what this host booted."""
    for one in (config, other):
        Swtpm(one.directory / "tpm").stop()
    shutil.rmtree(config.directory / "tpm")
    shutil.copytree(
        other.directory / "tpm", config.directory / "tpm", ignore=shutil.ignore_patterns("pid", "tpm", "*.ctrl")
    )
    boot(config)


def test_replaced_motherboard(network: Authority, enrolled: HostConfig, other_host: HostConfig) -> None:
    """The old TPM's request key is void, the new TPM enrolls under the old name, and the disks reopen by profile."""
    ctx = network.context
    header = build(b"disk" * 4096, expression=any_of(["measured"])).header
    share = Secret(b"\5" * OVERLAY_KEY_BYTES)
    wrap = wrap_share(share, header, "vm-1", stored_bundle(Keyring(enrolled.directory)))
    old_host_id = Keyring(enrolled.directory).identity().host_id
    view = remove.replace_host(ctx, ACTOR, "host-1", EkRequest(ek_digest=bytes.fromhex(ek_digest_of(other_host))))
    assert [(key.profile, key.approved_now) for key in view.held] == [("measured", True)]
    with pytest.raises(AccessRefused):
        sync(enrolled.directory)
    with pytest.raises(EnrollmentRefused) as refused:
        enroll(enrolled.directory, view.ticket)  # type: ignore[arg-type]  # the old TPM, with the new one's ticket
    assert refused.value.fields["check"] == "ek-registered"
    assert usable(enrolled)  # what the view said: the old TPM goes on opening
    swap_tpm(enrolled, other_host)
    report = enroll(enrolled.directory, view.ticket)  # type: ignore[arg-type]
    assert report.new_keys == (("measured", 1, ""),)
    assert report.host_id == old_host_id
    opened = unwrap_share(wrap, header, "vm-1", open_keys(load_host(enrolled.directory)))
    assert opened.reveal() == share.reveal()


def test_keys_of_before_are_dead_in_another_tpm(enrolled: HostConfig, other_host: HostConfig) -> None:
    """Without enrolling it, the new TPM opens nothing with the old one's files."""
    swap_tpm(enrolled, other_host)
    with pytest.raises(SealvmError) as failed:
        usable(enrolled)
    assert not isinstance(failed.value, StateRefused)


def test_enrolling_anew_voids_the_old_request_key(network: Authority, enrolled: HostConfig) -> None:
    """Same TPM, new identity, as after a lost folder or TPM2_Clear: what the old request key signs is refused."""
    old = Keyring(enrolled.directory).identity().blobs
    (enrolled.directory / "identity.json").unlink()
    enroll(enrolled.directory, register.issue_ticket(network.context, ACTOR, "host-1", TicketRequest()))
    with connect(enrolled, old) as client, pytest.raises(AccessRefused):
        client.sync_challenge()
    sync(enrolled.directory)
    with network.context.store.read() as tx:
        entry = [one for one in tx.audit(0, 1000) if one.action == "host.enrolled"][-1]
    assert len(entry.details["voided_request_key"]) == 64


def test_tpm2_clear(network: Authority, enrolled: HostConfig) -> None:
    """The old keys die with the owner's seed; until the host enrolls again it can neither open nor synchronise."""
    old = Keyring(enrolled.directory).identity().blobs
    with enrolled.open_tpm() as tpm:
        tpm.run("clear", auth_handle=ESYS_TR.LOCKOUT, session1=ESYS_TR.PASSWORD)
    for attempt in (usable, lambda config: sync(config.directory)):
        with pytest.raises(SealvmError):
            attempt(enrolled)
    enroll(enrolled.directory, register.issue_ticket(network.context, ACTOR, "host-1", TicketRequest()))
    with network.context.store.read() as tx:
        record = tx.host("host-1")
        states = tx.state("host-1")
    assert record is not None
    assert states is not None
    assert record.srk_public != old.srk_public
    assert record.import_parent_public != old.import_parent_public
    assert record.ek_public == old.ek_public
    assert usable(enrolled)


def test_the_other_ek_of_the_same_tpm(network: Authority, enrolled: HostConfig) -> None:
    """Only the EK changes: the keys that lie in the TPM stay, and the authority is told by a replacement."""
    before = Keyring(enrolled.directory).identity().blobs
    save_host(dataclasses.replace(enrolled, ek="rsa"))
    config = load_host(enrolled.directory)
    digest = bytes.fromhex(read_ek_digest(config))
    view = remove.replace_host(network.context, ACTOR, "host-1", EkRequest(ek_digest=digest))
    enroll(enrolled.directory, view.ticket)  # type: ignore[arg-type]
    after = Keyring(enrolled.directory).identity().blobs
    assert (before.ek_nv_index, after.ek_nv_index) == (0x01C00016, 0x01C00002)
    assert after == dataclasses.replace(before, ek_nv_index=after.ek_nv_index, ek_public=after.ek_public)
    assert usable(enrolled)


def test_certificate_chain_in_nv(network: Authority, host: HostConfig, lab_ca: LabCa, tmp_path: Path) -> None:
    """A maker that lays its intermediates into NV needs no chain file on the host; two indices, then padding."""
    save_host(dataclasses.replace(host, ek_chain=None))
    config = load_host(host.directory)
    ticket = network.register("host-1", ek_digest_of(config))
    with pytest.raises(EnrollmentRefused) as refused:
        enroll(config.directory, ticket)
    assert refused.value.fields["check"] == "ek.certificate-chain"
    pem, der = tmp_path / "c.pem", tmp_path / "c.der"
    shutil.copy(lab_ca.intermediate, pem)
    subprocess.run(["openssl", "x509", "-in", pem, "-outform", "der", "-out", der], check=True)
    data = der.read_bytes()
    for index, part in ((0x01C00100, data[:600]), (0x01C00101, data[600:] + b"\xff" * 32)):
        (tmp_path / "part").write_bytes(part)
        at = [hex(index), "-C", "o", "-T", config.tcti]
        attributes = ["-s", str(len(part)), "-a", "ownerwrite|authread|ownerread"]
        subprocess.run(["tpm2_nvdefine", *at, *attributes], check=True, capture_output=True)
        subprocess.run(["tpm2_nvwrite", *at, "-i", tmp_path / "part"], check=True, capture_output=True)
    assert enroll(config.directory, ticket).host == "host-1"


def test_barred_and_removed_hosts_get_nothing_over_tls(network: Authority, enrolled: HostConfig) -> None:
    ctx = network.context
    view = bars.add_bar(ctx, ACTOR, BarRequest(manufacturer="id:00001014", version="id:20191023"))
    with pytest.raises(EnrollmentRefused) as refused:
        sync(enrolled.directory)
    assert refused.value.fields["check"] == "tpm-barred"
    bars.remove_bar(ctx, ACTOR, view.bar_id)
    sync(enrolled.directory)
    root = roots.list_roots(ctx)[0]
    roots.remove_root(ctx, ACTOR, root.sha256.hex())
    with pytest.raises(EnrollmentRefused) as refused:
        sync(enrolled.directory)
    assert refused.value.fields["check"] == "ek-root"
    remove.remove_host(ctx, ACTOR, "host-1", RemoveRequest())
    with pytest.raises(AccessRefused):
        sync(enrolled.directory)
    assert usable(enrolled)  # a standing key stays: this is what the removal says


def test_removal_with_rotation_keeps_new_packages_from_it(network: Authority, enrolled: HostConfig) -> None:
    """New wraps go to the new epoch alone, whose key the removed host never gets."""
    view = remove.remove_host(network.context, ACTOR, "host-1", RemoveRequest(rotate=True))
    assert view.rotated == ("measured",)
    with network.context.store.read() as tx:
        wraps = {record.epoch: record.wraps for record in tx.epochs("measured")}
    assert wraps == {1: False, 2: True}
    with pytest.raises(AccessRefused):
        sync(enrolled.directory)
    held = Keyring(enrolled.directory).keys()
    assert [key.epoch for key in held] == [1]


def test_pending_over_tls(network: Authority, host: HostConfig) -> None:
    ticket = pending.expect_host(network.context, ACTOR, ExpectRequest(name="host-1"))
    with pytest.raises(EnrollmentRefused) as refused:
        enroll(host.directory, ticket)
    digest = ek_digest_of(host)
    assert (refused.value.fields["check"], refused.value.fields["ek_digest"]) == ("ek-approval", digest)
    assert "host approve host-1" in refused.value.hint
    pending.approve_host(network.context, ACTOR, "host-1", EkRequest(ek_digest=bytes.fromhex(digest)))
    assert enroll(host.directory, ticket).host == "host-1"
    assert hosts.show_host(network.context, "host-1").state == "enrolled"


# the commands


def run(network: Authority, *arguments: str) -> object:
    done = CliRunner().invoke(
        cli, [*arguments, "--authority", str(network.directory), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def served(network: Authority) -> Authority:
    url = network.context.settings.url
    (network.directory / "endpoint.json").write_bytes(dumps({"url": url}))
    assert create_app(network.context) is not None
    return network


def test_commands(served: Authority, tmp_path: Path, lab_ca: LabCa) -> None:
    file, folder = tmp_path / "hosts.csv", tmp_path / "tickets"
    file.write_text(f"name,ek_digest\nhost-1,{'ab' * 32}\nhost-2,{'cd' * 32}\n")
    rows = run(served, "host", "register", "--file", str(file), "--tickets", str(folder))
    assert [row["outcome"] for row in rows] == ["registered", "registered"]  # type: ignore[attr-defined]
    assert sorted(path.name for path in folder.iterdir()) == ["host-1.ticket", "host-2.ticket"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    rows = run(served, "host", "register", "--file", str(file), "--tickets", str(folder))
    assert [row["outcome"] for row in rows] == ["ticket-renewed", "ticket-renewed"]  # type: ignore[attr-defined]
    ticket = str(tmp_path / "3.ticket")
    assert run(served, "host", "register", "host-3", "--pending", "--ticket", ticket)["host"] == "host-3"  # type: ignore[index]
    assert run(served, "host", "pending") == []
    replaced = run(served, "host", "replace", "host-1", "--ek", "ef" * 32, "--ticket", ticket)
    assert replaced["outcome"] == "replaced"  # type: ignore[index]
    assert "token" not in json.dumps(replaced)
    assert run(served, "host", "remove", "host-2", "--dry-run")["outcome"] == "dry-run"  # type: ignore[index]
    assert run(served, "host", "remove", "host-2", "--rotate")["outcome"] == "removed"  # type: ignore[index]
    bar = run(served, "authority", "bar", "add", "IFX", "--before", "id:00070055", "--reason", "ROCA")
    assert [row["bar_id"] for row in run(served, "authority", "bar", "list")] == [bar["bar_id"]]  # type: ignore[attr-defined,index]
    run(served, "authority", "bar", "remove", bar["bar_id"])  # type: ignore[index]
    bundle = tmp_path / "roots.pem"
    bundle.write_text(lab_ca.root.read_text() + lab_ca.intermediate.read_text())
    assert len(run(served, "authority", "root", "add", str(bundle), "--class", "lab")) == 2  # type: ignore[arg-type]
    for root in run(served, "authority", "root", "list"):  # type: ignore[attr-defined]
        run(served, "authority", "root", "remove", root["sha256"][:16])
    assert run(served, "authority", "root", "list") == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("host", "register"),
        ("host", "register", "a"),
        ("host", "register", "a", "--pending", "--again"),
        ("host", "register", "a", "--pending", "--ek", "ab" * 32),
        ("host", "register", "a", "--file", "x"),
        ("host", "register", "--file", "x", "--ticket", "t"),
        ("host", "register", "a", "--ek", "ab", "--tickets", "t"),
    ],
)
def test_commands_that_make_no_sense(served: Authority, arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*arguments, "--authority", str(served.directory)])
    assert done.exit_code == 2


def test_names_that_are_none(served: Authority) -> None:
    for arguments in (("authority", "bar", "remove", "../x"), ("authority", "root", "remove", "zz")):
        with pytest.raises(InputError):
            CliRunner().invoke(cli, [*arguments, "--authority", str(served.directory)], catch_exceptions=False)
