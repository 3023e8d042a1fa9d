"""The lab's guests: bootable disks whose greeting proves that the very disk was started.

Each disk boots by itself from a PC BIOS: boot loader, kernel, initrd and init all lie on it. The Debian system is
installed once for each recipe and kept in a cache; another greeting or host name is a copy with a few files replaced.

- `build_debian_image`: Debian 12, about 7 s under TCG to the greeting its getty prints above the login prompt.
- `build_busybox_image`: that Debian's kernel with a busybox shell as init; boots in about half the time.
- `build_grub_image`: nothing but the boot loader, which greets and then answers commands; about 1 s.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sealvm.errors import EnvironmentFault, InputError, StorageFault
from sealvm.lab import image_boot, image_debian

DEBIAN_DISK_BYTES = 2 << 30
BUSYBOX_DISK_BYTES = 64 << 20
GRUB_DISK_BYTES = 8 << 20

_GREETING = re.compile(r"[\x20-\x7e]{1,200}")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_BUSYBOX = Path("/bin/busybox")
_BUSYBOX_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
  /bin/busybox insmod /$module.ko
done
/bin/busybox cat /greeting
exec /bin/busybox setsid -c /bin/busybox sh
"""
_BUSYBOX_GRUB_CFG = "linux /vmlinuz console=ttyS0 quiet rdinit=/init\ninitrd /initrd.img\nboot\n"
_GRUB_ONLY_MODULES = (
    *("biosdisk", "part_msdos", "ext2", "normal", "serial", "terminal", "minicmd"),
    *("echo", "cat", "ls", "loadenv", "halt", "reboot", "test", "sleep"),
)


def build_debian_image(path: Path, hostname: str, greeting: str, cache: Path) -> Path:
    """Write a bootable Debian 12 disk (raw, 2 GiB, sparse) to `path` and return it; complete, or not there at all.

    The first time on a machine it takes half a minute, downloads from the machine's own Debian mirror and needs root;
    then about 2 s. `greeting` is one printable ASCII line. Raises InputError, EnvironmentFault or StorageFault.
    """
    if not _HOSTNAME.fullmatch(hostname):
        raise InputError(f"debian image: host name {hostname!r} is not letters, digits and hyphens")
    _check_greeting(greeting)
    base = _debian_base(cache)
    with _work_beside(path) as work:
        disk = work / "disk.raw"
        image_boot.run_tool(["cp", "--sparse=always", "--reflink=auto", str(base), str(disk)], f"image {path}")
        issue = greeting.replace("\\", "\\\\") + "\n\n\\n \\l\n"  # the backslash is getty's escape
        hosts = f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n"
        files = {"/etc/issue": issue, "/etc/hostname": f"{hostname}\n", "/etc/hosts": hosts}
        image_boot.replace_on_disk(disk, files, work)
        disk.replace(path)
    return path


def build_busybox_image(path: Path, greeting: str, cache: Path) -> Path:
    """Write a 64 MiB disk with Debian's kernel and a busybox shell that prints `greeting` first; return `path`.

    Uses the cached Debian (and makes it, when there is none: see build_debian_image). Raises the same errors.
    """
    _check_greeting(greeting)
    base = _debian_base(cache)
    if not _BUSYBOX.exists():
        raise EnvironmentFault(f"busybox image: {_BUSYBOX} is missing", hint="install busybox-static")
    with _work_beside(path) as work:
        tree, root = work / "tree", work / "initrd"
        _write_tree(tree, {"boot/grub/grub.cfg": _BUSYBOX_GRUB_CFG})
        (tree / "vmlinuz").write_bytes(image_boot.read_from_disk(base, "/vmlinuz"))
        _write_tree(root, {"init": _BUSYBOX_INIT, "greeting": f"{greeting}\n", "bin/.keep": ""})
        (root / "init").chmod(0o755)
        shutil.copy(_BUSYBOX, root / "bin/busybox")
        modules = gzip.decompress(image_boot.read_from_disk(base, "/initrd.img"))
        image_boot.run_tool(["cpio", "-D", str(root), "--quiet", "-i", "*.ko"], f"image {path}", stdin=modules)
        (tree / "initrd.img").write_bytes(gzip.compress(_cpio(root), compresslevel=1, mtime=0))
        image_boot.make_disk(work / "disk.raw", tree, BUSYBOX_DISK_BYTES)
        (work / "disk.raw").replace(path)
    return path


def build_grub_image(path: Path, greeting: str) -> Path:
    """Write an 8 MiB disk whose boot loader prints `greeting` on the serial port, then takes commands; return `path`.

    `save_env` and `list_env` write and read the disk (`note` is `nothing` at first), `cat /notes` reads 190 KB that
    booting does not, `halt` powers off. Needs neither root nor a download. Raises InputError, EnvironmentFault,
    StorageFault.
    """
    _check_greeting(greeting)
    quoted = greeting.replace("'", "'\\''")
    config = f"serial --unit=0\nterminal_input serial\nterminal_output serial\necho '{quoted}'\n"
    notes = "".join(f"note {number} of this disk\n" for number in range(8192))
    with _work_beside(path) as work:
        tree = work / "tree"
        _write_tree(tree, {"boot/grub/grub.cfg": config, "notes": notes})
        env = str(tree / "boot/grub/grubenv")
        image_boot.run_tool(["grub-editenv", env, "create"], f"image {path}")
        image_boot.run_tool(["grub-editenv", env, "set", "note=nothing"], f"image {path}")
        image_boot.make_disk(work / "disk.raw", tree, GRUB_DISK_BYTES, _GRUB_ONLY_MODULES)
        (work / "disk.raw").replace(path)
    return path


def _check_greeting(greeting: str) -> None:
    if not _GREETING.fullmatch(greeting):
        raise InputError("image: the greeting must be one line of 1 to 200 printable ASCII characters")


def _debian_base(cache: Path) -> Path:
    """The cached disk of the present recipe, built when there is none; one builder at a time."""
    cache.mkdir(parents=True, exist_ok=True)
    name = f"debian-{image_debian.recipe_digest()[:16]}"
    base = cache / f"{name}.raw"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            with _work_beside(base) as work:
                log = cache / f"{name}.log"
                image_debian.install_debian(work / "tree", log)
                image_boot.make_disk(work / "disk.raw", work / "tree", DEBIAN_DISK_BYTES)
                (work / "disk.raw").replace(base)
                log.unlink()
    return base


@contextmanager
def _work_beside(path: Path) -> Iterator[Path]:
    """A scratch directory on the file system of `path`, gone afterwards whatever happens."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as work:
            yield Path(work)
    except OSError as error:
        raise StorageFault(f"image {path}: {error.strerror or error}") from error


def _write_tree(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


def _cpio(root: Path) -> bytes:
    names = sorted(os.fspath(entry.relative_to(root)) for entry in root.rglob("*"))
    listing = "\n".join(names).encode()
    argv = ["cpio", "-D", os.fspath(root), "--quiet", "-o", "-H", "newc", "-R", "0:0"]
    return image_boot.run_tool(argv, "busybox initrd", stdin=listing)
