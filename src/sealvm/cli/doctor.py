"""`sealvm doctor`: what this machine lacks for the role it is to play."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from sealvm.cli.options import host_option, json_option
from sealvm.cli.output import emit

_MARKS = {"ok": "ok  ", "warn": "warn", "missing": "MISS"}


@click.command()
@host_option
@json_option
def doctor(host_dir: Path) -> None:
    """Check what this machine lacks for the role it is to play.

    Looks at programs, accelerator, swap, boot log and TPM, and says what to do about each. Exit code 45 when something
    that sealvm needs is missing.
    """
    from sealvm.cli.exit_codes import EXIT_CODES
    from sealvm.errors import EnvironmentFault
    from sealvm.host.doctor import examine

    checks = examine(host_dir)
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.status]}  {check.name}: {check.found}")
        if check.hint and check.status != "ok":
            lines.append(f"        {check.hint}")
    emit([asdict(check) for check in checks], lines)
    if any(check.status == "missing" for check in checks):
        sys.exit(EXIT_CODES[EnvironmentFault])
