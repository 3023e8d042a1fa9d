"""`sealvm bundle`: the trust bundle as a file, to be carried where no network is."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.options import authority_option, host_argument, json_option
from sealvm.cli.output import emit


@click.group()
def bundle() -> None:
    """Carry the trust bundle on a stick."""


@bundle.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@authority_option
@json_option
def export(out: Path, authority_dir: Path) -> None:
    """Write the authority's present trust bundle to a file. It is public, and signed."""
    from sealvm.client.operator import operator_client, trusted_bundle
    from sealvm.store.atomic import write_atomic

    with operator_client(authority_dir) as client:
        envelope = client.bundle()
    found = trusted_bundle(authority_dir, envelope)
    write_atomic(out, envelope)
    data = {"version": found.version, "expires": found.expires.isoformat(), "file": str(out)}
    emit(data, [f"trust bundle {found.version}, good until {found.expires:%Y-%m-%d}, written to {out}"])


@bundle.command("import")
@host_argument
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def import_(host_dir: Path, file: Path) -> None:
    """Give HOST the trust bundle in FILE, if its anchor signed it and it is no older than what HOST has seen."""
    from sealvm.cli.files import read_bundle
    from sealvm.host.sync import import_bundle

    found = import_bundle(host_dir, read_bundle(file) or b"")
    data = {"version": found.version, "expires": found.expires.isoformat()}
    emit(data, [f"trust bundle {found.version} taken, good until {found.expires:%Y-%m-%d}"])
