"""The block server serves exactly the image, refuses exactly the bad chunks, and keeps what it knows to itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import HypervisorFault, InputError, IntegrityRefused
from sealvm.host.blockserver.server import BlockServer, find_block_server, start_block_server
from sealvm.package.chunks import Compression
from sealvm.package.expression import any_of
from sealvm.package.locate import header_of
from sealvm.package.open import open_package
from sealvm.package.recipients import ProfileKeyRef
from sealvm.provisioner.build import BuildOptions, build_package
from sealvm.secret import Secret
from sealvm.store.layout import OciLayout
from sealvm.store.reference import Reference
from tests.package.memory import SoftwareKeys

pytestmark = pytest.mark.skipif(shutil.which("nbdkit") is None, reason="needs nbdkit")
CHUNK = 64 * 1024
MIB = 1 << 20


@dataclass
class Package:
    image: Path
    directory: Path
    digest: str
    key: Secret
    pack: Path


@pytest.fixture
def package(tmp_path: Path) -> Package:
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.write(os.urandom(2 * MIB))
        file.seek(6 * MIB)
        file.write(b"text that compresses " * 10000)
        file.truncate(8 * MIB + 512)
    signer, keys = SoftwareSigner.generate(), SoftwareKeys()
    leaf: ProfileKeyRef = keys.add("p")
    directory = tmp_path / "oci"
    build_package(
        image,
        Reference(directory, "v1"),
        expression=any_of(["p"]),
        profile_keys=[leaf],
        signer=signer,
        options=BuildOptions(chunk_bytes=CHUNK, compression=Compression(3)),
    )
    opened = open_package(OciLayout.open(directory), "v1", {signer.point: None})
    pack = directory / "blobs" / "sha256" / opened.header.packs[0].digest.removeprefix("sha256:")
    return Package(image, directory, opened.header_digest, opened.unwrap(keys), pack)


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """Short enough for a socket, and reachable for `nobody` as a host directory's run/ need not be."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def server(package: Package, runtime: Path) -> Iterator[BlockServer]:
    started = start_block_server(package.directory, package.digest, package.key, runtime)
    yield started
    started.stop()


def uri(server: BlockServer) -> str:
    return f"nbd+unix:///?socket={server.socket}"


def read_chunk(server: BlockServer, number: int) -> bytes | None:
    """One chunk through qemu-io; None for an I/O error."""
    command = f"read -v {number * CHUNK} 512"
    done = subprocess.run(["qemu-io", "-r", "-f", "raw", "-c", command, uri(server)], capture_output=True, check=False)
    return None if b"Input/output error" in done.stdout + done.stderr else done.stdout


def test_serves_the_image(package: Package, server: BlockServer) -> None:
    compared = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "raw", package.image, uri(server)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "identical" in compared.stdout, compared.stdout + compared.stderr


def test_copy_by_libnbd_is_the_image(package: Package, server: BlockServer, tmp_path: Path) -> None:
    subprocess.run(["nbdcopy", uri(server), tmp_path / "copy"], check=True)
    assert (tmp_path / "copy").read_bytes() == package.image.read_bytes()


def test_reports_holes_size_and_that_it_is_read_only(server: BlockServer) -> None:
    info = subprocess.run(["nbdinfo", "--no-content", uri(server)], capture_output=True, text=True, check=True).stdout
    assert f"export-size: {8 * MIB + 512}" in info
    assert "is_read_only: true" in info
    assert "can_multi_conn: true" in info
    holes = subprocess.run(["nbdinfo", "--map", uri(server)], capture_output=True, text=True, check=True).stdout
    assert [line.split()[:3] for line in holes.splitlines()][:3] == [
        ["0", str(2 * MIB), "0"],
        [str(2 * MIB), str(4 * MIB), "3"],
        [str(6 * MIB), str(4 * CHUNK), "0"],
    ]


def test_writing_is_refused(server: BlockServer) -> None:
    done = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write 0 512", uri(server)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 or "read-only" in done.stdout + done.stderr


