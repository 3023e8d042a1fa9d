"""The measured host's other end of the lab's serial line: runs what it is told and answers how it ended.

Runs inside the guest with Debian's python3 and nothing else, so it imports only the standard library. Each request is
one line of JSON, {"argv": [...], "limit_seconds": n}; each answer one line, {"code", "stdout", "stderr"}. The first
line it sends is {"ready": the kernel's command line}.
"""

from __future__ import annotations

import json
import subprocess
import termios
import tty
from pathlib import Path
from typing import Any, BinaryIO

PORT = "/dev/ttyS1"
NOT_STARTED = 127
TOO_LATE = 124


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the request's program to its end."""
    try:
        done = subprocess.run(
            request["argv"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=request["limit_seconds"],
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return {"code": TOO_LATE, "stdout": "", "stderr": str(late)}
    except OSError as problem:
        return {"code": NOT_STARTED, "stdout": "", "stderr": str(problem)}
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def serve(port: BinaryIO) -> None:
    """Answer until the line is closed."""
    _send(port, {"ready": Path("/proc/cmdline").read_text().strip()})
    line = b""
    while byte := port.read(1):
        if byte != b"\n":
            line += byte
            continue
        _send(port, answer(json.loads(line)))
        line = b""


def _send(port: BinaryIO, message: dict[str, Any]) -> None:
    left = memoryview(json.dumps(message).encode() + b"\n")
    while left:
        left = left[port.write(left) :]


def main() -> None:
    """Serve on the second serial port, raw and as fast as it goes."""
    with Path(PORT).open("r+b", buffering=0) as port:
        line = port.fileno()
        tty.setraw(line)
        attributes = termios.tcgetattr(line)
        attributes[4] = attributes[5] = termios.B115200
        termios.tcsetattr(line, termios.TCSANOW, attributes)
        serve(port)


if __name__ == "__main__":
    main()
