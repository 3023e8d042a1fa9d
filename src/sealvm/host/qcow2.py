"""What a qcow2 header may say before the file is opened (QEMU docs/interop/qcow2.txt).

An instance's overlay names no other file: its backing is given by the host, its data lie in itself. A header that
names a backing or data file is refused unopened, because whoever wrote it would make the host read or write a file of
his choice.
"""

from __future__ import annotations

import struct

from sealvm.errors import IntegrityRefused

HEADER_READ_BYTES = 64 * 1024
"""How much of the file must be given: a header and its extensions lie in the first cluster."""

_HEADER = struct.Struct(">4sIQIIQI")  # magic, version, backing offset and size, cluster bits, size, crypt method
_MAGIC = b"QFI\xfb"
_INCOMPATIBLE_OFFSET, _HEADER_LENGTH_OFFSET = 72, 100
_DIRTY = 1
_EXTENSION_END, _EXTENSION_BACKING_FORMAT, _EXTENSION_DATA_FILE = 0, 0xE2792ACA, 0x44415441
_FORBIDDEN_EXTENSIONS = {_EXTENSION_BACKING_FORMAT: "backing format", _EXTENSION_DATA_FILE: "data file"}


def check_header(data: bytes, what: str) -> int:
    """The virtual size in bytes of the self-contained qcow2 (version 3) that begins with `data`.

    Raises IntegrityRefused when it is none, or when it names a backing file, a data file or an encryption.
    """
    if len(data) < _HEADER_LENGTH_OFFSET + 4:
        raise IntegrityRefused(f"{what}: {len(data)} bytes are no qcow2 header")
    magic, version, backing_offset, backing_size, cluster_bits, size, crypt_method = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != 3:
        raise IntegrityRefused(
            f"{what}: not a qcow2 file of version 3", hint="the overlay is damaged or has another key"
        )
    if backing_offset or backing_size:
        raise IntegrityRefused(f"{what}: its header names a backing file, expected none")
    (incompatible,) = struct.unpack_from(">Q", data, _INCOMPATIBLE_OFFSET)
    if incompatible & ~_DIRTY:
        raise IntegrityRefused(f"{what}: incompatible features {incompatible:#x} (a data file?), expected none")
    if crypt_method:
        raise IntegrityRefused(f"{what}: encryption method {crypt_method}, expected none")
    if not 9 <= cluster_bits <= 21:
        raise IntegrityRefused(f"{what}: cluster bits {cluster_bits}, expected 9 to 21")
    _check_extensions(data[: 1 << cluster_bits], what)
    return int(size)


def _check_extensions(data: bytes, what: str) -> None:
    (at,) = struct.unpack_from(">I", data, _HEADER_LENGTH_OFFSET)
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(">II", data, at)
        if kind == _EXTENSION_END:
            return
        if kind in _FORBIDDEN_EXTENSIONS:
            raise IntegrityRefused(f"{what}: its header names a {_FORBIDDEN_EXTENSIONS[kind]}, expected none")
        at += 8 + (length + 7) // 8 * 8
    raise IntegrityRefused(f"{what}: header extensions without an end")
