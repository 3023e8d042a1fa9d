"""Reading through the block server beside qemu-storage-daemon serving LUKS, the same bytes in the same run.

    python bench/blockserver.py [--mib 1024] [--rounds 3] [--dir DIR] [--json]

Both over NBD on a Unix socket, read by `qemu-img bench`: 1 MiB in sequence, 4 in flight; 4 KiB at scattered offsets,
1 and 8 in flight. The bars (DESIGN section 16): 5 times LUKS in sequence, equal at random. The best round counts.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from package import MIB, SECRET, convert_to_luks
from sealvm.crypto import hpke
from sealvm.crypto.ec import SoftwareSigner
from sealvm.host.blockserver.server import start_block_server
from sealvm.package.expression import any_of
from sealvm.package.recipients import ProfileKeyRef, wrap_info
from sealvm.provisioner.build import BuildOptions, build_package
from sealvm.secret import Secret
from sealvm.store.layout import OciLayout
from sealvm.store.reference import Reference

RANDOM_READS = 3000
STEP = 331776  # a multiple of 4096 that is none of any chunk size
WORKLOADS = {
    "sequential_gb_per_second": (1 * MIB, 4, MIB),
    "random_reads_per_second": (4096, 1, STEP),
    "random_reads_per_second_8": (4096, 8, STEP),
}


@contextlib.contextmanager
def block_server(directory: Path, image: Path, chunk_bytes: int | None) -> Iterator[str]:
    signer, profile_key = SoftwareSigner.generate(), SoftwareSigner.generate()
    options = BuildOptions(chunk_bytes=chunk_bytes) if chunk_bytes else BuildOptions()
    report = build_package(
        image,
        Reference(directory / "oci", "bench"),
        expression=any_of(["bench"]),
        profile_keys=[ProfileKeyRef("bench", 1, "", profile_key.point)],
        signer=signer,
        options=options,
    )
    key = unwrap(directory / "oci", report.header_digest, profile_key)
    runtime = directory / "run"
    runtime.mkdir()
    server = start_block_server(directory / "oci", report.header_digest, key, runtime)
    try:
        yield f"nbd+unix:///?socket={server.socket}"
    finally:
        server.stop()


def unwrap(oci: Path, digest: str, profile_key: SoftwareSigner) -> Secret:
    """K, by the profile key in memory: this is about reading, not about the TPM."""
    layout = OciLayout.open(oci)
    recipients = layout.get_blob(json.loads(layout.resolve("bench").data)["layers"][1]["digest"], 1 << 16)
    wrap = json.loads(recipients)["tree"]["wraps"][0]["wrap"]
    return hpke.open_with_scalar(base64.b64decode(wrap), wrap_info("bench", 1, "", digest), profile_key.scalar())


@contextlib.contextmanager
def luks_server(directory: Path, image: Path) -> Iterator[str]:
    target, socket = directory / "image.luks", directory / "luks.sock"
    convert_to_luks(image, target)
    arguments = ["--object", SECRET, "--blockdev", f"file,node-name=f,filename={target}"]
    arguments += ["--blockdev", "luks,node-name=l,file=f,key-secret=s,read-only=on"]
    arguments += ["--nbd-server", f"addr.type=unix,addr.path={socket}", "--export", "nbd,id=e,node-name=l,name="]
    daemon = subprocess.Popen(["qemu-storage-daemon", *arguments])
    try:
        while not socket.exists() and daemon.poll() is None:
            time.sleep(0.01)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        daemon.terminate()
        daemon.wait()


def bench(uri: str, mib: int, size: int, depth: int, step: int) -> float:
    count = min(mib * MIB // step, RANDOM_READS)
    command = [
        "qemu-img",
        "bench",
        "-f",
        "raw",
        "-c",
        str(count),
        "-d",
        str(depth),
        "-s",
        str(size),
        "-S",
        str(step),
        uri,
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"completed in ([0-9.]+) seconds", output)
    assert match, output
    per_second = count / float(match[1])
    return per_second * size / 1e9 if size == MIB else per_second


def measure(directory: Path, mib: int, rounds: int, chunk_bytes: int | None) -> dict[str, dict[str, float]]:
    image = directory / "image.raw"
    with image.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    found: dict[str, dict[str, float]] = {name: {"blockserver": 0.0, "luks": 0.0} for name in WORKLOADS}
    with block_server(directory, image, chunk_bytes) as ours, luks_server(directory, image) as peer:
        for _ in range(rounds):
            for name, (size, depth, step) in WORKLOADS.items():
                for who, uri in (("blockserver", ours), ("luks", peer)):
                    found[name][who] = max(found[name][who], bench(uri, mib, size, depth, step))
    for values in found.values():
        values["ratio"] = values["blockserver"] / values["luks"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk-kib", type=int, default=0, help="the builder's default when 0")
    parser.add_argument("--dir", type=Path, default=None, help="where to work; a temporary directory by default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        found = measure(Path(directory), arguments.mib, arguments.rounds, arguments.chunk_kib * 1024 or None)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{'':28}{'block server':>14}{'LUKS':>14}{'ratio':>8}")
    for name, values in found.items():
        print(f"{name:28}{values['blockserver']:14.2f}{values['luks']:14.2f}{values['ratio']:8.2f}")


if __name__ == "__main__":
    main()
