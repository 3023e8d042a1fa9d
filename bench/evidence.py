"""How long it takes to judge a host's boot: verifying and parsing its log, one evaluation, one explanation.

    python bench/evidence.py [--rounds 200] [--json]

The log is that of a real boot by shim and GRUB with Secure Boot on (tests/data/eventlogs), 46 events. The explanation
compares it with the state of another real boot. `ima` is IMA's log of 2000 files made up here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path

from sealvm.attest.evaluate import evaluate
from sealvm.attest.explain import explain, reference_of
from sealvm.attest.profile import load_profile
from sealvm.attest.state import MeasuredState, local_state
from sealvm.tcg.imalog import parse_ima_log

ROOT = Path(__file__).parents[1]
BOOT_PCRS = (*range(10), *range(11, 15))
IMA_FILES = 2000


def recorded(name: str) -> Callable[[], MeasuredState]:
    """A function that verifies and reads the log of a recorded boot."""
    folder = ROOT / "tests/data/eventlogs" / name
    held = json.loads((folder / "pcrs.json").read_text())
    values = {pcr: bytes.fromhex(held[str(pcr)]) for pcr in BOOT_PCRS}
    log = (folder / "eventlog.bin").read_bytes()
    return lambda: local_state(values, log, [])


def ima_log() -> bytes:
    """An IMA log of the template ima-ng."""
    entries = []
    for number in range(IMA_FILES):
        path = f"/usr/bin/program-{number}\0".encode()
        data = (
            struct.pack("<I", 40) + b"sha256:\0" + hashlib.sha256(path).digest() + struct.pack("<I", len(path)) + path
        )
        digest = hashlib.sha1(data, usedforsecurity=False).digest()
        entries.append(struct.pack("<I20sI", 10, digest, 6) + b"ima-ng" + struct.pack("<I", len(data)) + data)
    return b"".join(entries)


def median_ms(work: Callable[[], object], rounds: int) -> float:
    """The median of `rounds` runs in milliseconds, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return round(statistics.median(times[1:]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    profile = load_profile((ROOT / "examples/profiles/secure-boot.yaml").read_text(), "secure-boot.yaml")
    read, other = recorded("secureboot-shim-grub"), recorded("secureboot-uki")
    state, reference, ima = read(), reference_of(other()), ima_log()
    found = {
        "log_ms": median_ms(read, arguments.rounds),
        "evaluation_ms": median_ms(lambda: evaluate(profile, state.evidence), arguments.rounds),
        "explain_ms": median_ms(lambda: explain(profile, [reference], state), arguments.rounds),
        "ima_log_ms": median_ms(lambda: parse_ima_log(ima), max(1, arguments.rounds // 10)),
    }
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name.removesuffix('_ms'):<12} {value:8.3f} ms")


if __name__ == "__main__":
    main()
