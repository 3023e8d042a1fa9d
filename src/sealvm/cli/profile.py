"""`sealvm profile`: what a trustworthy state is, and which states were found to be one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit, table
from sealvm.cli.profile_lint import lint
from sealvm.cli.profile_predict import predict

if TYPE_CHECKING:
    from sealvm.protocol.operator import ApprovalView, ProfileView


@click.group()
def profile() -> None:
    """Define security profiles and approve host states."""


profile.add_command(lint)
profile.add_command(predict)


@profile.command()
@click.argument("file", type=click.Path(path_type=Path))
@authority_option
@json_option
def apply(file: Path, authority_dir: Path) -> None:
    """Create the profile in FILE (YAML), with a fresh key, or replace the document of an existing one."""
    from sealvm.attest.profile import load_profile
    from sealvm.cli.files import read_text
    from sealvm.client.operator import operator_client

    document = read_text(file, "profile")
    load_profile(document, str(file))  # so that mistakes are named by this file's lines
    with operator_client(authority_dir) as client:
        view = client.apply_profile(document)
    emit(view.model_dump(mode="json"), _summary(view))


@profile.command()
@click.argument("name")
@authority_option
@json_option
def show(name: str, authority_dir: Path) -> None:
    """One profile: its document, its keys and its approvals."""
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        view = client.profile(name)
    emit(view.model_dump(mode="json"), [*_summary(view), "", *view.document.rstrip().splitlines()])


@profile.command("list")
@authority_option
@json_option
def list_profiles(authority_dir: Path) -> None:
    """All profiles."""
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        views = client.profiles()
    rows = [
        {
            "name": view.name,
            "pcrs": " ".join(map(str, view.pcrs)),
            "trust": " ".join(view.trust),
            "epochs": " ".join(str(epoch.epoch) for epoch in view.epochs),
            "approvals": sum(len(epoch.approvals) for epoch in view.epochs),
            "description": view.description,
        }
        for view in views
    ]
    emit(
        [view.model_dump(mode="json") for view in views],
        table(rows, ["name", "pcrs", "trust", "epochs", "approvals", "description"], "no profiles"),
    )


@profile.command()
@click.argument("name")
@click.option("--host", "host", required=True, help="The enrolled host whose last verified state is to be approved.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and sign nothing.")
@authority_option
@json_option
def approve(name: str, host: str, dry_run: bool, authority_dir: Path) -> None:
    """Approve a host's state for the profile NAME, if it meets every requirement.

    An approval is public and good on every host in that state, for as long as the profile's epoch lasts.
    """
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        views = client.approve(name, host, dry_run=dry_run)
    emit([view.model_dump(mode="json") for view in views], lambda: approval_lines(views))


def approval_lines(views: Sequence[ApprovalView]) -> list[str]:
    """An approval for people: each requirement with the event that decides, then who has access."""
    lines: list[str] = []
    for view in views:
        lines += [f"{'met' if r.met else 'NOT'}  {r.name}  {r.detail}" for r in view.requirements]
        verb = {"signed": "approval signed", "existing": "approved before", "dry-run": "nothing signed (dry run)"}
        lines.append(f"{verb[view.outcome]}: epoch {view.epoch}, PCR digest {view.pcr_digest.hex()[:16]}…")
        lines.append(f"  satisfied by:     {', '.join(view.satisfied_by) or 'no host'}")
        lines.append(f"  not satisfied by: {', '.join(view.not_satisfied_by) or 'no host'}")
    return lines


def _summary(view: ProfileView) -> list[str]:
    from sealvm.crypto.ec import keyid_of

    lines = [
        f"profile '{view.name}'{'' if view.outcome == 'shown' else ' ' + view.outcome}: {view.description}",
        f"  PCRs {' '.join(map(str, view.pcrs))}; TPMs of class {', '.join(view.trust)}",
    ]
    for epoch in view.epochs:
        cell = f" cell {epoch.cell}" if epoch.cell else ""
        approvals = ", ".join(epoch.approvals) or "none"
        lines.append(
            f"  epoch {epoch.epoch}{cell} ({epoch.mode}): key {keyid_of(epoch.point)[:16]}…, approvals: {approvals}"
        )
    return lines
