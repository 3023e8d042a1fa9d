"""PE/COFF programs: the hash that firmware measures and Secure Boot signs, and the sections of a unified kernel image.

Specification: Microsoft, "Windows Authenticode Portable Executable Signature Format", section "Calculating the PE Image
Hash"; PE/COFF 8.3 for the headers. Signing a program does not change its hash, since checksum, certificate table and
the entry that points to it are left out.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from sealvm.errors import MalformedError

PROGRAM_BYTES_MAX: Final = 1 << 30
_SECTIONS_MAX: Final = 96
_PE32: Final = 0x10B
_PE32_PLUS: Final = 0x20B
_DIRECTORY_SECURITY: Final = 4


@dataclass(frozen=True, slots=True)
class Section:
    """One section: where its bytes lie in the file, and how many the program sees once loaded."""

    name: str
    virtual_bytes: int
    offset: int
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Offsets into the file; `security` is that of the directory entry, or None, and `certificates` its length."""

    checksum: int
    security: int | None
    certificates: int
    header_bytes: int
    sections: tuple[Section, ...]


def authenticode_digest(program: bytes, what: str) -> bytes:
    """The Authenticode SHA-256 of a PE/COFF program, 32 bytes: what the firmware extends into PCR 4 when it starts it.

    Takes at most 1 GiB. `what` names the program in errors. Raises MalformedError for bytes that are no PE/COFF
    program, or one whose sections or certificates lie outside the file. Verifies no signature.
    """
    layout = _layout(program, what)
    view = memoryview(program)
    digest = hashlib.sha256(view[: layout.checksum])
    if layout.security is None:
        digest.update(view[layout.checksum + 4 : layout.header_bytes])
    else:
        digest.update(view[layout.checksum + 4 : layout.security])
        digest.update(view[layout.security + 8 : layout.header_bytes])
    hashed = layout.header_bytes
    for section in sorted(layout.sections, key=lambda one: one.offset):
        digest.update(view[section.offset : section.offset + section.raw_bytes])
        hashed += section.raw_bytes
    if hashed + layout.certificates > len(program):
        raise MalformedError(f"{what}: sections overlap, or the certificate table lies outside the file")
    digest.update(view[hashed : len(program) - layout.certificates])
    return digest.digest()


def sections(program: bytes, what: str) -> tuple[Section, ...]:
    """All sections in the order of the section table. Raises as `authenticode_digest`."""
    return _layout(program, what).sections


def section_bytes(program: bytes, name: str, what: str) -> bytes | None:
    """What the first section called `name` holds once loaded, which is its virtual size; None if there is none."""
    for section in sections(program, what):
        if section.name == name:
            if section.virtual_bytes > section.raw_bytes:
                raise MalformedError(f"{what}: section {name} is larger in memory than in the file")
            return program[section.offset : section.offset + section.virtual_bytes]
    return None


def _layout(program: bytes, what: str) -> _Layout:
    if len(program) > PROGRAM_BYTES_MAX:
        raise MalformedError(f"{what}: {len(program)} bytes, at most {PROGRAM_BYTES_MAX} are read")
    if program[:2] != b"MZ" or len(program) < 64:
        raise MalformedError(f"{what}: is no PE/COFF program", hint="a kernel must be one with CONFIG_EFI_STUB")
    (pe,) = struct.unpack_from("<I", program, 0x3C)
    if program[pe : pe + 4] != b"PE\0\0" or pe + 24 > len(program):
        raise MalformedError(f"{what}: is no PE/COFF program", hint="a kernel must be one with CONFIG_EFI_STUB")
    count, optional_bytes = struct.unpack_from("<H", program, pe + 6)[0], struct.unpack_from("<H", program, pe + 20)[0]
    optional = pe + 24
    magic = int.from_bytes(program[optional : optional + 2], "little")
    directories = optional + {_PE32: 96, _PE32_PLUS: 112}.get(magic, 0)
    if directories == optional or optional + optional_bytes > len(program) or directories > optional + optional_bytes:
        raise MalformedError(f"{what}: optional header of a kind or size that PE/COFF does not have")
    header_bytes = struct.unpack_from("<I", program, optional + 60)[0]
    security, certificates = _security(program, optional + optional_bytes, directories)
    table = optional + optional_bytes
    if count > _SECTIONS_MAX or not table + 40 * count <= header_bytes <= len(program):
        raise MalformedError(f"{what}: {count} sections and {header_bytes} bytes of headers do not fit the file")
    found = tuple(_section(program, table + 40 * index, what) for index in range(count))
    kept = tuple(section for section in found if section.raw_bytes)
    if certificates > len(program):
        raise MalformedError(f"{what}: the certificate table lies outside the file")
    return _Layout(optional + 64, security, certificates, header_bytes, kept)


def _security(program: bytes, end: int, directories: int) -> tuple[int | None, int]:
    """Where the directory entry of the certificate table is, and the table's length."""
    (number,) = struct.unpack_from("<I", program, directories - 4)
    entry = directories + 8 * _DIRECTORY_SECURITY
    if number <= _DIRECTORY_SECURITY or entry + 8 > end:
        return None, 0
    return entry, struct.unpack_from("<I", program, entry + 4)[0]


def _section(program: bytes, at: int, what: str) -> Section:
    name, virtual, _, raw, offset = struct.unpack_from("<8sIIII", program, at)
    if raw and offset + raw > len(program):
        raise MalformedError(f"{what}: a section of {raw} bytes at {offset} lies outside the file")
    return Section(name.rstrip(b"\0").decode("ascii", errors="replace"), virtual, offset, raw)
