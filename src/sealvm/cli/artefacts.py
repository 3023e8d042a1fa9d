"""The options by which `profile predict` and `host explain --next-boot` are told what will be booted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sealvm.attest.artefacts import Artefacts

_BYTES_MAX = 1 << 30
_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)


def artefact_options(command: _Command) -> _Command:
    """--uki, --kernel, --initrd, --cmdline and --qemu-memory; `read_artefacts` takes their values."""
    for option in reversed(
        (
            click.option("--uki", type=_FILE, help="A unified kernel image that the firmware starts."),
            click.option("--kernel", type=_FILE, help="A kernel that the firmware or QEMU starts."),
            click.option("--initrd", type=_FILE, help="The initrd that is handed to the kernel."),
            click.option("--cmdline", help="The kernel's options; with --qemu-memory without what QEMU adds."),
            click.option(
                "--qemu-memory",
                type=int,
                metavar="MIB",
                help="The kernel comes from QEMU's -kernel, on such a machine.",
            ),
        )
    ):
        command = option(command)
    return command


def read_artefacts(
    *, uki: Path | None, kernel: Path | None, initrd: Path | None, cmdline: str | None, qemu_memory: int | None
) -> Artefacts:
    """What the options name. UsageError for options that do not go together; raises as `read_limited_file`."""
    from sealvm.attest.artefacts import DirectKernel, StubKernel, UnifiedKernel
    from sealvm.cli.files import read_limited_file

    if uki is not None:
        if kernel or initrd or cmdline is not None or qemu_memory is not None:
            raise click.UsageError("--uki holds kernel, initrd and options already")
        return UnifiedKernel(read_limited_file(uki, _BYTES_MAX, "unified kernel image"))
    if kernel is None or cmdline is None:
        raise click.UsageError("give --uki, or --kernel with --cmdline")
    image = read_limited_file(kernel, _BYTES_MAX, "kernel")
    ramdisk = None if initrd is None else read_limited_file(initrd, _BYTES_MAX, "initrd")
    if qemu_memory is not None:
        return DirectKernel(image, cmdline, ramdisk, qemu_memory << 20)
    return StubKernel(image, cmdline, ramdisk)
