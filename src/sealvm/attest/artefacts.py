"""What a host boots, as bytes, and what that measures: a kernel from QEMU, one from a boot entry, a UKI.

All of it was compared with real boots under OVMF; docs/pcrs.md says of what versions.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from sealvm.errors import ConflictError, MalformedError
from sealvm.tcg.authenticode import authenticode_digest, section_bytes, sections

STUB_VERSION: Final = 252
CMDLINE_CHARACTERS_MAX: Final = 2047

_SECTIONS_MEASURED: Final = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb")
_SECTIONS_UNSUPPORTED: Final = (".pcrsig", ".pcrpkey", ".uname", ".ucode")
_STUB_MAGIC: Final = re.compile(rb"#### LoaderInfo: systemd-stub (\d{1,4})[^#]{0,64} ####")

_QEMU_SETUP_ADDRESS: Final = 0x10000
_QEMU_CMDLINE_ADDRESS: Final = 0x20000
_QEMU_ACPI_BYTES: Final = 0x28000
_QEMU_LOW_MEMORY_MAX: Final = 2 << 30


@dataclass(frozen=True, slots=True)
class DirectKernel:
    """A kernel that QEMU's `-kernel` hands to OVMF, with the options of `-append`, before what QEMU adds to them.

    `memory_bytes` is the machine's memory: QEMU writes the initrd's place into the kernel, which changes its digest.
    """

    kernel: bytes
    cmdline: str
    initrd: bytes | None
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class StubKernel:
    """A kernel that the firmware starts itself, by a boot entry, through its EFI stub.

    `cmdline` is exactly the entry's options. `initrd` is one that is handed over as a device path
    (LINUX_EFI_INITRD_MEDIA_GUID) and hence measured; None also for one that `initrd=` in the options names.
    """

    kernel: bytes
    cmdline: str
    initrd: bytes | None = None


@dataclass(frozen=True, slots=True)
class UnifiedKernel:
    """A unified kernel image of systemd-stub 252 that the firmware starts, with nothing beside it on the ESP."""

    image: bytes


Artefacts: TypeAlias = DirectKernel | StubKernel | UnifiedKernel


@dataclass(frozen=True, slots=True)
class Boot:
    """What artefacts lead to: the programs' digests in order, the options, the initrd's digest, and PCR 11's contents.

    `before_separator`: OVMF starts what QEMU hands it before it ends its own measurements. `by_entry`: the options come
    from a boot entry, which the firmware measures as well.
    """

    programs: tuple[bytes, ...]
    before_separator: bool
    cmdline: str
    initrd_digest: bytes | None
    sections: tuple[tuple[str, bytes], ...] = ()
    by_entry: bool = False


def boot_of(artefacts: Artefacts, *, secure_boot: bool) -> Boot:
    """What a boot of `artefacts` measures. Raises MalformedError for artefacts that are not what they should be, and
    ConflictError for a boot that is not measured as assumed here.
    """
    match artefacts:
        case DirectKernel():
            return _direct(artefacts, secure_boot=secure_boot)
        case StubKernel():
            digest = authenticode_digest(artefacts.kernel, "kernel")
            return Boot((digest,), False, _checked(artefacts.cmdline), _digest(artefacts.initrd), by_entry=True)
        case UnifiedKernel():
            return _unified(artefacts.image, secure_boot=secure_boot)


def load_options(cmdline: str) -> bytes:
    """What the EFI stub hashes: the options as UTF-16LE with the terminating NUL."""
    return (cmdline + "\0").encode("utf-16-le")


def _direct(boot: DirectKernel, *, secure_boot: bool) -> Boot:
    if secure_boot:
        raise ConflictError(
            "a kernel from QEMU cannot be predicted with Secure Boot on: QEMU's changes break its signature, and OVMF "
            "then starts it without measuring it",
            hint="boot a UKI or a boot entry from disk",
        )
    cmdline = _checked(f"{boot.cmdline} initrd=initrd" if boot.initrd is not None else boot.cmdline)
    patched = as_qemu_loads_it(boot.kernel, len(boot.initrd or b""), boot.memory_bytes)
    return Boot((authenticode_digest(patched, "kernel"),), True, cmdline, _digest(boot.initrd))


def as_qemu_loads_it(kernel: bytes, initrd_bytes: int, memory_bytes: int) -> bytes:
    """`kernel` with the setup header that QEMU 7.2 gives it (hw/i386/x86.c, x86_load_linux; Linux boot.rst).

    Raises MalformedError for what is no bzImage of boot protocol 2.12 or later, and for 2 GiB of memory and more, where
    the place of the initrd depends on the machine.
    """
    if len(kernel) < 0x264 or kernel[0x202:0x206] != b"HdrS" or not kernel[0x211] & 1:
        raise MalformedError("kernel: is no bzImage of the Linux/x86 boot protocol")
    protocol, flags = struct.unpack_from("<H", kernel, 0x206)[0], struct.unpack_from("<H", kernel, 0x236)[0]
    if protocol < 0x20C:
        raise MalformedError(f"kernel: boot protocol {protocol >> 8}.{protocol & 255}, expected 2.12 or later")
    if not _QEMU_ACPI_BYTES < memory_bytes < _QEMU_LOW_MEMORY_MAX:
        raise MalformedError(f"memory of {memory_bytes} bytes: can be predicted for less than {_QEMU_LOW_MEMORY_MAX}")
    highest = 0xFFFFFFFF if flags & 2 else struct.unpack_from("<I", kernel, 0x22C)[0]
    highest = min(highest, memory_bytes - _QEMU_ACPI_BYTES - 1)
    patched = bytearray(kernel)
    patched[0x210] = 0xB0  # type_of_loader: QEMU
    patched[0x211] |= 0x80  # loadflags: heap_end_ptr is valid
    struct.pack_into("<H", patched, 0x224, _QEMU_CMDLINE_ADDRESS - _QEMU_SETUP_ADDRESS - 0x200)  # heap_end_ptr
    struct.pack_into("<I", patched, 0x228, _QEMU_CMDLINE_ADDRESS)  # cmd_line_ptr
    if initrd_bytes:
        struct.pack_into("<II", patched, 0x218, (highest - initrd_bytes) & ~0xFFF, initrd_bytes)  # ramdisk image, size
    return bytes(patched)


def _unified(image: bytes, *, secure_boot: bool) -> Boot:
    """systemd-stub(7): sections into PCR 11; without Secure Boot the kernel inside is a program too."""
    what = "UKI"
    present = {section.name for section in sections(image, what)}
    if missing := sorted({".linux", ".cmdline"} - present):
        raise MalformedError(
            f"{what}: has no section {missing[0]}", hint="make it with a kernel and its options inside"
        )
    if unsupported := [name for name in _SECTIONS_UNSUPPORTED if name in present]:
        raise ConflictError(f"{what}: what section {unsupported[0]} adds to the initrd cannot be predicted")
    _check_stub(image, what)
    contents = {name: section_bytes(image, name, what) or b"" for name in _SECTIONS_MEASURED if name in present}
    inner = authenticode_digest(contents[".linux"], f"{what}'s kernel")
    outer = authenticode_digest(image, what)
    text = contents[".cmdline"].removesuffix(b"\0")
    return Boot(
        programs=(outer,) if secure_boot else (outer, inner),
        before_separator=False,
        cmdline=_checked(text.decode("ascii", errors="replace")),
        initrd_digest=_digest(contents.get(".initrd")),
        sections=tuple((name, hashlib.sha256(data).digest()) for name, data in contents.items() if data),
    )


def _check_stub(image: bytes, what: str) -> None:
    magic = section_bytes(image, ".sdmagic", what)
    found = _STUB_MAGIC.search(magic) if magic is not None else None
    if found is None:
        raise MalformedError(f"{what}: its stub is not systemd's")
    if int(found[1]) != STUB_VERSION:
        raise ConflictError(
            f"{what}: its stub is systemd-stub {int(found[1])}; what others than {STUB_VERSION} measure is not known",
            hint="boot it on one host and approve the state that this host reports",
        )


def _checked(cmdline: str) -> str:
    """The options as every part of the boot takes them unchanged: one printable ASCII line without spaces around it."""
    if not cmdline or not cmdline.isascii() or not cmdline.isprintable() or cmdline != cmdline.strip():
        raise MalformedError("options: expected one printable ASCII line without spaces around it", hint="not empty")
    if len(cmdline) > CMDLINE_CHARACTERS_MAX:
        raise MalformedError(f"options: {len(cmdline)} characters, Linux takes {CMDLINE_CHARACTERS_MAX}")
    return cmdline


def _digest(data: bytes | None) -> bytes | None:
    return hashlib.sha256(data).digest() if data else None
