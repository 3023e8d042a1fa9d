"""A launch that needs no lease does not load what speaks to the authority."""

from __future__ import annotations

import subprocess
import sys


def test_launching_loads_no_network_client() -> None:
    program = "import sys, sealvm.cli.vm, sealvm.host.launch; print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
