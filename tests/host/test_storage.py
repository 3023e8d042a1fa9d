"""The writable disk: its bytes, its secrets, and the headers that are refused. Second opinions: qemu-img, libnbd."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sealvm.errors import ConflictError, HypervisorFault, ImageError, IntegrityRefused, StorageFault
from sealvm.host import luks, qcow2
from sealvm.host.hypervisor.qmp import QmpConnection, start_controlled
from sealvm.host.nbd import read_export
from sealvm.host.storage import DISK_EXPORT, DiskSpec, StorageDaemon, create_disk, open_disk
from sealvm.secret import Secret
from tests.host import guests

MIB = 1 << 20
DISK_BYTES = 64 * MIB


@pytest.fixture
def spec(grub_image: Path, runtime: Path, tmp_path: Path) -> Iterator[DiskSpec]:
    server = guests.PlainServers(grub_image)(tmp_path, "", guests.overlay_key(), runtime)
    yield DiskSpec(tmp_path / "overlay.luks", DISK_BYTES, server.socket, runtime, tmp_path / "storage.log")
    server.stop()


@contextmanager
def served(daemon: StorageDaemon) -> Iterator[str]:
    try:
        yield f"nbd+unix:///{DISK_EXPORT}?socket={daemon.disk_socket}"
    finally:
        daemon.stop()
        for socket in (daemon.control_socket, daemon.disk_socket):
            socket.unlink(missing_ok=True)


def qemu_io(uri: str, *commands: str) -> str:
    argv = ["qemu-io", "-f", "raw"]
    for command in commands:
        argv += ["-c", command]
    return subprocess.run([*argv, uri], check=True, capture_output=True, text=True).stdout


def contents(uri: str) -> bytes:
    return subprocess.run(["nbdcopy", uri, "-"], check=True, capture_output=True).stdout


def test_a_new_disk_is_the_image_with_zeroes_after_it(spec: DiskSpec, grub_image: Path) -> None:
    with served(create_disk(spec, guests.overlay_key())) as uri:
        data = contents(uri)
    image = grub_image.read_bytes()
    assert data[: len(image)] == image
    assert data[len(image) :] == bytes(DISK_BYTES - len(image))


def test_what_was_written_is_there_after_opening_again(spec: DiskSpec, grub_image: Path) -> None:
    key, before = guests.overlay_key(), grub_image.read_bytes()
    with served(create_disk(spec, key)) as uri:
        qemu_io(uri, "write -P 0x5a 40M 1M", "write -P 0x5b 512 512", "flush")
    with served(open_disk(spec, key)) as uri:
        data = contents(uri)
    assert data[40 * MIB : 41 * MIB] == b"\x5a" * MIB
    assert data[512:1024] == b"\x5b" * 512
    assert data[1024 : len(before)] == before[1024:]
    assert grub_image.read_bytes() == before, "the image itself is never written"


def test_a_crash_of_the_daemon_loses_nothing_that_was_flushed(spec: DiskSpec) -> None:
    key = guests.overlay_key()
    daemon = create_disk(spec, key)
    with served(daemon) as uri:
        qemu_io(uri, "write -P 0x77 8M 1M", "flush")
        os.kill(daemon.process.pid, 9)
        assert daemon.process.wait(5)
    with served(open_disk(spec, key)) as uri:
        assert contents(uri)[8 * MIB : 9 * MIB] == b"\x77" * MIB


def test_the_overlay_holds_neither_plaintext_nor_key(spec: DiskSpec) -> None:
    key = guests.overlay_key()
    daemon = create_disk(spec, key)
    with served(daemon) as uri:
        qemu_io(uri, "write -P 0x41 10M 4M", "flush")
        environment = Path(f"/proc/{daemon.process.pid}/environ").read_bytes()
        command = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes()
        held = [path for path in Path(f"/proc/{daemon.process.pid}/fd").iterdir() if "overlay-key" in os.readlink(path)]
        assert [path.read_bytes() for path in held] == [b""] * len(held), "the key is not left in a descriptor"
    stored = spec.overlay.read_bytes() + spec.log.read_bytes() + environment + command
    assert b"A" * 32 not in stored
    assert b"QFI\xfb" not in spec.overlay.read_bytes(), "qcow2 metadata are encrypted too"
    assert luks.passphrase_of(key) not in stored
    assert key.reveal() not in stored


def test_files_are_private_and_dumps_are_off(spec: DiskSpec) -> None:
    daemon = create_disk(spec, guests.overlay_key())
    with served(daemon):
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
        assert os.getsid(daemon.process.pid) == daemon.process.pid
    assert "Max core file size        1                    1" in limits
    assert stat.S_IMODE(spec.overlay.stat().st_mode) == 0o600
    assert stat.S_IMODE(spec.runtime_dir.stat().st_mode) == 0o700


def test_another_key_does_not_open_it(spec: DiskSpec) -> None:
    create_disk(spec, guests.overlay_key()).stop()
    for socket in spec.runtime_dir.glob("*.qmp"):
        socket.unlink()
    with pytest.raises(IntegrityRefused, match="cannot unlock any keyslot"):
        open_disk(spec, guests.overlay_key())
    assert not guests.processes_mentioning(str(spec.runtime_dir / "storage.qmp"))


@pytest.mark.parametrize("damage", [b"XXXX", b""])
def test_a_file_that_is_no_container_is_refused(spec: DiskSpec, damage: bytes) -> None:
    key = guests.overlay_key()
    create_disk(spec, key).stop()
    for socket in spec.runtime_dir.glob("*.qmp"):
        socket.unlink()
    spec.overlay.write_bytes(damage + spec.overlay.read_bytes()[len(damage) :] if damage else bytes(1 << 16))
    with pytest.raises(IntegrityRefused, match="does not open it"):
        open_disk(spec, key)


def test_qemu_img_reads_the_header_that_we_wrote(spec: DiskSpec) -> None:
    create_disk(spec, guests.overlay_key()).stop()
    told = subprocess.run(["qemu-img", "info", "--output=json", spec.overlay], check=True, capture_output=True).stdout
    info = json.loads(told)
    details = info["format-specific"]["data"]
    assert info["format"] == "luks"
    assert (details["cipher-alg"], details["cipher-mode"], details["ivgen-alg"]) == ("aes-256", "xts", "plain64")
    assert details["payload-offset"] == luks.HEADER_BYTES
    assert [slot["active"] for slot in details["slots"]] == [True] + [False] * 7


def test_a_luks_key_must_be_random_and_whole() -> None:
    with pytest.raises(ValueError, match="expected 32"):
        luks.new_header(Secret(b"password"))
    key = guests.overlay_key()
    assert luks.new_header(key) != luks.new_header(key)


@pytest.mark.parametrize("size", [0, -512, 1000])
def test_a_size_that_cannot_be_is_refused(spec: DiskSpec, size: int) -> None:
    wrong = DiskSpec(spec.overlay, size, spec.backing_socket, spec.runtime_dir, spec.log)
    with pytest.raises(ImageError, match="disk size"):
        create_disk(wrong, guests.overlay_key())
    assert not spec.overlay.exists()


def test_a_disk_smaller_than_its_image_is_refused_and_leaves_nothing(spec: DiskSpec) -> None:
    small = DiskSpec(spec.overlay, MIB, spec.backing_socket, spec.runtime_dir, spec.log)
    with pytest.raises(ImageError, match="smaller than the image's 8388608 bytes"):
        create_disk(small, guests.overlay_key())
    assert not spec.overlay.exists()


def test_an_existing_overlay_is_not_overwritten(spec: DiskSpec) -> None:
    spec.overlay.write_bytes(b"precious")
    with pytest.raises(ConflictError, match="exists already"):
        create_disk(spec, guests.overlay_key())
    assert spec.overlay.read_bytes() == b"precious"


def test_without_a_block_server_nothing_is_left(spec: DiskSpec) -> None:
    nobody = DiskSpec(spec.overlay, DISK_BYTES, spec.runtime_dir / "nobody", spec.runtime_dir, spec.log)
    with pytest.raises(HypervisorFault, match="blockdev-add"):
        create_disk(nobody, guests.overlay_key())
    assert not spec.overlay.exists()


def test_a_missing_disk_is_named(spec: DiskSpec) -> None:
    with pytest.raises(StorageFault, match="the instance's disk is missing"):
        open_disk(spec, guests.overlay_key())


def test_another_size_than_recorded_is_refused(spec: DiskSpec) -> None:
    key = guests.overlay_key()
    create_disk(spec, key).stop()
    for socket in spec.runtime_dir.glob("*.qmp"):
        socket.unlink()
    (spec.runtime_dir / "disk.nbd").unlink(missing_ok=True)
    larger = DiskSpec(spec.overlay, 2 * DISK_BYTES, spec.backing_socket, spec.runtime_dir, spec.log)
    with pytest.raises(IntegrityRefused, match="expected 134217728"):
        open_disk(larger, key)


def plant_qcow2(spec: DiskSpec, key: Secret, *options: str) -> None:
    """Make the overlay a LUKS container with a qcow2 of somebody else's making inside, as a holder of the key could."""
    spec.overlay.write_bytes(luks.new_header(key))
    inner = spec.runtime_dir / "inner.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *options, inner, str(DISK_BYTES)], check=True, capture_output=True
    )
    secret = f"secret,id=k,data={luks.passphrase_of(key).decode()}"
    container = f"driver=luks,key-secret=k,file.driver=file,file.filename={spec.overlay}"
    subprocess.run(["qemu-img", "resize", "-q", "--object", secret, "--image-opts", container, "1M"], check=True)
    write = f"write -s {inner} 0 {inner.stat().st_size}"
    argv = ["qemu-io", "--object", secret, "-c", write, "--image-opts", container]
    subprocess.run(argv, check=True, capture_output=True)


