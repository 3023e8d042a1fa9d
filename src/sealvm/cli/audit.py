"""`sealvm audit`: the authority's hash-chained log of every state change."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit

PAGE = 1000
FILE_LIMIT_BYTES = 256 * 1024 * 1024


@click.group()
def audit() -> None:
    """Export and verify the authority's audit log."""


@audit.command()
@authority_option
def export(authority_dir: Path) -> None:
    """Print every entry, one JSON object a line. Entries hold no secrets."""
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        after = 0
        while entries := client.audit(after, PAGE):
            for entry in entries:
                click.echo(json.dumps(entry.model_dump(mode="json"), sort_keys=True, ensure_ascii=False))
            after = entries[-1].sequence


@audit.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--last", help="Digest (hex) of the last entry, as noted elsewhere: then a cut end is noticed too.")
@json_option
def verify(file: Path, last: str | None) -> None:
    """Verify an exported log, offline: no entry was changed, removed, added or moved."""
    from sealvm.authority.audit import parse_export
    from sealvm.authority.audit import verify as verify_entries
    from sealvm.errors import MalformedError
    from sealvm.host.files import read_limited

    try:
        last_digest = bytes.fromhex(last) if last else None
    except ValueError as problem:
        raise MalformedError("--last: expected hexadecimal digits") from problem
    records = parse_export(read_limited(file, FILE_LIMIT_BYTES))
    count = verify_entries(records, last_digest=last_digest)
    digest = records[-1].digest.hex() if records else ""
    emit({"entries": count, "last": digest}, [f"{count} entries, unbroken; last {digest}"])
