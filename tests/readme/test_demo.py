"""`sealvm demo` says what the README says, in the same order and words."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sealvm.lab.network import Lab
from tests.readme.test_readme import README, folded


def told(line: str) -> str:
    line = re.sub(r"TENANT-SECRET-[0-9a-f]{8}", "TENANT-SECRET-#", folded(line))
    line = re.sub(r"sha256:[0-9a-f]+…", "sha256:#…", line)
    line = re.sub(r"oci:\S+", "oci:REFERENCE", line)
    line = re.sub(r"VMs: QEMU \(.*\)$", "VMs: QEMU (ACCELERATOR)", line)
    line = re.sub(r"pid \d+", "pid N", line)
    return re.sub(r"(guest in|Done in) N s", r"\1 N s", line)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_is_the_transcript(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> None:
    place = tmp_path_factory.mktemp("demo")
    lab = place / "lab"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sealvm.cli", "demo", "--cache", str(shared_cache)],
            cwd=place,
            env={**os.environ, "SEALVM_LAB": str(lab)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    finally:
        Lab(lab).down(remove=True)
    assert done.returncode == 0, done.stderr
    match = re.search(r"^```text\n(sealvm demo.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert match
    assert [told(line) for line in done.stdout.splitlines()] == [told(line) for line in match[1].splitlines()]
