"""`sealvm host`: enroll hosts, keep them in step, explain what they can open.

`register`, `pending`, `approve`, `replace`, `remove` and `list` are an operator's and speak to the authority; the
others run on the host itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealvm.cli import host_admission
from sealvm.cli.artefacts import artefact_options, read_artefacts
from sealvm.cli.host_lease import lease
from sealvm.cli.host_trust import assign, evidence
from sealvm.cli.options import SYSTEM, authority_option, host_argument, json_option
from sealvm.cli.output import emit, note, table

if TYPE_CHECKING:
    from sealvm.host.config import EkKind
    from sealvm.host.explain import ProfileAnswer
    from sealvm.host.next_boot import NextBootAnswer
    from sealvm.host.sync import SyncReport


@click.group()
def host() -> None:
    """Enroll hosts, keep them in step, explain what they can open."""


for command in (
    lease,
    evidence,
    assign,
    host_admission.register,
    host_admission.pending,
    host_admission.approve,
    host_admission.replace,
    host_admission.remove,
):
    host.add_command(command)


@host.command()
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), default=SYSTEM / "host", show_default=True)
@click.option("--tcti", help="The TPM's address, as tss2 writes it. [default: device:/dev/tpmrm0]")
@click.option("--ek-chain", type=click.Path(path_type=Path), help="PEM: certificates between EK certificate and root.")
@click.option("--ek", "kind", type=click.Choice(["ecc", "rsa"]), help="Which EK to enroll with, if the TPM has both.")
@json_option
def init(*, name: str, directory: Path, tcti: str | None, ek_chain: Path | None, kind: EkKind | None) -> None:
    """Make the folder of this machine as the host NAME."""
    from sealvm.errors import ConflictError
    from sealvm.host.config import SYSTEM_TCTI, HostConfig, load_host, save_host

    if (directory / "host.json").exists():
        raise ConflictError(f"{directory} is a host's folder already", hint="edit its host.json, or remove it first")
    config = HostConfig(
        directory=directory.absolute(), name=name, tcti=tcti or SYSTEM_TCTI, ek_chain=ek_chain, ek=kind or ""
    )
    save_host(config)
    load_host(directory)
    emit({"name": name, "directory": str(directory)}, [f"host '{name}' made in {directory}", "next: sealvm host ek"])


@host.command()
@host_argument
@json_option
def ek(host_dir: Path) -> None:
    """Print the digest of this host's EK: what an operator registers, having it from a trusted source."""
    from sealvm.host.config import load_host
    from sealvm.host.enroll import read_ek_digest

    digest = read_ek_digest(load_host(host_dir))
    emit({"ek_digest": digest}, [digest])


@host.command()
@host_argument
@json_option
def preimages(host_dir: Path) -> None:
    """Recover what this boot's log has only as digests, so that the kernel's options can be judged.

    To be run on the host itself after each boot, so that `host explain` knows them. `host enroll`, `host sync` and
    `host lease` do it themselves. Keeps nothing that does not have the digest of an event in the log.
    """
    from sealvm.host.config import load_host
    from sealvm.host.preimages import write_preimages

    found = write_preimages(load_host(host_dir))
    emit(
        [{"event": one.event_index, "pcr": one.pcr, "text": one.text} for one in found],
        [f"event {one.event_index}, PCR {one.pcr}: {one.text}" for one in found],
    )


@host.command()
@host_argument
@click.option("--ticket", type=click.Path(path_type=Path), required=True, help="The join ticket from `host register`.")
@json_option
def enroll(host_dir: Path, ticket: Path) -> None:
    """Prove this host's TPM to the authority and receive the profile keys."""
    from sealvm.cli.files import read_bytes
    from sealvm.host.enroll import enroll as run
    from sealvm.protocol.messages import parse_ticket

    report = run(host_dir, parse_ticket(read_bytes(ticket, "join ticket")))
    ticket.unlink(missing_ok=True)  # used up
    _show_report(report, f"host '{report.host}' enrolled")


@host.command()
@host_argument
@json_option
def sync(host_dir: Path) -> None:
    """Prove this host's present state and fetch what is new: keys, approvals, provisioners."""
    from sealvm.host.sync import sync as run

    report = run(host_dir)
    _show_report(report, f"host '{report.host}' in step")


@host.command()
@host_argument
@json_option
def status(host_dir: Path) -> None:
    """Whether this host is enrolled, and which profiles it can use now."""
    from datetime import UTC, datetime

    from sealvm.host.bundles import no_earlier_than, present_warnings
    from sealvm.host.config import load_host
    from sealvm.host.explain import explain_host
    from sealvm.host.keyring import Keyring
    from sealvm.host.unlock import bundle_expired, stored_bundle

    config = load_host(host_dir)
    keyring = Keyring(config.directory)
    if not keyring.enrolled:
        emit({"host": config.name, "enrolled": False}, [f"host '{config.name}' is not enrolled"])
        return
    bundle = stored_bundle(keyring)
    answers = explain_host(config)
    expired = bundle_expired(bundle, no_earlier_than(keyring.anchor(), datetime.now(UTC)))
    warned = present_warnings(keyring, bundle)
    data: dict[str, Any] = {
        "host": config.name,
        "enrolled": True,
        "authority": config.authority_url,
        "bundle": {"version": bundle.version, "expires": bundle.expires.isoformat(), "expired": expired},
        "warnings": list(warned),
        "profiles": [{"name": a.profile, "holds_key": a.holds_key, "usable": a.usable} for a in answers],
    }
    lines = [
        f"host '{config.name}', enrolled with {config.authority_url}",
        f"trust bundle {bundle.version}, {'EXPIRED' if expired else 'good until'} {bundle.expires:%Y-%m-%d}",
    ]
    lines += [f"  {_verdict(answer)}  {answer.profile}" for answer in answers] or ["  no profiles yet"]
    lines += [f"  warning: {warning}" for warning in warned]
    emit(data, lines)


