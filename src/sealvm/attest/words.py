"""What each kind of event is called in plain words, and what to do when it differs from the approved one.

The table is total over the specification's event types; a test walks it with every event of the recorded boots. What
boot loaders measure under a type that says little has words of its own, by PCR or variable. Words come from an event's
label, which only the host vouches for; they name a difference and prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sealvm.attest.events import MeasuredEvent, printable_ascii
from sealvm.tcg.events_data import UefiVariable, decode_text, parse_variable
from sealvm.tcg.events_types import (
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_BOOT2,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EVENT_TAG,
    EV_IPL,
    TAG_INITRD,
    TAG_LOAD_OPTIONS,
)


@dataclass(frozen=True, slots=True)
class Words:
    """`what`: the thing measured. `advice`: what brings back the approved value, as a command to an operator."""

    what: str
    advice: str


_FIRMWARE: Final = "restore the approved firmware version"
_SETUP: Final = "undo the change in the firmware's setup"
_BOOT_ORDER: Final = "restore the approved boot entry and boot order"
_DISK: Final = "restore the approved partition table"
_HARDWARE: Final = "undo the change of hardware or of its firmware"
_KEYS: Final = "restore the approved Secure Boot keys"
_REBOOT: Final = "reboot; if it stays, look for what extends this PCR"

UNKNOWN: Final = Words("an event of a kind that sealvm does not know", _REBOOT)

_BY_TYPE: Final[Mapping[str, Words]] = {
    "EV_PREBOOT_CERT": Words("firmware certificate", _FIRMWARE),
    "EV_POST_CODE": Words("firmware code", _FIRMWARE),
    "EV_UNUSED": UNKNOWN,
    "EV_NO_ACTION": Words("informative event", "nothing: it is not measured"),
    "EV_SEPARATOR": Words("end of the firmware's measurements", _REBOOT),
    "EV_ACTION": Words("firmware action", _REBOOT),
    "EV_EVENT_TAG": Words("event of the boot loader or kernel", "reboot with the approved boot loader and kernel"),
    "EV_S_CRTM_CONTENTS": Words("firmware's root of trust", _FIRMWARE),
    "EV_S_CRTM_VERSION": Words("firmware version", _FIRMWARE),
    "EV_CPU_MICROCODE": Words("processor microcode", "restore the approved microcode"),
    "EV_PLATFORM_CONFIG_FLAGS": Words("firmware settings", _SETUP),
    "EV_TABLE_OF_DEVICES": Words("table of devices", _HARDWARE),
    "EV_COMPACT_HASH": Words("firmware or boot loader data", _REBOOT),
    "EV_IPL": Words("boot loader's step", "reboot with the approved boot loader, its configuration and its files"),
    "EV_IPL_PARTITION_DATA": Words("partition table", _DISK),
    "EV_NONHOST_CODE": Words("code of a device", _HARDWARE),
    "EV_NONHOST_CONFIG": Words("settings of a device", _HARDWARE),
    "EV_NONHOST_INFO": Words("information about a device", _HARDWARE),
    "EV_OMIT_BOOT_DEVICE_EVENTS": Words("firmware setting that leaves boot events out", _SETUP),
    "EV_POST_CODE2": Words("firmware code", _FIRMWARE),
    "EV_EFI_EVENT_BASE": UNKNOWN,
    "EV_EFI_VARIABLE_DRIVER_CONFIG": Words("firmware variable", _SETUP),
    "EV_EFI_VARIABLE_BOOT": Words("boot entry or boot order", _BOOT_ORDER),
    "EV_EFI_BOOT_SERVICES_APPLICATION": Words(
        "program started by the firmware (boot loader or kernel)", "reboot with the approved boot loader and kernel"
    ),
    "EV_EFI_BOOT_SERVICES_DRIVER": Words("driver or option ROM", _HARDWARE),
    "EV_EFI_RUNTIME_SERVICES_DRIVER": Words("driver or option ROM", _HARDWARE),
    "EV_EFI_GPT_EVENT": Words("partition table", _DISK),
    "EV_EFI_ACTION": Words("step of the boot", "reboot, and let the firmware boot without interruption"),
    "EV_EFI_PLATFORM_FIRMWARE_BLOB": Words("firmware code", _FIRMWARE),
    "EV_EFI_HANDOFF_TABLES": Words("hardware description tables", _HARDWARE),
    "EV_EFI_PLATFORM_FIRMWARE_BLOB2": Words("firmware code", _FIRMWARE),
    "EV_EFI_HANDOFF_TABLES2": Words("hardware description tables", _HARDWARE),
    "EV_EFI_VARIABLE_BOOT2": Words("boot entry or boot order", _BOOT_ORDER),
    "EV_EFI_GPT_EVENT2": Words("partition table", _DISK),
    "EV_EFI_HCRTM_EVENT": Words("firmware's hardware root of trust", _FIRMWARE),
    "EV_EFI_VARIABLE_AUTHORITY": Words("key that Secure Boot accepted a program by", _KEYS),
    "EV_EFI_SPDM_FIRMWARE_BLOB": Words("firmware of a device", _HARDWARE),
    "EV_EFI_SPDM_FIRMWARE_CONFIG": Words("settings of a device's firmware", _HARDWARE),
    "EV_EFI_SPDM_DEVICE_POLICY": Words("device policy", _SETUP),
    "EV_EFI_SPDM_DEVICE_AUTHORITY": Words("key that a device was accepted by", _KEYS),
}

_BY_TAG: Final[Mapping[int, Words]] = {
    TAG_LOAD_OPTIONS: Words("kernel command line", "reboot with the approved command line"),
    TAG_INITRD: Words("initial ramdisk (initrd)", "reboot with the approved initrd"),
}

_BY_VARIABLE: Final[Mapping[str, Words]] = {
    "SecureBoot": Words("Secure Boot setting", "set Secure Boot as approved in the firmware's setup"),
    "PK": Words("Secure Boot platform key (PK)", _KEYS),
    "KEK": Words("Secure Boot key exchange keys (KEK)", _KEYS),
    "db": Words("Secure Boot accepted keys (db)", _KEYS),
    "dbx": Words("Secure Boot revocation list (dbx)", "apply the approved dbx update, or approve the new one"),
    "BootOrder": Words("boot order", _BOOT_ORDER),
}

_GRUB_COMMAND: Final = Words("GRUB command", "reboot with the approved GRUB configuration")
_GRUB_OPTIONS: Final = Words("kernel command line given by GRUB", "reboot with the approved command line")
_GRUB_FILE: Final = Words("file that GRUB read", "reboot with the approved kernel, initrd and GRUB configuration")
_UKI: Final = "reboot with the approved unified kernel image"
_MOK: Final = "restore the approved Machine Owner Keys (mokutil)"

# What boot loaders and systemd-stub log as EV_IPL, told by the PCR, since their logged texts are free.
_BY_IPL_PCR: Final[Mapping[int, Words]] = {
    8: _GRUB_COMMAND,
    9: _GRUB_FILE,
    11: Words("part of the unified kernel image", _UKI),
    12: Words("option or credential from outside the unified kernel image", "remove what lies beside the image"),
    13: Words("system extension beside the unified kernel image", "remove or restore the system extensions"),
    14: Words("shim's keys and settings", _MOK),
}

_BY_AUTHORITY: Final[Mapping[str, Words]] = {
    "SbatLevel": Words("shim's revocation level (SBAT)", "boot with the approved version of shim"),
    "MokList": Words("key by which shim accepted a program (MokList)", _MOK),
    "MokListRT": Words("key by which shim accepted a program (MokList)", _MOK),
    "Shim": Words("key by which shim accepted a program", "boot with the approved version of shim"),
    "db": Words("key that Secure Boot accepted a program by (db)", _KEYS),
}

_BOOT_ENTRY: Final = re.compile(r"Boot[0-9A-F]{4}")
_VARIABLE_TYPES: Final = (
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_BOOT2,
)


def words_for(event: MeasuredEvent) -> Words:
    """The words for `event` by its type, and where it has one, its tag or the variable it names."""
    if event.event_type == EV_EVENT_TAG and (tagged := event.tagged) is not None and tagged.tag in _BY_TAG:
        return _BY_TAG[tagged.tag]
    words = _BY_TYPE.get(event.type_name, UNKNOWN)
    if event.event_type == EV_IPL:
        return _ipl(event, words)
    if event.event_type in _VARIABLE_TYPES and (variable := parse_variable(event.data)) is not None:
        return _BY_VARIABLE.get(variable.name, _named(_variable_words(words, variable.name), variable))
    if event.event_type == EV_EFI_VARIABLE_AUTHORITY and (variable := parse_variable(event.data)) is not None:
        return _BY_AUTHORITY.get(variable.name, _named(words, variable))
    return words


def _ipl(event: MeasuredEvent, words: Words) -> Words:
    """A boot loader's step; the name of a section or file is shown where the log has one that can be."""
    if event.pcr == 8 and event.data.startswith(b"kernel_cmdline: "):
        return _GRUB_OPTIONS
    found = _BY_IPL_PCR.get(event.pcr, words)
    if event.pcr == 8 or event.pcr not in _BY_IPL_PCR:
        return found
    name = decode_text(event.data) if event.pcr in (11, 12, 13) else printable_ascii(event.data)
    return Words(f"{found.what} {name[:60]}", found.advice) if name else found


def _variable_words(words: Words, name: str) -> Words:
    return Words("boot entry", _BOOT_ORDER) if _BOOT_ENTRY.fullmatch(name) else words


def _named(words: Words, variable: UefiVariable) -> Words:
    return Words(f"{words.what} {variable.name[:40]}", words.advice)
