"""`sealvm profile approve|queue|withdraw`: which states are trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit

if TYPE_CHECKING:
    from sealvm.protocol.operator import ApprovalView, DifferenceView
    from sealvm.protocol.trust import QueueEntry


@click.command()
@click.argument("name")
@click.option("--host", "host", help="The enrolled host whose last verified state is to be approved.")
@click.option("--state", help="The beginning of a PCR digest from `sealvm profile queue`.")
@click.option("--evidence", type=click.Path(path_type=Path), help="A file from `sealvm host evidence`.")
@click.option("--predicted", type=click.Path(path_type=Path), help="A file from `sealvm profile predict --out`.")
@click.option("--cell", help="Only for this cell. [default: all]")
@click.option("--epoch", type=click.IntRange(1), help="Only for this epoch. [default: all present ones]")
@click.option("--reinstate", is_flag=True, help="Also a state that was withdrawn.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and sign nothing.")
@authority_option
@json_option
def approve(
    *,
    name: str,
    host: str | None,
    state: str | None,
    evidence: Path | None,
    predicted: Path | None,
    cell: str | None,
    epoch: int | None,
    reinstate: bool,
    dry_run: bool,
    authority_dir: Path,
) -> None:
    """Approve a state for the profile NAME, if it meets every requirement: a host's, a queued, saved or predicted one.

    An approval is public and good on every host in that state, for as long as the profile's epoch lasts.
    """
    from pydantic import TypeAdapter

    from sealvm.cli.files import read_limited_file
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.errors import InputError
    from sealvm.protocol.operator import ApproveRequest
    from sealvm.protocol.trust import EVIDENCE_BYTES_LIMIT, parse_evidence, parse_prediction
    from sealvm.statements.encoding import parse_message

    if sum(given is not None for given in (host, state, evidence, predicted)) != 1:
        raise click.UsageError("give one of --host, --state, --evidence and --predicted")
    with operator_client(authority_dir) as client:
        if evidence is not None:
            saved = parse_evidence(read_limited_file(evidence, EVIDENCE_BYTES_LIMIT, "evidence"))
            taken = trust.add_evidence(client, saved)
            if name not in taken.profiles:
                raise InputError(f"profile {name} cannot be approved on the evidence of host {taken.host}")
            state = taken.profiles[name].hex()
        fields = {"host": host, "state": state, "cell": cell, "epoch": epoch}
        request = parse_message(
            TypeAdapter(ApproveRequest), {**fields, "reinstate": reinstate, "dry_run": dry_run}, "request"
        )
        if predicted is not None:
            prediction = parse_prediction(read_limited_file(predicted, EVIDENCE_BYTES_LIMIT, "prediction"))
            views = trust.approve_predicted(client, name, request, prediction)
        else:
            views = trust.approve(client, name, request)
    emit([view.model_dump(mode="json") for view in views], lambda: approval_lines(views))


@click.command()
@click.argument("name", required=False)
@authority_option
@json_option
def queue(name: str | None, authority_dir: Path) -> None:
    """States that hosts were verified in and that no approval covers, for the profile NAME or for all."""
    from sealvm.client import trust
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        entries = trust.queue(client, name)
    emit([entry.model_dump(mode="json") for entry in entries], lambda: _queue_lines(entries))


@click.command()
@click.argument("name")
@click.option("--state", required=True, help="The beginning of the PCR digest of an approved state.")
@click.option("--dry-run", is_flag=True, help="Say what it takes and what stays openable, and change nothing.")
@authority_option
@json_option
def withdraw(name: str, state: str, dry_run: bool, authority_dir: Path) -> None:
    """Stop approving a state for the profile NAME: a rotation without it.

    What was wrapped to older epochs stays openable in that state: an approval cannot be called back.
    """
    from pydantic import TypeAdapter

    from sealvm.cli.profile_epochs import rotation_lines
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.protocol.trust import WithdrawRequest
    from sealvm.statements.encoding import parse_message

    request = parse_message(TypeAdapter(WithdrawRequest), {"state": state, "dry_run": dry_run}, "request")
    with operator_client(authority_dir) as client:
        view = trust.withdraw(client, name, request)
    emit(view.model_dump(mode="json"), lambda: rotation_lines(view))


def approval_lines(views: Sequence[ApprovalView]) -> list[str]:
    """An approval for people: requirements with the event that decides, what differs, then who has access."""
    lines: list[str] = []
    verb = {
        "signed": "approval signed",
        "pending": "waits for the offline approver (sealvm approver request)",
        "existing": "approved before",
        "dry-run": "nothing signed (dry run)",
    }
    for index, view in enumerate(views):
        if index == 0:
            lines += [f"{'met' if r.met else 'NOT'}  {r.name}  {r.detail}" for r in view.requirements]
        if view.differences:
            lines += ["differs from the nearest approved state:", *_difference_lines(view.differences)]
        cell = f" cell {view.cell}" if view.cell else ""
        lines.append(f"{verb[view.outcome]}: epoch {view.epoch}{cell}, PCR digest {view.pcr_digest.hex()[:16]}…")
        if view.outcome == "dry-run":
            count = len(view.gaining)
            lines.append(f"  {count} host{'s' if count != 1 else ''} would gain access: {_listed(view.gaining)}")
        lines.append(f"  satisfied by:     {_listed(view.satisfied_by)}")
        lines.append(f"  not satisfied by: {_listed(view.not_satisfied_by)}")
    return lines


def _queue_lines(entries: Sequence[QueueEntry]) -> list[str]:
    lines: list[str] = []
    for entry in entries:
        verdict = "meets every requirement" if entry.satisfied else "does NOT meet the requirements"
        withdrawn = ", WITHDRAWN" if entry.withdrawn else ""
        lines.append(f"{entry.pcr_digest.hex()[:16]}  profile '{entry.profile}': {verdict}{withdrawn}")
        lines.append(f"  first seen {entry.first_seen:%Y-%m-%d %H:%M}, last {entry.last_seen:%Y-%m-%d %H:%M} UTC")
        lines.append(f"  shown by {entry.host} ({entry.trust_class}); hosts in it now: {_listed(entry.hosts_in_it)}")
        lines += [f"  NOT  {r.name}  {r.detail}" for r in entry.requirements if not r.met]
        lines += _difference_lines(entry.differences)
    return lines or ["no state waits"]


def _difference_lines(differences: Sequence[DifferenceView]) -> list[str]:
    lines = []
    for d in differences:
        place = "" if d.event_index is None else f", event {d.event_index}"
        lines += [f"  PCR {d.pcr}{place}: {d.what}", f"    approved: {d.approved}", f"    found:    {d.found}"]
    return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no host"
