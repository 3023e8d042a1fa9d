"""What the data of an event says: UEFI variables, tagged events, device paths, UTF-16 text.

Every function takes the bytes alone and answers None when they do not have the form, because data that is not covered
by the event's digest may be anything. Nothing here checks that digest; the caller must before it believes a word.
Sections are of TCG PC Client Platform Firmware Profile 1.06, and of UEFI 2.10 for device paths.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from sealvm.tcg.events_types import EV_EFI_VARIABLE_BOOT, EV_IPL

EFI_GLOBAL_VARIABLE: Final = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
EFI_IMAGE_SECURITY_DATABASE: Final = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")

TEXT_CHARACTERS_MAX: Final = 4096
_NODES_MAX: Final = 64
# GRUB 2.06 and newer, grub-core/kern/verifiers and lib/cmdline: it logs this before the text whose hash it extends.
_GRUB_PREFIXES: Final = (b"grub_cmd: ", b"kernel_cmdline: ")


@dataclass(frozen=True, slots=True)
class UefiVariable:
    """UEFI_VARIABLE_DATA (section 10.3.5): which variable, and what it held."""

    vendor: uuid.UUID
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class TaggedEvent:
    """TCG_PCClientTaggedEvent (section 10.4.2.1)."""

    tag: int
    data: bytes


def parse_variable(data: bytes) -> UefiVariable | None:
    """A UEFI variable: GUID, u64 name length in characters, u64 data length, name, data; nothing may be left over."""
    if len(data) < 32:
        return None
    name_characters, data_bytes = struct.unpack_from("<QQ", data, 16)
    if name_characters > TEXT_CHARACTERS_MAX or 32 + 2 * name_characters + data_bytes != len(data):
        return None
    name = decode_text(data[32 : 32 + 2 * name_characters])
    if name is None:
        return None
    return UefiVariable(uuid.UUID(bytes_le=data[:16]), name, data[32 + 2 * name_characters :])


def parse_tagged(data: bytes) -> TaggedEvent | None:
    """A tagged event: u32 tag, u32 length, and exactly that many bytes."""
    if len(data) < 8:
        return None
    tag, length = struct.unpack_from("<II", data)
    return TaggedEvent(tag, data[8:]) if length == len(data) - 8 else None


def hashed_text(event_type: int, data: bytes) -> bytes | None:
    """What the digest should be the hash of, for events that log a text in another form than they hash it; else None.

    GRUB logs a prefix and a NUL around its text, systemd-stub logs a section's name as UTF-16 and hashes it as ASCII
    with a NUL, and EV_EFI_VARIABLE_BOOT is extended with the variable's value alone (section 10.4.1).
    """
    if event_type == EV_IPL:
        for prefix in _GRUB_PREFIXES:
            if data.startswith(prefix):
                return data[len(prefix) :].removesuffix(b"\0")
        name = decode_text(data)
        return name.encode() + b"\0" if name and name.isascii() else None
    if event_type == EV_EFI_VARIABLE_BOOT:
        variable = parse_variable(data)
        return None if variable is None else variable.data
    return None


def load_option_text(data: bytes) -> str | None:
    """The name of a boot entry, EFI_LOAD_OPTION (UEFI section 3.1.3): u32, u16, then UTF-16 up to a NUL."""
    for end in range(6, min(len(data) - 1, 6 + 2 * TEXT_CHARACTERS_MAX), 2):
        if data[end : end + 2] == b"\0\0":
            return decode_text(data[6:end])
    return None


def decode_text(data: bytes) -> str | None:
    """UTF-16LE text with or without one terminating NUL, if every character of it can be shown on a line.

    None for an odd length, unpaired surrogates, control characters (a NUL or newline would end a kernel's command line
    early while the rest is still shown), and more than 4096 characters.
    """
    if len(data) % 2 or len(data) > 2 * (TEXT_CHARACTERS_MAX + 1):
        return None
    try:
        text = data.decode("utf-16-le").removesuffix("\0")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def device_path_text(path: bytes) -> str | None:
    """A device path for people, such as `Pci(1.0)/\\EFI\\BOOT\\BOOTX64.EFI` (UEFI section 10.3); None if malformed."""
    parts: list[str] = []
    at = 0
    for _ in range(_NODES_MAX):
        if at + 4 > len(path):
            return None
        kind, subkind, length = struct.unpack_from("<BBH", path, at)
        if length < 4 or at + length > len(path):
            return None
        body = path[at + 4 : at + length]
        at += length
        if (kind, subkind) == (0x7F, 0xFF):
            return "/".join(parts) if at == len(path) else None
        parts.append(_node_text(kind, subkind, body))
    return None


def _node_text(kind: int, subkind: int, body: bytes) -> str:
    text: str | None = None
    match (kind, subkind):
        case (0x01, 0x01) if len(body) == 2:
            text = f"Pci({body[1]:x}.{body[0]:x})"
        case (0x01, 0x04) if len(body) >= 16:
            text = f"Vendor({uuid.UUID(bytes_le=body[:16])})"
        case (0x02, 0x01) if len(body) == 8:
            text = f"Acpi({body[:4].hex()},{body[4]})"
        case (0x03, 0x12) if len(body) == 6:
            text = f"Sata({body[0]})"
        case (0x04, 0x01) if len(body) == 38:
            text = f"HD({body[0]},{uuid.UUID(bytes_le=body[20:36])})"
        case (0x04, 0x03) if len(body) >= 16:
            text = f"Media({uuid.UUID(bytes_le=body[:16])})"
        case (0x04, 0x04):
            text = decode_text(body)
        case (0x04, 0x06) if len(body) == 16:
            text = f"FvFile({uuid.UUID(bytes_le=body)})"
        case (0x04, 0x07) if len(body) == 16:
            text = f"Fv({uuid.UUID(bytes_le=body)})"
    return text if text is not None else f"Path({kind:x},{subkind:x},{body.hex()[:64]})"


def image_path(data: bytes) -> str | None:
    """Where a measured program came from, by UEFI_IMAGE_LOAD_EVENT (section 10.2.3).

    No digest ever covers this: an application's event is extended with the hash of the program, not of these bytes.
    """
    if len(data) < 32:
        return None
    (length,) = struct.unpack_from("<Q", data, 24)
    return device_path_text(data[32:]) if length == len(data) - 32 else None
