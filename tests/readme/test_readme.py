"""The README's commands do what it shows: each is run in order, and what it prints is compared line by line.

Compared are words; what differs from run to run (digests, key ids, times, sizes, ports, paths) is folded first, in the
README and in the run alike.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from sealvm.lab.network import Lab

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
END = "-- end of command --"


def session() -> list[tuple[str, list[str]]]:
    """Every `$ command` of the README's console blocks, with the lines it shows."""
    steps: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
    return steps


def folded(line: str) -> str:
    line = re.sub(r"/\S*?/\.sealvm", "…/.sealvm", line)
    line = re.sub(r"\b[0-9a-f]{12,64}\b", "#", line)
    line = re.sub(r"\d{4}-\d\d-\d\d([T ][\d:]+(\+00:00|Z)?)?", "DATE", line)
    line = re.sub(r"\b\d+(\.\d+)? (ms|s|MiB|bytes)\b", r"N \2", line)
    line = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", line)
    line = re.sub(r"\((tcg|kvm)\)", "(ACCELERATOR)", line)
    line = re.sub(r"^\d+ entries", "N entries", line)
    return re.sub(r" {2,}", "  ", line).rstrip()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_readme(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> None:
    place = tmp_path_factory.mktemp("readme")
    (place / ".venv").symlink_to(ROOT / ".venv")
    (place / "examples").symlink_to(ROOT / "examples")
    (place / ".sealvm").mkdir()
    (place / ".sealvm" / "cache").symlink_to(shared_cache)
    steps = session()
    script = "".join(f"{command}\necho '{END}'\n" for command, _ in steps)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SEALVM_")}
    try:
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1\n{script}"],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    finally:
        Lab(place / ".sealvm" / "lab").down(remove=True)
    printed = [part.strip("\n").splitlines() for part in done.stdout.split(f"{END}\n")]
    for (command, shown), real in zip(steps, printed, strict=False):
        assert [folded(line) for line in real] == [folded(line) for line in shown], f"$ {command}"
    assert len(printed) == len(steps) + 1


def test_the_readme_names_files_that_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readme_shows_no_unknown_command() -> None:
    from sealvm.cli.main import cli

    for command, _ in session():
        for group, sub in re.findall(r"sealvm ([a-z]+) ([a-z]+)", command):
            found = cli.get_command(None, group)  # type: ignore[arg-type]
            assert found is not None
            assert sub in found.commands, command  # type: ignore[attr-defined]