@host.command()
@host_argument
@click.option("--profile", "profiles", multiple=True, help="Only this profile; repeatable.")
@click.option("--next-boot", is_flag=True, help="After a boot of what the following options name.")
@artefact_options
@json_option
def explain(host_dir: Path, profiles: tuple[str, ...], *, next_boot: bool, **booted: Any) -> None:
    """For each profile: can this host use its key now, and if not, which PCR and event differ, and what to do.

    With --next-boot, and --uki or --kernel with --cmdline: could it, after it booted these? Firmware, its settings and
    the partition table are assumed to stay; docs/pcrs.md says what else is.

    Exit code 20 when a profile's key cannot be used. Needs no network.
    """
    from sealvm.cli.exit_codes import EXIT_CODES
    from sealvm.errors import NotFoundError, StateRefused
    from sealvm.host.bundles import present_warnings
    from sealvm.host.config import load_host
    from sealvm.host.explain import explain_host
    from sealvm.host.keyring import Keyring
    from sealvm.host.next_boot import explain_next_boot
    from sealvm.host.unlock import stored_bundle

    if not next_boot and any(value is not None for value in booted.values()):
        raise click.UsageError("what to boot is asked about with --next-boot")
    config = load_host(host_dir)
    answers: Sequence[ProfileAnswer | NextBootAnswer]
    if next_boot:
        answers = explain_next_boot(config, read_artefacts(**booted), profiles or None)
    else:
        answers = explain_host(config, profiles or None)
    if unknown := set(profiles) - {answer.profile for answer in answers}:
        raise NotFoundError(f"profile {min(unknown)!r} is not in this host's trust bundle", hint="sealvm host sync")
    data: dict[str, Any] = {"host": config.name, **({"next_boot": True} if next_boot else {})}
    data["profiles"] = [answer.to_json() for answer in answers]
    keyring = Keyring(config.directory)
    data["warnings"] = list(present_warnings(keyring, stored_bundle(keyring)))
    for warning in data["warnings"]:
        note(f"warning: {warning}")
    emit(data, lambda: _explained(config.name, answers, ", after the next boot" if next_boot else ""))
    if not all(answer.usable for answer in answers):
        sys.exit(EXIT_CODES[StateRefused])


@host.command("list")
@authority_option
@json_option
def list_hosts(authority_dir: Path) -> None:
    """All hosts that the authority knows, and which profiles their last verified states satisfy."""
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        rows = [view.model_dump(mode="json") for view in client.hosts()]
    shown = [{**row, "satisfies": " ".join(row["satisfies"]), "ek": row["ek_digest"][:16]} for row in rows]
    emit(rows, table(shown, ["name", "state", "trust_class", "tpm", "last_sync", "satisfies"], "no hosts"))


def _show_report(report: SyncReport, headline: str) -> None:
    keys = [{"profile": profile, "epoch": epoch, "cell": cell} for profile, epoch, cell in report.new_keys]
    data = {
        "host": report.host,
        "host_id": report.host_id,
        "trust_class": report.trust_class,
        "events": report.events,
        "new_keys": keys,
        "keys": len(report.all_keys),
        "bundle_version": report.bundle_version,
        "bundle_expires": report.bundle_expires.isoformat(),
        "rewrapped": list(report.rewrapped),
        "waiting": dict(report.waiting),
        "removed_keys": [
            {"profile": profile, "epoch": epoch, "cell": cell} for profile, epoch, cell in report.removed_keys
        ],
    }
    lines = [
        f"{headline}: TPM of class {report.trust_class}, log of {report.events} events replays to the quote",
        f"  {len(report.all_keys)} profile keys in the TPM ({len(keys)} new), trust bundle {report.bundle_version}",
    ]
    lines += [f"  new: profile '{key['profile']}' epoch {key['epoch']}" for key in keys]
    lines += [f"  removed: profile '{profile}' epoch {epoch}" for profile, epoch, _cell in report.removed_keys]
    lines += [f"  disk of {name} wrapped to the present epochs" for name in report.rewrapped]
    lines += [f"  disk of {name} waits to be wrapped anew: {why}" for name, why in report.waiting]
    emit(data, lines)


def _verdict(answer: ProfileAnswer | NextBootAnswer) -> str:
    return "usable " if answer.usable else "refused" if answer.holds_key else "no key "


def _explained(name: str, answers: Sequence[ProfileAnswer | NextBootAnswer], when: str) -> list[str]:
    if not answers:
        note("the trust bundle lists no profiles")
    lines: list[str] = []
    for answer in answers:
        lines.append(f"host '{name}', profile '{answer.profile}'{when}: {_verdict(answer).strip()}")
        lines += [f"  {line}" for line in answer.lines()]
    return lines
