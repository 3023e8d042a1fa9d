"""The lab's guests boot by themselves: nothing but the disk is given to QEMU."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from sealvm.errors import EnvironmentFault, InputError, StorageFault
from sealvm.host.hypervisor.qemu import Qemu
from sealvm.host.instances import remove_instance, stop_instance, wait_console
from sealvm.host.launch_vm import InstanceSpec, Keys, Launched, launch_instance, start_instance
from sealvm.lab import image_boot, image_debian
from sealvm.lab.image import build_busybox_image, build_debian_image, build_grub_image
from tests.host import guests

QEMU = Qemu("tcg")
GREETING = r"Hello from the sealed VM; TENANT-SECRET-7f3a \n is no escape"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="installing a Debian system needs root")


KEYS = Keys(guests.overlay_key(), guests.overlay_key())


def launch(host_dir: Path, image: Path, memory_mib: int) -> Launched:
    spec = InstanceSpec("lab-vm", host_dir, "ab" * 32, 2 << 30, memory_mib)
    servers = guests.PlainServers(image)
    return launch_instance(host_dir, spec, KEYS, b"wrap", start_block_server=servers, hypervisor=QEMU)


def log_in(launched: Launched) -> None:
    wait_console(launched, "vm-1 login: ", 120, QEMU)
    launched.console.send(b"root\n")
    wait_console(launched, "root@vm-1:~# ", 30, QEMU)


def run(launched: Launched, command: str) -> tuple[str, ...]:
    """Type a command at the guest's shell and give back what it answered."""
    launched.console.send(command.encode() + b"\n")
    wait_console(launched, command[-20:], 20, QEMU)
    return wait_console(launched, "# ", 30, QEMU).lines


def test_the_partition_table_is_one_that_sfdisk_reads(grub_image: Path) -> None:
    table = json.loads(subprocess.run(["sfdisk", "--json", grub_image], check=True, capture_output=True).stdout)
    (partition,) = table["partitiontable"]["partitions"]
    assert table["partitiontable"]["label"] == "dos"
    assert (partition["start"], partition["type"], partition["bootable"]) == (2048, "83", True)
    assert (partition["start"] + partition["size"]) * 512 == grub_image.stat().st_size


def test_the_file_system_is_whole_and_its_files_can_be_replaced(grub_image: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk with space.raw"
    disk.write_bytes(grub_image.read_bytes())
    image_boot.replace_on_disk(disk, {"/notes": "other notes\n"}, tmp_path)
    assert image_boot.read_from_disk(disk, "/notes") == b"other notes\n"
    where = f"{disk}?offset={image_boot.PARTITION_OFFSET_BYTES}"
    assert subprocess.run(["e2fsck", "-fn", where], check=False, capture_output=True).returncode == 0
    with pytest.raises(StorageFault, match="/nothing is missing or empty"):
        image_boot.read_from_disk(disk, "/nothing")


def test_a_disk_is_sparse_and_leaves_no_scratch(tmp_path: Path) -> None:
    path = build_grub_image(tmp_path / "new" / "grub.raw", 'it\'s; a $greeting "with" quotes')
    assert path.stat().st_blocks * 512 < path.stat().st_size
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("greeting", ["", "two\nlines", "caf\u00e9", "x" * 201, "esc\x1b[0m"])
def test_a_greeting_is_one_printable_line(tmp_path: Path, greeting: str) -> None:
    with pytest.raises(InputError, match="greeting"):
        build_grub_image(tmp_path / "grub.raw", greeting)
    with pytest.raises(InputError, match="greeting"):
        build_debian_image(tmp_path / "debian.raw", "vm", greeting, tmp_path / "cache")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hostname", ["", "-vm", "Vm", "vm.example", "a b", "x" * 64])
def test_a_host_name_is_a_label(tmp_path: Path, hostname: str) -> None:
    with pytest.raises(InputError, match="host name"):
        build_debian_image(tmp_path / "debian.raw", hostname, "hello", tmp_path / "cache")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFault, match=r"file/grub\.raw"):
        build_grub_image(tmp_path / "file" / "grub.raw", "hello")