def test_a_qcow2_that_names_nobody_else_is_accepted(spec: DiskSpec) -> None:
    key = guests.overlay_key()
    plant_qcow2(spec, key)
    with served(open_disk(spec, key)) as uri:
        assert qemu_io(uri, "read 0 512")


def test_a_backing_file_named_in_the_header_is_not_followed(spec: DiskSpec) -> None:
    key = guests.overlay_key()
    plant_qcow2(spec, key, "-u", "-b", "/etc/passwd", "-F", "raw")
    with pytest.raises(IntegrityRefused, match="names a backing file"):
        open_disk(spec, key)


def test_a_data_file_named_in_the_header_is_not_followed(spec: DiskSpec) -> None:
    key = guests.overlay_key()
    plant_qcow2(spec, key, "-o", f"data_file={spec.runtime_dir / 'inner.data'}")
    with pytest.raises(IntegrityRefused, match=r"incompatible features 0x4 \(a data file\?\)"):
        open_disk(spec, key)


def test_the_checked_headers_are_the_ones_qemu_writes(tmp_path: Path) -> None:
    path = tmp_path / "plain.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    assert qcow2.check_header(path.read_bytes()[: qcow2.HEADER_READ_BYTES], "disk") == 64 * MIB


@pytest.mark.parametrize(
    ("at", "value", "complaint"),
    [
        (0, b"XXXX", "not a qcow2 file"),
        (4, b"\0\0\0\2", "not a qcow2 file of version 3"),
        (8, b"\0\0\0\0\0\0\1\0", "names a backing file"),
        (16, b"\0\0\0\1", "names a backing file"),
        (20, b"\0\0\0\x40", "cluster bits 64"),
        (32, b"\0\0\0\2", "encryption method 2"),
        (72, b"\0\0\0\0\0\0\0\4", "incompatible features 0x4"),
        (72, b"\0\0\0\0\0\0\0\x10", "incompatible features 0x10"),
        (112, b"\xe2\x79\x2a\xca\0\0\0\3", "names a backing format"),
        (112, b"\x44\x41\x54\x41\0\0\0\3", "names a data file"),
        (112, b"\1\1\1\1\xff\xff\xff\xff", "extensions without an end"),
    ],
)
def test_every_other_header_is_refused(tmp_path: Path, at: int, value: bytes, complaint: str) -> None:
    path = tmp_path / "plain.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    header = bytearray(path.read_bytes()[: qcow2.HEADER_READ_BYTES])
    header[at : at + len(value)] = value
    with pytest.raises(IntegrityRefused, match=complaint):
        qcow2.check_header(bytes(header), "disk")


