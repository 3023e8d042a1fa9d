"""Bootable BIOS disks made of files alone: no loop device, no mount, no privilege.

The layout is what `grub-install` would write on a DOS-labelled disk: GRUB's boot.img in the code area of the master
boot record, core.img from sector 1 on (where boot.img looks for it, and where core.img looks for its own rest), and one
bootable partition from 1 MiB to the end with an ext4 file system that holds `/boot/grub/grub.cfg`.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

from sealvm.errors import EnvironmentFault, StorageFault

SECTOR_BYTES = 512
PARTITION_OFFSET_BYTES = 1 << 20
MBR_CODE_BYTES = 440
GRUB_DIR = Path("/usr/lib/grub/i386-pc")
LINUX_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux")

_LINUX_PARTITION_TYPE = 0x83
_ACTIVE = 0x80
_NO_CHS = b"\xfe\xff\xff"  # "use the LBA fields": the geometry of the 1980s does not reach this far


def run_tool(argv: list[str], what: str, *, stdin: bytes | None = None) -> bytes:
    """Run a tool to its end and return its standard output.

    Raises EnvironmentFault when it is not installed, StorageFault with its last words when it fails.
    """
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise EnvironmentFault(f"{what}: {argv[0]} is not installed", hint="run scripts/setup") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise StorageFault(
            f"{what}: {argv[0]} ended with status {done.returncode}: {words[-1] if words else 'no message'}"
        )
    return done.stdout


def make_disk(path: Path, tree: Path, size_bytes: int, modules: tuple[str, ...] = LINUX_MODULES) -> None:
    """Write a sparse bootable disk of `size_bytes` whose one partition holds a copy of `tree`.

    `tree` brings its own `/boot/grub/grub.cfg`; `modules` are the GRUB modules built into core.img. An existing `path`
    is replaced. Raises EnvironmentFault or StorageFault; the caller removes what a failure leaves.
    """
    path.unlink(missing_ok=True)
    with path.open("xb") as disk:
        disk.truncate(size_bytes)
    _write_file_system(path, tree, size_bytes)
    core = _grub_core(modules, path.with_name(f"{path.name}.core"))
    with path.open("r+b") as disk:
        disk.write(_master_boot_record(size_bytes))
        disk.seek(SECTOR_BYTES)
        disk.write(core)


def read_from_disk(disk: Path, name: str) -> bytes:
    """The bytes of file `name`; a link in the root directory is followed. Raises StorageFault when there is none."""
    described = run_tool(["debugfs", "-R", f"stat {name}", _partition_of(disk)], f"image {disk}").decode()
    link = re.search(r'^Fast link dest: "(.*)"$', described, re.MULTILINE)
    name = f"/{link[1]}" if link else name
    data = run_tool(["debugfs", "-R", f"cat {name}", _partition_of(disk)], f"image {disk}")
    if not data:
        raise StorageFault(f"image {disk}: {name} is missing or empty")
    return data


def replace_on_disk(disk: Path, files: dict[str, str], scratch: Path) -> None:
    """Replace whole files in the partition's file system, each given by its absolute path.

    `scratch` is a directory for what debugfs reads. Raises StorageFault when a file does not have the new content then.
    """
    commands = []
    for number, (name, text) in enumerate(files.items()):
        source = scratch / f"replace-{number}"
        source.write_text(text)
        source.chmod(0o644)
        commands += [f"rm {name}", f'write "{source}" {name}']
    run_tool(["debugfs", "-w", "-f", "-", _partition_of(disk)], f"image {disk}", stdin="\n".join(commands).encode())
    for name, text in files.items():
        if read_from_disk(disk, name) != text.encode():
            raise StorageFault(f"image {disk}: {name} was not written")


def _partition_of(disk: Path) -> str:
    return f"{disk}?offset={PARTITION_OFFSET_BYTES}"


def _write_file_system(path: Path, tree: Path, size_bytes: int) -> None:
    blocks_kib = (size_bytes - PARTITION_OFFSET_BYTES) // 1024
    features = "^metadata_csum_seed,^orphan_file"  # GRUB 2.06 reads neither
    extended = f"offset={PARTITION_OFFSET_BYTES},nodiscard,lazy_itable_init=1,lazy_journal_init=1"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-O", features, "-E", extended]
    run_tool([*argv, "-d", os.fspath(tree), os.fspath(path), f"{blocks_kib}k"], f"image {path}")


def _grub_core(modules: tuple[str, ...], scratch: Path) -> bytes:
    argv = ["grub-mkimage", "-O", "i386-pc", "-d", os.fspath(GRUB_DIR), "-p", "(hd0,msdos1)/boot/grub"]
    run_tool([*argv, "-o", os.fspath(scratch), *modules], "grub core image")  # it cannot write to a pipe
    core = scratch.read_bytes()
    scratch.unlink()
    limit = PARTITION_OFFSET_BYTES - SECTOR_BYTES
    if not core or len(core) > limit:
        raise StorageFault(f"grub core image: {len(core)} bytes, expected 1 to {limit}")
    return core


def _master_boot_record(size_bytes: int) -> bytes:
    boot = GRUB_DIR / "boot.img"
    try:
        code = boot.read_bytes()[:MBR_CODE_BYTES]
    except OSError as error:
        raise EnvironmentFault(f"boot loader: {boot} cannot be read", hint="install grub-pc-bin") from error
    first = PARTITION_OFFSET_BYTES // SECTOR_BYTES
    count = size_bytes // SECTOR_BYTES - first
    entry = struct.pack("<B3sB3sII", _ACTIVE, _NO_CHS, _LINUX_PARTITION_TYPE, _NO_CHS, first, count)
    return code + bytes(6) + entry + bytes(48) + b"\x55\xaa"
