"""`sealvm profile`: what a trustworthy state is, and which states were found to be one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit, table
from sealvm.cli.profile_approve import approve, queue, withdraw
from sealvm.cli.profile_epochs import cell, retire, rotate, rule
from sealvm.cli.profile_lint import lint
from sealvm.cli.profile_predict import predict

if TYPE_CHECKING:
    from sealvm.protocol.operator import ProfileView


@click.group()
def profile() -> None:
    """Define security profiles and approve host states."""


for command in (lint, predict, approve, queue, withdraw, rotate, retire, cell, rule):
    profile.add_command(command)


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


def _summary(view: ProfileView) -> list[str]:
    from sealvm.crypto.ec import keyid_of

    lines = [
        f"profile '{view.name}'{'' if view.outcome == 'shown' else ' ' + view.outcome}: {view.description}",
        f"  PCRs {' '.join(map(str, view.pcrs))}; TPMs of class {', '.join(view.trust)}",
    ]
    for epoch in view.epochs:
        named = f"epoch {epoch.epoch}" + (f" cell {epoch.cell}" if epoch.cell else "")
        if epoch.retired is not None:
            lines.append(f"  {named}: retired {epoch.retired:%Y-%m-%d}")
            continue
        closed = "" if epoch.wraps else ", no new wraps"
        key = f"key {keyid_of(epoch.point)[:16]}…"
        lines.append(
            f"  {named} ({epoch.mode}{closed}): {key}, approvals: {'' if epoch.approvals else 'none'}".rstrip()
        )
        states = zip(epoch.digests, epoch.approvals, strict=True)
        lines += [f"    {digest.hex()[:16]}  {label}" for digest, label in states]
    return lines
