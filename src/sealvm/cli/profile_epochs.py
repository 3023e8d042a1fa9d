"""`sealvm profile rotate|retire|cell|rule`: the life of a profile's keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit, table

if TYPE_CHECKING:
    from sealvm.protocol.trust import NewEpochView, RetireView, RotationView, RuleView

T = TypeVar("T")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what it would do, and change nothing.")


def made(kind: type[T], **fields: Any) -> T:
    """A request of what the caller gave. MalformedError names the field that is wrong."""
    from pydantic import TypeAdapter

    from sealvm.statements.encoding import parse_message

    return parse_message(TypeAdapter(kind), fields, "request")


@click.command()
@click.argument("name")
@click.option("--cell", help="Only this cell's key. [default: those of all cells]")
@dry_run_option
@authority_option
@json_option
def rotate(name: str, cell: str | None, dry_run: bool, authority_dir: Path) -> None:
    """Start a new epoch of the profile NAME: a new key, with the approvals of the old one."""
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.protocol.trust import RotateRequest

    request = made(RotateRequest, cell=cell, dry_run=dry_run)
    with operator_client(authority_dir) as client:
        view = trust.rotate(client, name, request)
    emit(view.model_dump(mode="json"), lambda: rotation_lines(view))


@click.command()
@click.argument("name")
@click.option("--epoch", type=click.IntRange(1), required=True, help="The epoch's number.")
@click.option("--cell", help="Only of this cell. [default: of all cells]")
@dry_run_option
@authority_option
@json_option
def retire(name: str, epoch: int, cell: str | None, dry_run: bool, authority_dir: Path) -> None:
    """End an epoch of the profile NAME: no approvals, no wraps, and hosts remove its key.

    Refused while a host reports a disk or package that only this epoch opens.
    """
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.protocol.trust import RetireRequest

    request = made(RetireRequest, epoch=epoch, cell=cell, dry_run=dry_run)
    with operator_client(authority_dir) as client:
        view = trust.retire(client, name, request)
    emit(view.model_dump(mode="json"), lambda: _retire_lines(view))


@click.group()
def cell() -> None:
    """Cells: hosts with profile keys of their own, so that one broken TPM opens less."""


@cell.command("add")
@click.argument("name")
@click.argument("cell_name", metavar="CELL")
@dry_run_option
@authority_option
@json_option
def cell_add(name: str, cell_name: str, dry_run: bool, authority_dir: Path) -> None:
    """Give the profile NAME a key of its own for CELL. Hosts are put into it by `sealvm host assign`."""
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.protocol.trust import CellRequest

    request = made(CellRequest, cell=cell_name, dry_run=dry_run)
    with operator_client(authority_dir) as client:
        view = trust.add_cell(client, name, request)
    has = "would have" if view.dry_run else "has"
    emit(view.model_dump(mode="json"), lambda: [f"profile '{name}' {has} the cell '{cell_name}'", *_epoch_lines(view)])


@cell.command("list")
@click.argument("name", required=False)
@authority_option
@json_option
def cell_list(name: str | None, authority_dir: Path) -> None:
    """The cells of the profile NAME, or of all, and the hosts that get their keys."""
    from sealvm.client import trust
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        rows = [view.model_dump(mode="json") for view in trust.cells(client, name)]
    shown = [
        {
            "profile": row["profile"],
            "cell": row["cell"] or "(none)",
            "epochs": " ".join(map(str, row["epochs"])),
            "hosts": " ".join(row["hosts"]),
        }
        for row in rows
    ]
    emit(rows, table(shown, ["profile", "cell", "epochs", "hosts"], "no profiles"))


@click.group()
def rule() -> None:
    """Rules: states that are approved without the approver, by delegation."""


@rule.command("add")
@click.argument("name")
@click.argument("rule_name", metavar="RULE")
@click.option("--match", default="0,2,7", show_default=True, help="PCRs that must be those of an approved state.")
@click.option("--cell", help="Only in this cell. [default: in all]")
@click.option("--until-epoch", type=click.IntRange(1), help="Rotations renew it up to this epoch. [default: none does]")
@dry_run_option
@authority_option
@json_option
def rule_add(
    *,
    name: str,
    rule_name: str,
    match: str,
    cell: str | None,
    until_epoch: int | None,
    dry_run: bool,
    authority_dir: Path,
) -> None:
    """Let RULE approve states for the profile NAME that meet every requirement and have an approved state's PCRs.

    The rule's key could approve any state of these epochs; docs/custody.md says what its loss costs.
    In a leased epoch a stolen rule key also removes the lease. A rule approves at most 16 states of one host in an
    epoch; the others wait in `sealvm profile queue`.
    """
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.protocol.trust import RuleRequest

    try:
        pcrs = tuple(int(pcr) for pcr in match.replace(",", " ").split())
    except ValueError as problem:
        raise click.UsageError(f"--match: {match[:40]!r} is no list of PCRs") from problem
    request = made(RuleRequest, name=rule_name, match=pcrs, cell=cell, until_epoch=until_epoch, dry_run=dry_run)
    with operator_client(authority_dir) as client:
        views = trust.add_rule(client, name, request)
    emit([view.model_dump(mode="json") for view in views], lambda: _rule_lines(views))


@rule.command("list")
@click.argument("name")
@authority_option
@json_option
def rule_list(name: str, authority_dir: Path) -> None:
    """The rules of the profile NAME, in all its epochs, and what they approved."""
    from sealvm.client import trust
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        views = trust.rules(client, name)
    emit([view.model_dump(mode="json") for view in views], lambda: _rule_lines(views))


def rotation_lines(view: RotationView) -> list[str]:
    """A rotation or withdrawal for people."""
    would = "would be made" if view.dry_run else "made"
    lines = [f"profile '{view.profile}': {len(view.epochs)} new epoch{'s' if len(view.epochs) != 1 else ''} {would}"]
    for epoch in view.epochs:
        lines += _epoch_lines(epoch)
    if view.losing:
        lines.append(f"  hosts in that state now: {', '.join(view.losing)}")
    lines.append(f"  hosts that get the new key at their next sync: {', '.join(view.hosts_to_sync) or 'none'}")
    if view.disks:
        lines.append(f"  disks that their hosts will wrap anew: {', '.join(view.disks)}")
    return [*lines, *(f"  {line}" for line in view.says)]


def _epoch_lines(epoch: NewEpochView) -> list[str]:
    lines = [f"  epoch {epoch.epoch}{f' cell {epoch.cell}' if epoch.cell else ''}"]
    lines += [f"    approved: {label}" for label in epoch.carried]
    lines += [f"    waits for the offline approver: {label}" for label in epoch.pending]
    lines += [f"    NOT taken over: {gone.label} ({gone.pcr_digest.hex()[:16]}…): {gone.why}" for gone in epoch.dropped]
    return lines


def _retire_lines(view: RetireView) -> list[str]:
    verb = "would be retired" if view.dry_run else "is retired"
    lines = [f"epoch {view.epoch} of profile '{view.profile}' {verb}"]
    lines += [f"  BLOCKED by {blocking}, which only it opens" for blocking in view.blocking]
    if view.behind:
        lines.append(f"  hosts that do not have a later key yet: {', '.join(view.behind)}")
    return [*lines, *(f"  {line}" for line in view.says)]


def _rule_lines(views: Sequence[RuleView]) -> list[str]:
    lines: list[str] = []
    for view in views:
        cell_text = f" cell {view.cell}" if view.cell else ""
        pcrs = ", ".join(map(str, view.match))
        until = f", renewed until epoch {view.until_epoch}" if view.until_epoch else ""
        lines.append(f"rule '{view.name}' in epoch {view.epoch}{cell_text}: {view.state}, PCRs {pcrs}{until}")
        verb = "would approve" if view.state == "dry-run" else "approved"
        lines += [f"  {verb} {state}" for state in view.covers]
        if view.warning and view.state != "retired":
            lines.append(f"  WARNING: {view.warning}")
    return lines or ["no rules"]
