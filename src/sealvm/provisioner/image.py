"""A disk image as a source of data and holes.

Reads raw images (and block devices). Holds nothing but an open file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from sealvm.errors import ImageError
from sealvm.package.header import SECTOR_BYTES

_FORMATS = (
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (b"# Disk DescriptorFile", "vmdk"),
    (b"vhdxfile", "vhdx"),
    (b"conectix", "vpc"),
    (b"<<< Oracle VM VirtualBox Disk Image >>>", "vdi"),
    (b"<<< QEMU VM Virtual Disk Image >>>", "vdi"),
    (b"QED\0", "qed"),
    (b"LUKS\xba\xbe", "luks"),
)
_SNIFF_BYTES = 64


class ImageSource:
    """A raw image open for reading; `disk_bytes` is its size. Reads are safe from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the image. Raises ImageError when it is missing, unreadable, empty, no whole number of 512-byte sectors,
        or of a format other than raw.
        """
        self.path = path
        try:
            # without O_NONBLOCK a named pipe would be waited for, perhaps for ever; files and devices ignore it
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as problem:
            raise ImageError(f"cannot read image {path}: {problem.strerror}", path=str(path)) from problem
        try:
            self.disk_bytes = self._examine()
        except OSError as problem:
            os.close(self._descriptor)
            raise ImageError(f"cannot read image {path}: {problem.strerror}", path=str(path)) from problem
        except BaseException:
            os.close(self._descriptor)
            raise
        self._identity = self._stamp()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`. Raises ImageError when they cannot be read."""
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as problem:
            raise ImageError(f"image {self.path}: reading at {offset} failed: {problem.strerror}") from problem
        if len(data) != length:
            raise ImageError(f"image {self.path}: ended at {offset + len(data)} while it was read")
        return data

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """(offset, bytes) of the runs that are not holes, in order. A file system that knows no holes gives one run."""
        at = 0
        while at < self.disk_bytes:
            try:
                start = os.lseek(self._descriptor, at, os.SEEK_DATA)
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as problem:
                if problem.errno == errno.ENXIO:  # nothing but a hole from here on
                    return
                if problem.errno != errno.EINVAL:
                    raise ImageError(f"image {self.path}: cannot be searched: {problem.strerror}") from problem
                start, end = at, self.disk_bytes
            end = min(end, self.disk_bytes)
            yield start, end - start
            at = end

    def check_unchanged(self) -> None:
        """Raise ImageError when the image was written to since it was opened."""
        if self._stamp() != self._identity:
            raise ImageError(
                f"image {self.path} changed while it was read", hint="stop whatever writes to it, and build again"
            )

    def _examine(self) -> int:
        mode = os.fstat(self._descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise ImageError(f"{self.path} is neither a file nor a block device")
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        if size == 0:
            raise ImageError(f"image {self.path} is empty")
        start = os.pread(self._descriptor, _SNIFF_BYTES, 0)
        for magic, name in _FORMATS:
            if start.startswith(magic):
                raise ImageError(
                    f"image {self.path} is {name}, only raw images are read by this version",
                    hint=f"convert it first: qemu-img convert -O raw {self.path} {self.path}.raw",
                )
        if size % SECTOR_BYTES:
            raise ImageError(f"image {self.path}: {size} bytes are no whole number of {SECTOR_BYTES}-byte sectors")
        return size

    def _stamp(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns
