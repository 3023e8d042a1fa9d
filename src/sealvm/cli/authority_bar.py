"""`sealvm authority bar`: TPM models and firmware that may not take part."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit, table


@click.group()
def bar() -> None:
    """Barred TPMs: models and firmware that turned out broken may neither enroll nor synchronise."""


@bar.command()
@click.argument("manufacturer")
@click.option("--model", default="", help="Only this model, as the EK certificate writes it.")
@click.option("--version", default="", help="Only this firmware version, such as id:00490004.")
@click.option("--before", default="", help="Only firmware before this version.")
@click.option("--reason", default="", help="Why; for the audit log.")
@authority_option
@json_option
def add(*, manufacturer: str, model: str, version: str, before: str, reason: str, authority_dir: Path) -> None:
    """Bar TPMs of MANUFACTURER, such as STM or id:53544D20, from now on."""
    from pydantic import TypeAdapter

    from sealvm.client.hosts import add_bar
    from sealvm.client.operator import operator_client
    from sealvm.protocol.hosts import BarRequest
    from sealvm.statements.encoding import parse_message

    fields = {"manufacturer": manufacturer, "model": model, "version": version, "before": before, "reason": reason}
    request = parse_message(TypeAdapter(BarRequest), fields, "bar")
    with operator_client(authority_dir) as client:
        view = add_bar(client, request)
    locked = f"enrolled hosts that this locks out: {', '.join(view.hosts) or 'none'}"
    emit(view.model_dump(mode="json"), [f"barred ({view.bar_id})", locked])


@bar.command("list")
@authority_option
@json_option
def list_bars(authority_dir: Path) -> None:
    """The barred TPMs, and the enrolled hosts they lock out."""
    from sealvm.client.hosts import bars
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        rows = [view.model_dump(mode="json") for view in bars(client)]
    shown = [{**row, "hosts": " ".join(row["hosts"])} for row in rows]
    columns = ["bar_id", "manufacturer", "model", "version", "before", "hosts", "reason"]
    emit(rows, table(shown, columns, "no TPM is barred"))


@bar.command()
@click.argument("bar_id")
@authority_option
@json_option
def remove(bar_id: str, authority_dir: Path) -> None:
    """Lift the bar BAR_ID; the hosts it covered may synchronise again."""
    from sealvm.client.hosts import remove_bar
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        view = remove_bar(client, bar_id)
    emit(view.model_dump(mode="json"), [f"bar {bar_id} lifted; hosts let in again: {', '.join(view.hosts) or 'none'}"])


@click.command("remove")
@click.argument("sha256")
@authority_option
@json_option
def root_remove(sha256: str, authority_dir: Path) -> None:
    """Stop accepting the EK root whose SHA-256 begins with SHA256; hosts that enrolled under it are locked out."""
    from sealvm.client.hosts import remove_root
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        view = remove_root(client, sha256.lower())
    emit(
        view.model_dump(mode="json"),
        [f"EK root no longer accepted: {view.subject}", f"hosts locked out: {', '.join(view.hosts) or 'none'}"],
    )
