"""`sealvm profile lint`: what a profile leaves open, or asks that only one host can answer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from sealvm.cli.options import json_option
from sealvm.cli.output import emit
from sealvm.errors import InputError


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Fail, with exit code 10, when there is a warning.")
@json_option
def lint(file: Path, strict: bool) -> None:
    """Warn about what the profile in FILE (YAML) leaves open. Needs no authority.

    A file system that nothing binds, options that only one host has, a kernel that anything may run before, and the
    like; docs/profiles.md lists the rules. Ends with exit code 0 also when it warns, and 11 when FILE is no profile.
    """
    from sealvm.attest.lint import lint as warnings_of
    from sealvm.cli.files import read_text

    found = warnings_of(read_text(file, "profile"), str(file))
    lines = [line for one in found for line in (one.text(str(file)), f"  {one.hint}")]
    emit({"file": str(file), "warnings": [asdict(one) for one in found]}, lines or [f"{file}: no warnings"])
    if strict and found:
        raise InputError(f"{file}: {len(found)} warning{'s' if len(found) > 1 else ''}", hint="change what they name")
