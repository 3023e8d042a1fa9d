"""The kernel image as QEMU's `-kernel` hands it to the firmware, which is not the file's.

QEMU acts as a boot loader of the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst) and fills in its part of the
setup header: who loads, the heap, where options and initrd lie. OVMF then measures the patched image. Follows
x86_load_linux of QEMU 7.2, hw/i386/x86.c, for the machine `q35` with less than 2 GiB of memory. A kernel started from a
disk is not patched, and none of this is needed there.
"""

from __future__ import annotations

import struct
from typing import Final

from sealvm.errors import MalformedError

_CMDLINE_ADDRESS: Final = 0x20000
_SETUP_ADDRESS: Final = 0x10000
_ACPI_DATA_BYTES: Final = 0x20000 + 0x8000
_LOW_MEMORY_LIMIT_BYTES: Final = 2 << 30
_PROTOCOL_OFFSET: Final = 0x206
_PROTOCOL_WITH_XLOADFLAGS: Final = 0x20C
_CAN_BE_LOADED_ABOVE_4G: Final = 0x0002
_LOADED_HIGH: Final = 0x01
_CAN_USE_HEAP: Final = 0x80
_LOADER_QEMU: Final = 0xB0


def as_qemu_loads_it(kernel: bytes, initrd_bytes: int, memory_bytes: int) -> bytes:
    """`kernel` with the setup header that QEMU 7.2 gives it beside an initrd of `initrd_bytes`.

    Raises MalformedError for what is no bzImage of boot protocol 2.12 or later, or for 2 GiB of memory and more.
    """
    if memory_bytes >= _LOW_MEMORY_LIMIT_BYTES:
        raise MalformedError(f"memory of {memory_bytes} bytes: its layout below 4 GiB is known for less than 2 GiB")
    if len(kernel) < 0x264 or kernel[0x202:0x206] != b"HdrS" or not kernel[0x211] & _LOADED_HIGH:
        raise MalformedError("kernel: is no bzImage of the Linux/x86 boot protocol")
    protocol, xloadflags = _u16(kernel, _PROTOCOL_OFFSET), _u16(kernel, 0x236)
    if protocol < _PROTOCOL_WITH_XLOADFLAGS:
        raise MalformedError(f"kernel: boot protocol {protocol >> 8}.{protocol & 0xFF}, expected 2.12 or later")
    highest = 0xFFFFFFFF if xloadflags & _CAN_BE_LOADED_ABOVE_4G else struct.unpack_from("<I", kernel, 0x22C)[0]
    highest = min(highest, memory_bytes - _ACPI_DATA_BYTES - 1)
    patched = bytearray(kernel)
    patched[0x210] = _LOADER_QEMU
    patched[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<I", patched, 0x218, (highest - initrd_bytes) & ~0xFFF)  # ramdisk_image
    struct.pack_into("<I", patched, 0x21C, initrd_bytes)  # ramdisk_size
    struct.pack_into("<H", patched, 0x224, _CMDLINE_ADDRESS - _SETUP_ADDRESS - 0x200)  # heap_end_ptr
    struct.pack_into("<I", patched, 0x228, _CMDLINE_ADDRESS)  # cmd_line_ptr
    return bytes(patched)


def _u16(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<H", data, offset)[0])
