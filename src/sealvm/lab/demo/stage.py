"""What the steps of the demo share."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealvm.errors import Fault
from sealvm.lab.network import Lab

PROFILE = "measured-kernel"
LAUNCH_LIMIT_SECONDS = 180
IN_EMPTY_NAMESPACE = ("unshare", "--net")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of the program ended: its exit code, what it printed as JSON, and its error if there was one."""

    exit_code: int
    data: Any
    error: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """The lab, where disks are cached, and the voice. The marker is this run's own."""

    lab: Lab
    cache: Path
    say: Callable[[str], None]
    marker: str = field(default_factory=lambda: f"TENANT-SECRET-{secrets.token_hex(4)}")

    @property
    def greeting(self) -> str:
        """What the guest says on its console, from its own init."""
        return f"Hello from the sealed VM; {self.marker}"

    @property
    def packages(self) -> Path:
        """Where launch packages lie: an OCI image layout."""
        return self.lab.directory / "packages"

    @property
    def reference(self) -> str:
        """The demo's package."""
        return f"oci:{self.packages}:demo"

    def program(self, *arguments: str, prefix: Sequence[str] = ()) -> Outcome:
        """Run `sealvm ARGUMENTS --json` in a process of its own, behind `prefix`.

        Raises Fault when it does not end in time or does not speak JSON.
        """
        command = [*prefix, sys.executable, "-m", "sealvm.cli", *arguments, "--json"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LAUNCH_LIMIT_SECONDS,
                check=False,
            )
            data = json.loads(done.stdout) if done.stdout.strip() else None
            error = json.loads(done.stderr.strip().splitlines()[-1])["error"] if done.returncode else {}
        except subprocess.TimeoutExpired as late:
            raise Fault(f"sealvm {arguments[0]} {arguments[1]} did not end in {LAUNCH_LIMIT_SECONDS} s") from late
        except (ValueError, KeyError, IndexError, TypeError) as problem:
            raise Fault(f"sealvm {arguments[0]} {arguments[1]}: {done.stderr.strip()[-500:]}") from problem
        return Outcome(done.returncode, data, error)