def test_a_short_header_is_refused() -> None:
    with pytest.raises(IntegrityRefused, match="10 bytes are no qcow2 header"):
        qcow2.check_header(b"QFI\xfb\0\0\0\3\0\0", "disk")


def test_nbd_reads_what_is_there_and_names_what_is_not(spec: DiskSpec, grub_image: Path) -> None:
    assert read_export(spec.backing_socket, "", 440, 80) == grub_image.read_bytes()[440:520]
    with pytest.raises(HypervisorFault, match="error 22"):
        read_export(spec.backing_socket, "", 1 << 40, 512)
    with pytest.raises(HypervisorFault, match="No such file"):
        read_export(spec.runtime_dir / "nobody", "", 0, 512)


def test_qmp_refusals_name_the_command(runtime: Path, tmp_path: Path) -> None:
    control = runtime / "c"
    with start_controlled(["qemu-storage-daemon"], "--monitor", control, tmp_path / "log") as started:
        process = started.process
    try:
        with QmpConnection(control, "storage daemon") as qmp:
            with pytest.raises(HypervisorFault, match="storage daemon: no-such-command:"):
                qmp.execute("no-such-command")
            with pytest.raises(HypervisorFault, match=r"waiting for NEVER: no answer within 0\.1 s"):
                qmp.wait_event(["NEVER"], 0.1)
        with QmpConnection(control, "storage daemon") as first, pytest.raises(HypervisorFault, match="no answer"):
            QmpConnection(control, "storage daemon", timeout_seconds=0.2)
        assert first.close() is None
    finally:
        process.end()
    with pytest.raises(HypervisorFault, match="connecting"):
        QmpConnection(control, "storage daemon", timeout_seconds=1)
