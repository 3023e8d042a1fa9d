"""The system of the lab's measured host: the lab's Debian 12, with Python, tpm2-tss and what sealvm's host parts need.

It is started by the firmware itself (kernel, initrd and options are handed to OVMF), reaches the authority over QEMU's
user-mode network, and answers on a serial line (measured_agent). Third-party packages are copied from this very Python
environment, which is Debian's interpreter too, so nothing is downloaded inside the guest. sealvm's own code is not in
it: it comes with each boot, as it is at that moment. Installed once for each recipe and kept in a cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from sealvm.errors import EnvironmentFault, StorageFault
from sealvm.lab import image_boot, image_debian

DISK_BYTES: Final = 2 << 30
ROOT_OPTIONS: Final = "root=/dev/vda1 rootfstype=ext4 rw console=ttyS0 quiet"
"""The kernel options without which this system does not start."""
CODE_DIR: Final = "/run/sealvm-lab"
"""Where the guest finds what came with the boot: `code/` with sealvm, agent.py, and the caller's files."""

_PACKAGES: Final = (
    *image_debian.PACKAGES,
    *("python3", "libtss2-esys-3.0.2-0", "libtss2-fapi1", "libtss2-rc0", "libtss2-tctildr0", "libtss2-tcti-device0"),
)
_THIRD_PARTY: Final = Path("usr/local/lib/python3.11/dist-packages")
_AGENT_UNIT = f"""\
[Unit]
Description=Runs what the lab sends over the second serial line
Wants=network-online.target
After=network-online.target
[Service]
ExecStartPre=/usr/bin/mkdir -p {CODE_DIR}
ExecStartPre=/usr/bin/tar -xf /dev/vdb -C {CODE_DIR}
ExecStart=/usr/bin/python3 {CODE_DIR}/agent.py
[Install]
WantedBy=multi-user.target
"""
_NETWORK = """\
[Match]
Driver=virtio_net
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
IPv6AcceptRA=no
"""
_PROGRAM = f"""\
#!/bin/sh
exec env PYTHONPATH={CODE_DIR}/code PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m sealvm.cli "$@"
"""
_FILES: Final = {
    "etc/hostname": "measured\n",
    "etc/modules-load.d/network.conf": "virtio_net\n",
    "etc/systemd/network/lab.network": _NETWORK,
    "etc/systemd/system/sealvm-lab-agent.service": _AGENT_UNIT,
    "usr/local/bin/sealvm": _PROGRAM,
}
_WANTS: Final = Path("etc/systemd/system/multi-user.target.wants")
_LINKS: Final = {
    _WANTS / "sealvm-lab-agent.service": "../sealvm-lab-agent.service",
    _WANTS / "systemd-networkd.service": "/lib/systemd/system/systemd-networkd.service",
    Path("etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service"): (
        "/lib/systemd/system/systemd-networkd-wait-online.service"
    ),
}


@dataclass(frozen=True, slots=True)
class MeasuredSystem:
    """The installed system in its cache: the disk, never written to, and what the firmware is handed."""

    directory: Path

    @property
    def disk(self) -> Path:
        """Raw, 2 GiB, sparse; the root file system is its first partition."""
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> Path:
        """Debian's kernel with its EFI stub, as packaged."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Mounts the root file system, and does nothing else."""
        return self.directory / "initrd.img"


def measured_system(cache: Path) -> MeasuredSystem:
    """The system of the present recipe, installed when the cache has none: half a minute to a minute, and needs root.

    Raises EnvironmentFault or StorageFault; the cache then has either all of it or nothing.
    """
    name = f"measured-{_recipe_digest()[:16]}"
    system = MeasuredSystem(cache / name)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not system.directory.exists():
            try:
                with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=cache) as work:
                    _install(MeasuredSystem(Path(work) / "system"), Path(work), cache / f"{name}.log")
                    (Path(work) / "system").rename(system.directory)
            except OSError as problem:
                raise StorageFault(f"measured host's system: {problem.strerror or problem}") from problem
    return system


def _install(system: MeasuredSystem, work: Path, log: Path) -> None:
    tree = work / "tree"
    image_debian.install_debian(tree, log, _PACKAGES)
    for name, text in _FILES.items():
        _write(tree / name, text, 0o755 if name.startswith("usr/local/bin/") else 0o644)
    for link, target in _LINKS.items():
        (tree / link).parent.mkdir(parents=True, exist_ok=True)
        (tree / link).symlink_to(target)
    for distribution in _distributions():
        _copy_files(distribution, tree / _THIRD_PARTY)
    system.directory.mkdir()
    image_boot.make_disk(system.disk, tree, DISK_BYTES)
    for path in (system.kernel, system.initrd):
        path.write_bytes(image_boot.read_from_disk(system.disk, f"/{path.name}"))
    log.unlink()


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _recipe_digest() -> str:
    """Everything that shapes the system, as the key of the cache; hex."""
    versions = [f"{found.metadata['Name']}=={found.version}" for found in _distributions()]
    links = {str(link): target for link, target in _LINKS.items()}
    parts = [image_debian.recipe_digest(), _PACKAGES, _FILES, links, versions, DISK_BYTES]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _distributions() -> list[metadata.Distribution]:
    """The installed distributions that sealvm with its extra `host` needs, sealvm itself excepted."""
    found: dict[str, metadata.Distribution] = {}
    wanted = [("sealvm", "host")]
    while wanted:
        name, extra = wanted.pop()
        for requirement in metadata.requires(name) or ():
            of_extra = re.search(r"extra *== *['\"]([^'\"]+)", requirement)
            needed = re.match(r"[A-Za-z0-9._-]+", requirement)
            if needed is None or (of_extra is not None and of_extra[1] != extra):
                continue
            try:
                distribution = metadata.distribution(needed[0])
            except metadata.PackageNotFoundError:
                continue  # its marker names another Python or platform
            key = distribution.metadata["Name"].lower()
            if key not in found:
                found[key] = distribution
                wanted.append((key, ""))
    return [found[key] for key in sorted(found)]


def _copy_files(distribution: metadata.Distribution, target: Path) -> None:
    """The distribution's files with their times, so that compiled modules stay good; scripts are left out."""
    if not distribution.files:
        raise EnvironmentFault(f"{distribution.metadata['Name']}: no list of its files", hint="run scripts/setup")
    for file in distribution.files:
        source = Path(str(file.locate()))
        if ".." in file.parts or not source.is_file():
            continue
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / file)
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
        if source.suffix == ".py" and compiled.is_file():
            (target / file).parent.joinpath("__pycache__").mkdir(exist_ok=True)
            shutil.copy2(compiled, (target / file).parent / "__pycache__" / compiled.name)
