"""What each kind of event is called in plain words, and what to do when it differs from the approved one.

The table is total over the specification's event types; a test walks it with every event of the recorded boots. Words
come from an event's label, which only the host vouches for; they name a difference and prove nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sealvm.attest.events import MeasuredEvent
from sealvm.tcg.events_data import UefiVariable, parse_variable
from sealvm.tcg.events_types import (
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_BOOT2,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EVENT_TAG,
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
    if event.event_type in _VARIABLE_TYPES and (variable := parse_variable(event.data)) is not None:
        return _BY_VARIABLE.get(variable.name, _named(words, variable))
    if event.event_type == EV_EFI_VARIABLE_AUTHORITY and (variable := parse_variable(event.data)) is not None:
        return _named(words, variable)
    return words


def _named(words: Words, variable: UefiVariable) -> Words:
    return Words(f"{words.what} {variable.name[:40]}", words.advice)
