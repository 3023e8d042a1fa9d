"""What the kernel's EFI stub hashed, recovered on the running host (DESIGN section 5).

Linux's EFI stub extends PCR 9 with the digest of the options it was started with, and logs a tag instead of them. Who
wants to judge a command line needs the hashed bytes, the preimage. The kernel shows its options in /proc/cmdline, and
the stub was given the same text: in UTF-16LE, and with what the loader put behind it. A loader chooses that ending, so
a few forms are tried.

Nothing is assumed: only bytes whose SHA-256 a load-options event of this boot's log has are kept. A host that writes
other bytes into its preimages gains nothing either, as the verifier hashes them again.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealvm.errors import MalformedError, NotFoundError
from sealvm.host.config import HostConfig, load_host, save_host
from sealvm.host.explain import read_preimages
from sealvm.host.files import read_limited
from sealvm.protocol.messages import EVENT_LOG_BYTES_LIMIT
from sealvm.store.atomic import write_atomic
from sealvm.tcg.eventlog import EventLog, parse_event_log
from sealvm.tcg.events_data import parse_tagged
from sealvm.tcg.events_types import EV_EVENT_TAG, TAG_LOAD_OPTIONS

_LOG = logging.getLogger(__name__)

KERNEL_CMDLINE: Final = Path("/proc/cmdline")
CMDLINE_LIMIT_BYTES: Final = 64 * 1024
PREIMAGES_FILE: Final = "preimages.json"
# QEMU, systemd-boot and firmware boot entries end the options with NUL; some loaders end them with nothing, GRUB's old
# `linuxefi` and hand-made entries with a space or a newline before it.
_ENDINGS: Final = ("\0", "", " \0", "\n\0")


@dataclass(frozen=True, slots=True)
class Preimage:
    """Bytes whose SHA-256 is the digest of event `event_index` of the log, in PCR `pcr`, and the text they hold."""

    event_index: int
    pcr: int
    text: str
    content: bytes


def candidates(cmdline: bytes) -> tuple[bytes, ...]:
    """What the stub may have hashed when /proc/cmdline reads `cmdline`; nothing for bytes that are not UTF-8."""
    try:
        text = cmdline.decode().removesuffix("\n")
    except UnicodeDecodeError:
        return ()
    return tuple((text + ending).encode("utf-16-le") for ending in _ENDINGS)


def matching(log: EventLog, contents: tuple[bytes, ...]) -> tuple[Preimage, ...]:
    """Those of `contents` that an event of `log` for load options was extended with, in the order of the log."""
    by_digest = {hashlib.sha256(content).digest(): content for content in contents}
    found = []
    for event in log.events:
        tagged = parse_tagged(event.data) if event.extends and event.event_type == EV_EVENT_TAG else None
        if tagged is None or tagged.tag != TAG_LOAD_OPTIONS:
            continue  # other events hash short strings too, such as a version that is one NUL
        content = by_digest.get(event.digests.get("sha256", b""))
        if content is not None:
            text = content.decode("utf-16-le").rstrip("\0")
            found.append(Preimage(event.index, event.pcr, text, content))
    return tuple(found)


def write_preimages(config: HostConfig, cmdline_file: Path = KERNEL_CMDLINE) -> tuple[Preimage, ...]:
    """Write the host's preimages file for this boot, and name it in host.json where that names none; returns them.

    To be run once after each boot: a file from another boot does no harm, but explains nothing. What else the file has
    is kept if an event of this boot has its digest. Raises NotFoundError when no load-options event of the log has the
    digest of a form of the command line; the file is then left as it was.
    """
    cmdline = read_limited(cmdline_file, CMDLINE_LIMIT_BYTES)
    log = parse_event_log(read_limited(config.eventlog, EVENT_LOG_BYTES_LIMIT, hint="is this a UEFI boot with a TPM?"))
    found = matching(log, candidates(cmdline))
    if not found:
        raise NotFoundError(
            f"no event of {config.eventlog} measured the kernel's options that {cmdline_file} shows",
            hint="the kernel was started without its EFI stub, or with options that it does not show: "
            "requirements about kernel.cmdline cannot be met on this boot",
        )
    path = config.preimages or config.directory / PREIMAGES_FILE
    before = _readable(config)
    contents = tuple(dict.fromkeys((*(one.content for one in found), *_of_this_boot(log, before))))
    if contents != before:
        encoded = [base64.b64encode(content).decode() for content in contents]
        write_atomic(path, json.dumps(encoded).encode(), 0o600)
    if config.preimages is None:
        save_host(dataclasses.replace(load_host(config.directory), preimages=path))
    return found


def present_preimages(config: HostConfig) -> tuple[bytes, ...]:
    """The preimages to send with the boot log: those in the host's file, which is first brought up to this boot.

    Only a host whose log is the running system's can do the latter; on others, and where the kernel's options were not
    measured as /proc/cmdline shows them, the file is taken as it is. Raises as `read_preimages`; StorageFault.
    """
    if not config.of_this_system:
        return read_preimages(config)
    try:
        write_preimages(config, KERNEL_CMDLINE)
    except NotFoundError as error:
        _LOG.debug("no preimage of the kernel's options: %s", error.message)
        return read_preimages(config)
    return read_preimages(load_host(config.directory))


def _readable(config: HostConfig) -> tuple[bytes, ...]:
    try:
        return read_preimages(config)
    except (NotFoundError, MalformedError):
        return ()


def _of_this_boot(log: EventLog, contents: tuple[bytes, ...]) -> Iterator[bytes]:
    digests = {event.digests.get("sha256") for event in log.events if event.extends}
    return (content for content in contents if hashlib.sha256(content).digest() in digests)
