"""The setup header as QEMU fills it in. That OVMF measures the very same is proved by tests/measured."""

from __future__ import annotations

import struct

import pytest

from sealvm.errors import MalformedError
from sealvm.lab.qemu_kernel import as_qemu_loads_it

MEMORY_BYTES = 1 << 30


def kernel(protocol: int = 0x20F, magic: bytes = b"HdrS", loadflags: int = 0x01, xloadflags: int = 0x2B) -> bytes:
    image = bytearray(4096)
    image[0x202:0x206] = magic
    struct.pack_into("<H", image, 0x206, protocol)
    image[0x211] = loadflags
    struct.pack_into("<I", image, 0x22C, 0x2FFFFFFF)
    struct.pack_into("<H", image, 0x236, xloadflags)
    return bytes(image)


@pytest.mark.parametrize(
    ("xloadflags", "top"),
    [(0x02, MEMORY_BYTES - 0x28000 - 1), (0x00, 0x2FFFFFFF)],
    ids=["below the end of memory", "below initrd_addr_max"],
)
def test_only_the_loaders_fields_change(xloadflags: int, top: int) -> None:
    before = kernel(xloadflags=xloadflags)
    after = as_qemu_loads_it(before, 1_000_001, MEMORY_BYTES)
    assert after[0x210] == 0xB0
    assert after[0x211] == 0x81
    assert struct.unpack_from("<II", after, 0x218) == ((top - 1_000_001) & ~0xFFF, 1_000_001)
    assert struct.unpack_from("<H", after, 0x224) == (0xFE00,)
    assert struct.unpack_from("<I", after, 0x228) == (0x20000,)
    changed = {at for at, (one, other) in enumerate(zip(before, after, strict=True)) if one != other}
    assert changed <= {*range(0x210, 0x212), *range(0x218, 0x220), *range(0x224, 0x226), *range(0x228, 0x22C)}


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"", "no bzImage"),
        (kernel()[:0x263], "no bzImage"),
        (kernel(magic=b"HdrX"), "no bzImage"),
        (kernel(loadflags=0x00), "no bzImage"),
        (kernel(protocol=0x20B), r"protocol 2\.11, expected 2\.12"),
    ],
    ids=["empty", "short", "magic", "zImage", "protocol"],
)
def test_other_images_are_refused(image: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        as_qemu_loads_it(image, 1, MEMORY_BYTES)


def test_memory_whose_layout_is_another_is_refused() -> None:
    with pytest.raises(MalformedError, match="less than 2 GiB"):
        as_qemu_loads_it(kernel(), 1, 2 << 30)
