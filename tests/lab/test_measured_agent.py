"""The guest's agent, run here: its answers, and that one request follows another."""

from __future__ import annotations

import json
import socket
import threading

from sealvm.lab import measured_agent
from sealvm.lab.measured_agent import NOT_STARTED, TOO_LATE, answer


def test_a_program_is_run_to_its_end() -> None:
    done = answer({"argv": ["sh", "-c", "echo out; echo err >&2; exit 3"], "limit_seconds": 10})
    assert done == {"code": 3, "stdout": "out\n", "stderr": "err\n"}


def test_a_program_that_is_not_there_or_does_not_end_is_an_answer_too() -> None:
    assert answer({"argv": ["/no/such/program"], "limit_seconds": 10})["code"] == NOT_STARTED
    assert answer({"argv": ["sleep", "10"], "limit_seconds": 0.05})["code"] == TOO_LATE


def test_it_says_that_it_is_ready_and_answers_line_by_line() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rwb", buffering=0) as port, ours.makefile("rwb") as line:
        serving = threading.Thread(target=measured_agent.serve, args=(port,))
        serving.start()
        assert "ready" in json.loads(line.readline())
        for word in ("one", "x" * 70_000):
            line.write(json.dumps({"argv": ["echo", word], "limit_seconds": 10}).encode() + b"\n")
            line.flush()
            assert json.loads(line.readline())["stdout"] == f"{word}\n"
        ours.shutdown(socket.SHUT_WR)
        serving.join(10)
        assert not serving.is_alive()
