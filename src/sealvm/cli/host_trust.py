"""`sealvm host evidence|assign`: a host's state as a file; which cell it belongs to."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.options import authority_option, host_argument, json_option
from sealvm.cli.output import emit
from sealvm.cli.profile_epochs import dry_run_option, made


@click.command()
@host_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@json_option
def evidence(host_dir: Path, out: Path) -> None:
    """Write this host's quoted state to a file, for `profile approve --evidence` and `profile predict`."""
    from sealvm.host.config import load_host
    from sealvm.host.evidence import saved_evidence
    from sealvm.store.atomic import write_atomic

    found = saved_evidence(load_host(host_dir))
    write_atomic(out, found.model_dump_json().encode())
    data = {"host": found.host, "pcrs": list(found.pcrs), "file": str(out)}
    emit(data, [f"evidence of host '{found.host}' written to {out}, PCRs {' '.join(map(str, found.pcrs))}"])


@click.command()
@click.argument("name")
@click.option("--cell", required=True, help="The cell; '' for none.")
@dry_run_option
@authority_option
@json_option
def assign(name: str, cell: str, dry_run: bool, authority_dir: Path) -> None:
    """Put the host NAME into a cell: it gets that cell's keys at its next sync, and no other cell's new ones."""
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.protocol.trust import AssignRequest

    request = made(AssignRequest, cell=cell, dry_run=dry_run)
    with operator_client(authority_dir) as client:
        view = trust.assign_host(client, name, request)
    where = f"cell '{cell}', which has keys of: {', '.join(view.profiles)}" if cell else "no cell"
    belongs, opens = ("would belong", "would also open") if view.dry_run else ("belongs", "also opens")
    lines = [f"host '{name}' {belongs} to {where}"]
    if view.keeps:
        lines.append(f"  until these epochs are retired it {opens}: {', '.join(view.keeps)}")
    emit(view.model_dump(mode="json"), lines)
