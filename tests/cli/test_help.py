"""Every command explains itself, quickly, and says no to what it does not know with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sealvm.cli.main import cli

SEALVM = Path(sys.executable).with_name("sealvm")
HEAVY = ("pydantic", "cryptography", "tpm2_pytss", "sqlalchemy", "fastapi", "httpx", "rich", "qemu", "ruamel")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(cli))


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SEALVM, *arguments], capture_output=True, text=True, check=False, env={"PATH": "", **env})


def loaded_after(*arguments: str) -> set[str]:
    """The modules that the program has imported when it ends."""
    code = (
        "import json, sys\nfrom sealvm.cli.main import cli\n"
        f"cli.main({list(arguments)!r}, prog_name='sealvm', standalone_mode=False)\n"
        "print('\\n' + json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    command = ALL[path]
    shown = CliRunner().invoke(cli, [*path, "--help"], prog_name="sealvm")
    assert shown.exit_code == 0
    assert command.help
    assert command.get_short_help_str(200).endswith((".", "…", "...")) or "(" in command.get_short_help_str(200)
    assert shown.output.startswith(f"Usage: sealvm {' '.join(path)} ")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.show_default, parameter.name


def test_the_table_of_commands_says_what_each_command_says_of_itself() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    said = " ".join(shown.split())
    for path, command in ALL.items():
        if len(path) == 1:
            assert f"{path[0]} {' '.join((command.help or '').split(chr(10) * 2)[0].split())}" in said


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)], ids=" ".join)
def test_the_program_itself_loads_no_command(arguments: tuple[str, ...]) -> None:
    loaded = loaded_after(*arguments)
    assert not {name.partition(".")[0] for name in loaded} & set(HEAVY)
    assert not any(
        name.startswith("sealvm.") and not name.startswith("sealvm.cli") for name in loaded - {"sealvm.errors"}
    )


@pytest.mark.parametrize("name", [path[0] for path in ALL if len(path) == 1])
def test_a_groups_help_loads_nothing_heavy(name: str) -> None:
    assert not {module.partition(".")[0] for module in loaded_after(name, "--help")} & {*HEAVY}


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"sealvm, version {version('sealvm')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nope",),
        ("vm",),
        ("vm", "nope"),
        ("vm", "launch"),
        ("vm", "launch", "oci:x", "--cpus", "none"),
        ("vm", "launch", "oci:x", "--memory", "1"),
        ("vm", "launch", "oci:x", "--nope"),
        ("package", "build", "x", "oci:y"),
        ("authority", "root", "add", "x"),
        ("authority", "root", "add", "x", "--class", "nope"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_right(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: sealvm" in done.stderr
    assert "Traceback" not in done.stderr
