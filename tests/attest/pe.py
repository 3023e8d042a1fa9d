"""PE/COFF programs made for tests, small and with the parts that matter to a hash."""

from __future__ import annotations

import struct
from collections.abc import Mapping

MAGIC = b"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####\0"


def program(sections: Mapping[str, bytes], *, certificate: bytes = b"", checksum: int = 0, tail: bytes = b"") -> bytes:
    """A PE32+ program with these sections, in this order, and a certificate table of `certificate`."""
    headers = 0x400
    bodies, table, at = b"", b"", headers
    for name, data in sections.items():
        raw = data.ljust((len(data) + 511) & ~511, b"\0")
        table += struct.pack("<8sIIII16x", name.encode(), len(data), 0x1000 + at, len(raw), at)
        bodies, at = bodies + raw, at + len(raw)
    optional = struct.pack("<H58xIII", 0x20B, headers, checksum, 0).ljust(108, b"\0") + struct.pack("<I", 16)
    where = at + len(tail) if certificate else 0
    optional += bytes(32) + struct.pack("<II", where, len(certificate)) + bytes(88)
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, len(optional), 0x22)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0" + coff + optional + table
    return head.ljust(headers, b"\0") + bodies + tail + certificate


def kernel(name: bytes = b"kernel") -> bytes:
    """What passes for a bzImage of boot protocol 2.15 with an EFI stub; the setup header lies in the first section."""
    image = bytearray(program({".text": name.ljust(4096, b"x")}))
    return bytes(image)


def bzimage(name: bytes = b"kernel") -> bytes:
    """`kernel` with the setup header of the Linux/x86 boot protocol, which the headers leave room for."""
    image = bytearray(kernel(name))
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x20F)
    image[0x211] = 1
    struct.pack_into("<H", image, 0x236, 3)
    return bytes(image)


def uki(cmdline: str = "root=/dev/vda ro", *, inner: bytes | None = None, magic: bytes = MAGIC, **more: bytes) -> bytes:
    """A unified kernel image; `more` are further sections by their names without the dot, empty ones are left out."""
    sections = {".text": b"stub", ".sdmagic": magic, ".osrel": b"ID=test\n", ".cmdline": cmdline.encode()}
    sections |= {".linux": kernel() if inner is None else inner, ".initrd": b"initrd"}
    sections |= {f".{name}": data for name, data in more.items()}
    return program({name: data for name, data in sections.items() if data})
