"""How the program speaks: data to stdout, everything else to stderr, and errors in plain words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from sealvm.errors import SealvmError


def as_json() -> bool:
    """Whether the caller asked for `--json` on this command."""
    ctx = click.get_current_context(silent=True)
    return bool(ctx and ctx.meta.get("sealvm.json"))


def emit(data: Any, lines: Sequence[str] | Callable[[], Sequence[str]]) -> None:
    """Print a command's result: `data` under `--json`, else the text `lines`."""
    if as_json():
        click.echo(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False))
        return
    for line in lines() if callable(lines) else lines:
        click.echo(line)


def note(message: str) -> None:
    """A diagnostic for people, on stderr; silent under `--json`."""
    if not as_json():
        click.echo(message, err=True)


def report_error(error: SealvmError, exit_code: int, *, json_wanted: bool) -> None:
    """Say what went wrong on stderr: the message, the details a refusal carries, and what to do."""
    if json_wanted:
        body = {"code": error.code, "exit": exit_code, "message": error.message, "hint": error.hint, **error.fields}
        click.echo(json.dumps({"error": body}, sort_keys=True, ensure_ascii=False, default=str), err=True)
        return
    click.echo(f"sealvm: {error.message} ({error.code}, exit {exit_code})", err=True)
    details = error.fields.get("explanation_lines")
    if isinstance(details, Sequence) and not isinstance(details, str):
        for line in details:
            click.echo(f"  {line}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str], empty: str) -> list[str]:
    """Rows as aligned text under a heading; `empty` when there are none."""
    if not rows:
        return [empty]
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    layout = [[column.upper().replace("_", "-") for column in columns], *cells]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in layout]


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, fed with (done, total) bytes; silent when stderr is no terminal or under `--json`."""
    if as_json() or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
