"""The recipe of the lab's Debian 12 system: what is installed, what is changed, and why.

A plain bookworm, installed by mmdebstrap from the machine's own package sources, with Debian's kernel, init and boot
order. What differs from the defaults keeps the boot short on an emulated processor (7 s instead of 16 s to the login
prompt) and is all in this file: a small initrd, units without work to do masked, devices coldplugged once the console
answers. Root logs in on the console without a password: this is a laboratory's guest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

from sealvm.errors import EnvironmentFault

SUITE = "bookworm"
PACKAGES = ("acpid", "linux-image-cloud-amd64", "systemd-sysv", "tiny-initramfs", "udev")
GRUB_CFG = """\
linux /vmlinuz root=/dev/vda1 rootfstype=ext4 rw console=ttyS0 quiet
initrd /initrd.img
boot
"""

_INITRD_CONF = "AUTO_MODULES=no\nINCLUDE_MODULES=virtio_pci,virtio_blk\nMICROCODE=no\n"
_BUILD_ONLY_APT_CONF = "/etc/apt/apt.conf.d/99image-build"

_LATE_COLDPLUG = """\
[Unit]
Description=Coldplug devices once the console answers
After=console-getty.service systemd-udevd.service
[Service]
Type=oneshot
ExecStart=/usr/bin/udevadm trigger --type=all --action=add
[Install]
WantedBy=multi-user.target
"""
_FILES = {
    "etc/apt/sources.list": "# no package sources\n",  # the build machine's may hold credentials
    "etc/acpi/events/power-button": "event=button/power.*\naction=/usr/sbin/poweroff\n",
    "etc/hostname": "sealed-vm\n",
    "etc/issue": "Debian GNU/Linux 12\n",
    "etc/fstab": "/dev/vda1 / ext4 defaults 0 0\n",
    "boot/grub/grub.cfg": GRUB_CFG,
    "etc/systemd/system/late-coldplug.service": _LATE_COLDPLUG,
    # idle, the default, waits up to 5 s for every other job
    "etc/systemd/system/console-getty.service.d/no-wait.conf": "[Service]\nType=simple\n",
}
_LINKS = {
    "etc/systemd/system/default.target": "/lib/systemd/system/multi-user.target",
    # /dev/console is the serial port and needs no device event, unlike serial-getty@ttyS0
    "etc/systemd/system/getty.target.wants/console-getty.service": "/lib/systemd/system/console-getty.service",
    "etc/systemd/system/multi-user.target.wants/late-coldplug.service": "../late-coldplug.service",
}
_MASKED_UNITS = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "getty-static.service", "getty@tty1.service", "serial-getty@ttyS0.service"),
    *("modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@efi_pstore.service"),
    *("modprobe@fuse.service", "modprobe@loop.service", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount", "dev-mqueue.mount"),
    *("proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service", "systemd-pstore.service"),
    *("systemd-journal-flush.service", "systemd-sysusers.service", "systemd-tmpfiles-setup-dev.service"),
    *("systemd-udev-trigger.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service"),
    *("systemd-random-seed.service", "systemd-hwdb-update.service", "ldconfig.service"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path"),
)
_MASKED_GENERATORS = (
    *("cryptsetup", "debug", "getty", "gpt-auto", "hibernate-resume", "integritysetup", "rc-local", "run"),
    *("system-update", "sysv", "veritysetup"),
)
_UNUSED_DRIVERS = (
    *("aesni_intel", "crc32_pclmul", "crct10dif_pclmul", "ghash_clmulni_intel", "polyval_clmulni", "sha512_ssse3"),
    *("kvm", "kvm_amd", "kvm_intel", "powernow_k8", "ata_generic", "ata_piix", "i2c_piix4", "pcspkr", "psmouse"),
)


def recipe_digest() -> str:
    """SHA-256 over everything in this recipe that shapes the system, as hex: the key of the image cache."""
    parts = [SUITE, PACKAGES, _INITRD_CONF, _FILES, _LINKS, _MASKED_UNITS, _MASKED_GENERATORS, _UNUSED_DRIVERS]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def install_debian(tree: Path, log: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    """Install the system into the new directory `tree`, in a scratch directory, with mmdebstrap's output in `log`.

    Takes about 25 s. Needs root, because the tree has Debian's owners and device nodes. The machine's apt proxy, TLS
    and mirror settings are used for the download; proxy and TLS settings do not end up in the tree. Raises
    EnvironmentFault.
    """
    if os.geteuid() != 0:
        raise EnvironmentFault("debian image: only root can install a system tree", hint="run this command with sudo")
    initrd_hook = _write_hook("/etc/tiny-initramfs/tiny-initramfs.conf", _INITRD_CONF)
    apt_conf = tree.with_name(f"{tree.name}.apt.conf")  # in a file of our own: it may hold a proxy's password
    apt_conf.touch(mode=0o600)
    apt_conf.write_text(_machine_apt_conf())
    apt_hook = f'mkdir -p "$1/etc/apt/apt.conf.d" && cp {shlex.quote(str(apt_conf))} "$1{_BUILD_ONLY_APT_CONF}"'
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(packages)}"]
    argv += [f"--setup-hook={initrd_hook}", f"--setup-hook={apt_hook}"]
    argv += [f'--customize-hook=rm "$1{_BUILD_ONLY_APT_CONF}"', '--customize-hook=chroot "$1" passwd -q -d root']
    argv += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"]
    argv += [SUITE, os.fspath(tree), *_machine_sources()]
    try:
        log.touch(mode=0o600)
        with log.open("wb") as output:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    except FileNotFoundError as error:
        raise EnvironmentFault("debian image: mmdebstrap is not installed", hint="run scripts/setup") from error
    if done.returncode != 0:
        raise EnvironmentFault(
            f"debian image: mmdebstrap ended with status {done.returncode}: {_last_error(log)}",
            hint=f"can this machine's apt reach its package sources? the whole output is in {log}",
        )
    apt_conf.unlink()
    _apply_changes(tree)


def _write_hook(name: str, text: str) -> str:
    return f'mkdir -p "$1"{shlex.quote(str(Path(name).parent))} && printf %s {shlex.quote(text)} > "$1"{name}'


def _last_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.startswith("E:")), lines[-1] if lines else "no output")


def _apply_changes(tree: Path) -> None:
    units, generators = Path("etc/systemd/system"), Path("etc/systemd/system-generators")
    links = dict(_LINKS)
    links |= {f"{units}/{unit}": "/dev/null" for unit in _MASKED_UNITS}
    links |= {f"{generators}/systemd-{name}-generator": "/dev/null" for name in _MASKED_GENERATORS}
    files = dict(_FILES)
    files["etc/modprobe.d/emulated-machine.conf"] = "".join(f"blacklist {name}\n" for name in _UNUSED_DRIVERS)
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    for name, target in links.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    (tree / units / "getty.target.wants/getty@tty1.service").unlink(missing_ok=True)


def _machine_apt_conf() -> str:
    """How this machine's apt reaches its sources (proxies, TLS, credentials), which mmdebstrap by itself ignores."""
    dump = _apt(["apt-config", "dump"])
    wanted = re.compile(r"Acquire::((https?|Check-Valid-Until|Check-Date|Retries|ForceIPv[46])\b.*) \".*\";")
    lines = [line for line in dump.splitlines() if wanted.fullmatch(line)]
    # absolute, because mmdebstrap points apt's root at the new tree
    lines += ['Dir::Etc::netrc "/etc/apt/auth.conf";', 'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";']
    return "\n".join(lines) + "\n"


def _machine_sources() -> list[str]:
    """This machine's own http(s) sources of bookworm, as one-line entries; where there are none, nothing."""
    columns = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    rows = _apt(["apt-get", "indextargets", "--format", columns, "Created-By: Packages", "Architecture: amd64"])
    entries: dict[str, None] = {}
    for row in rows.splitlines():
        uri, release, component, signed_by = [*row.split("|"), "", "", ""][:4]
        if component != "main" or not re.fullmatch(rf"{SUITE}(-updates|-security)?", release):
            continue
        if uri.startswith(("http://", "https://")) and " " not in uri:
            options = f"[signed-by={signed_by}] " if signed_by.startswith("/") and "\n" not in signed_by else ""
            entries[f"deb {options}{uri} {release} main"] = None
    return list(entries) if any(f" {SUITE} main" in entry for entry in entries) else []


def _apt(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise EnvironmentFault(
            f"debian image: {argv[0]} does not work here", hint="a Debian machine is needed"
        ) from error
