"""Launch settings: the only things a package can tell a hypervisor (docs/spec/package-v1.md, section 3.2).

A fixed allow-list of enumerations and bounded numbers; no setting is ever a path, a command or free text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sealvm.errors import MalformedError

Firmware = Literal["bios", "uefi"]
Architecture = Literal["x86_64"]
FIRMWARES: tuple[Firmware, ...] = ("bios", "uefi")
ARCHITECTURES: tuple[Architecture, ...] = ("x86_64",)
MIN_MEMORY_MIB = 16
MAX_MEMORY_MIB = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """How the VM wants to be started: its firmware, its processor architecture, and the least memory it needs."""

    firmware: Firmware = "bios"
    architecture: Architecture = "x86_64"
    min_memory_mib: int = 256

    def to_json(self) -> dict[str, Any]:
        return {
            "firmware": self.firmware,
            "architecture": self.architecture,
            "min_memory_mib": self.min_memory_mib,
        }


def parse_settings(obj: Any) -> Settings:
    """The settings in this JSON value. Raises MalformedError for anything that is not on the list."""
    expected = {"firmware", "architecture", "min_memory_mib"}
    if not isinstance(obj, dict) or set(obj) != expected:
        raise MalformedError(f"launch settings: expected exactly {', '.join(sorted(expected))}")
    firmware = next((known for known in FIRMWARES if known == obj["firmware"]), None)
    if firmware is None:
        raise MalformedError(f"launch settings: firmware {str(obj['firmware'])[:40]!r}, expected bios or uefi")
    architecture = next((known for known in ARCHITECTURES if known == obj["architecture"]), None)
    if architecture is None:
        raise MalformedError(f"launch settings: architecture {str(obj['architecture'])[:40]!r}, expected x86_64")
    memory = obj["min_memory_mib"]
    if type(memory) is not int or not MIN_MEMORY_MIB <= memory <= MAX_MEMORY_MIB:
        raise MalformedError(f"launch settings: min_memory_mib must be {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}")
    return Settings(firmware, architecture, memory)