def test_a_missing_boot_loader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_boot, "GRUB_DIR", tmp_path / "nowhere")
    with pytest.raises((EnvironmentFault, StorageFault), match="grub"):
        build_grub_image(tmp_path / "grub.raw", "hello")
    assert not (tmp_path / "grub.raw").exists()


def test_a_debian_that_cannot_be_installed_leaves_its_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    fake = tools / "mmdebstrap"
    fake.write_text("#!/bin/sh\necho 'E: no mirror answers' >&2\nexit 25\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    cache = tmp_path / "cache"
    with pytest.raises(EnvironmentFault, match="status 25: E: no mirror answers"):
        build_debian_image(tmp_path / "debian.raw", "vm", "hello", cache)
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".log"]
    assert not (tmp_path / "debian.raw").exists()


def test_only_root_installs_a_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentFault, match="only root"):
        image_debian.install_debian(tmp_path / "tree", tmp_path / "log")


@needs_root
@pytest.mark.slow
def test_debian_greets_keeps_what_is_written_and_obeys_the_power_button(tmp_path: Path) -> None:
    image = build_debian_image(tmp_path / "debian.raw", "vm-1", GREETING, guests.image_cache())
    assert image.stat().st_size == 2 << 30
    assert image.stat().st_blocks * 512 < 500 << 20
    launched = launch(tmp_path, image, 512)
    try:
        with launched.console:
            assert wait_console(launched, "TENANT-SECRET-7f3a", 120, QEMU).lines[-1] == GREETING
            log_in(launched)
            assert any("systemd" in line for line in run(launched, "cat /proc/1/comm"))
            assert not any("degraded" in line for line in run(launched, "systemctl --failed"))
            run(launched, "until systemctl is-active acpid.service; do sleep 0.1; done")
            run(launched, "echo kept > /root/note")
            stop_instance(tmp_path, "lab-vm", QEMU, grace_seconds=120)
            launched.console.wait_text("reboot: Power down", 5)
        servers = guests.PlainServers(image)
        launched = start_instance(tmp_path, "lab-vm", KEYS, start_block_server=servers, hypervisor=QEMU)
        with launched.console:
            log_in(launched)
            assert "kept" in run(launched, "cat /root/note")
    finally:
        remove_instance(tmp_path, "lab-vm", QEMU, force=True)


@needs_root
@pytest.mark.slow
def test_nothing_of_the_build_machine_is_in_the_debian_image(tmp_path: Path) -> None:
    image = build_debian_image(tmp_path / "debian.raw", "vm-1", GREETING, guests.image_cache())
    where = f"{image}?offset={image_boot.PARTITION_OFFSET_BYTES}"
    listing = subprocess.run(["debugfs", "-R", "ls -p /etc/apt/apt.conf.d", where], check=True, capture_output=True)
    assert b"image-build" not in listing.stdout
    assert subprocess.run(["e2fsck", "-fn", where], check=False, capture_output=True).returncode == 0
    assert image_boot.read_from_disk(image, "/etc/hostname") == b"vm-1\n"
    mode = stat.S_IMODE(image.stat().st_mode)
    assert mode & 0o022 == 0


@needs_root
@pytest.mark.slow
def test_busybox_boots_debians_kernel(tmp_path: Path) -> None:
    image = build_busybox_image(tmp_path / "busybox.raw", "hello from busybox", guests.image_cache())
    launched = launch(tmp_path, image, 256)
    try:
        with launched.console:
            assert wait_console(launched, "hello from busybox", 60, QEMU).lines[-1] == "hello from busybox"
            wait_console(launched, "# ", 20, QEMU)
            assert any("vda1" in line for line in run(launched, "/bin/busybox ls /sys/block/vda"))
    finally:
        remove_instance(tmp_path, "lab-vm", QEMU, force=True)