def test_flipped_byte_is_an_io_error_for_its_chunk_only(package: Package, runtime: Path) -> None:
    with package.pack.open("r+b") as file:
        file.seek(CHUNK + 100)  # in the second chunk of noise
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    server = start_block_server(package.directory, package.digest, package.key, runtime)
    try:
        assert read_chunk(server, 1) is None
        assert read_chunk(server, 1) is None
        for number in (0, 2, 40, 100):
            assert read_chunk(server, number)
        lines = server.log.read_text().splitlines()
        assert len(lines) == 1
        assert "integrity: chunk 1: ciphertext is not what the provisioner signed" in lines[0]
    finally:
        server.stop()


def test_bytes_changed_while_it_runs_are_noticed(package: Package, server: BlockServer) -> None:
    assert read_chunk(server, 0)
    with package.pack.open("r+b") as file:
        file.truncate(5 * CHUNK)
    assert read_chunk(server, 2)
    assert read_chunk(server, 30) is None


def test_key_is_nowhere_but_in_memory(package: Package, server: BlockServer) -> None:
    key = package.key.reveal()
    proc = Path(f"/proc/{server.pid}")
    for name in ("cmdline", "environ"):
        content = (proc / name).read_bytes()
        assert key not in content
        assert key.hex().encode() not in content
    for path in server.socket.parent.iterdir():
        assert not path.is_file() or key not in path.read_bytes()
    pipes = {os.readlink(descriptor) for descriptor in (proc / "fd").iterdir()}
    assert sum(name.startswith("pipe:") for name in pipes) <= 1  # nbdkit's own; the key's is closed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
def test_runs_without_privileges_and_leaves_no_core(server: BlockServer) -> None:
    status = Path(f"/proc/{server.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] != "0"
    assert int(fields["CapEff"], 16) == 0
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == ["1", "1"]
    assert Path(f"/proc/{server.pid}/mem").stat().st_uid == 0  # not dumpable


PARENT = """
import sys
from pathlib import Path
from sealvm.host.blockserver.server import start_block_server
from sealvm.secret import Secret
key = Secret(bytes.fromhex(sys.stdin.read()))
start_block_server(Path(sys.argv[1]), sys.argv[2], key, Path(sys.argv[3]))
"""


def test_outlives_its_parent_and_is_found_again(package: Package, runtime: Path) -> None:
    assert find_block_server(runtime) is None
    subprocess.run(
        [sys.executable, "-c", PARENT, package.directory, package.digest, runtime],
        input=package.key.reveal().hex(),
        text=True,
        check=True,
    )
    server = find_block_server(runtime)
    assert server is not None
    assert read_chunk(server, 0)
    server.stop()
    assert not server.alive()
    assert find_block_server(runtime) is None
    assert not server.socket.exists()
    server.stop()


def test_a_reused_pid_is_not_killed(package: Package, runtime: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "30"])
    try:
        (runtime / "blockserver.pid").write_text(f"{sleeper.pid} 1\n")
        assert find_block_server(runtime) is None
        BlockServer(sleeper.pid, 1, runtime / "s", runtime / "p", runtime / "l").stop()
        time.sleep(0.05)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_wrong_key_does_not_start(package: Package, runtime: Path) -> None:
    with pytest.raises(IntegrityRefused, match="commits to"):
        start_block_server(package.directory, package.digest, Secret(os.urandom(32)), runtime)
    assert not (runtime / "disk.sock").exists()


def test_unknown_package_and_broken_index_do_not_start(package: Package, runtime: Path) -> None:
    with pytest.raises(HypervisorFault, match="is not in this store"):
        start_block_server(package.directory, "0" * 64, package.key, runtime)
    package.pack.unlink()
    with pytest.raises(HypervisorFault, match="is not in"):
        start_block_server(package.directory, package.digest, package.key, runtime)


def test_flipped_index_is_a_refusal_not_a_fault(package: Package, runtime: Path) -> None:
    header = header_of(OciLayout.open(package.directory), package.digest)
    path = package.pack.with_name(header.index.blob.digest.removeprefix("sha256:"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityRefused, match="index root"):
        start_block_server(package.directory, package.digest, package.key, runtime)


def test_long_socket_path_is_refused(package: Package, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than"):
        start_block_server(package.directory, package.digest, package.key, tmp_path / ("x" * 100))
