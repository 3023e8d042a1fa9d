"""TPM models and firmware, and the bars that keep some of them out (docs/spec/enrollment-v1.md, section 6).

Both sides of a comparison come from text that makers wrote: `id:53544D20` is the manufacturer `STM `, four characters
padded with blanks or zero bytes, and `id:00490004` a firmware version, a hexadecimal number. Operators may write either
`STM` or the id.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sealvm.errors import EnrollmentRefused

_ID = re.compile(r"(?:id:)?([0-9a-f]{1,16})", re.IGNORECASE)
_VENDOR = re.compile(r"id:([0-9a-f]{8})", re.IGNORECASE)

NameText = Annotated[str, Field(max_length=128)]


@dataclass(frozen=True, slots=True)
class TpmModel:
    """What an EK certificate says of its TPM: manufacturer, model and firmware version, as it says it."""

    manufacturer: NameText
    model: NameText
    version: NameText

    def __str__(self) -> str:
        return f"{self.manufacturer} {self.model} {self.version}".strip()


@dataclass(frozen=True, slots=True)
class Bar:
    """TPMs that may not take part: all of a manufacturer's, or of its model, or one version, or all before a version.

    At most one of `version` and `before` is set; an empty field says nothing. `bar_id` is what operators name it by.
    """

    bar_id: str
    manufacturer: str
    model: str = ""
    version: str = ""
    before: str = ""

    def covers(self, tpm: TpmModel) -> bool:
        """Whether this TPM is barred. A firmware version that is no number counts as before every version."""
        if vendor(tpm.manufacturer) != vendor(self.manufacturer):
            return False
        if self.model and _folded(tpm.model) != _folded(self.model):
            return False
        if self.version:
            return _same_version(tpm.version, self.version)
        if self.before:
            number, limit = version_number(tpm.version), version_number(self.before)
            return number is None or limit is None or number < limit
        return True

    def describe(self) -> str:
        """The bar in words, for people."""
        model = f" model {self.model}" if self.model else ""
        version = f" version {self.version}" if self.version else ""
        before = f" before version {self.before}" if self.before else ""
        return f"manufacturer {self.manufacturer}{model}{version}{before}"


def check_not_barred(tpm: TpmModel, bars: Iterable[Bar]) -> None:
    """Return only if no bar covers this TPM; EnrollmentRefused, check `tpm-barred`, names the first that does."""
    for bar in bars:
        if bar.covers(tpm):
            raise EnrollmentRefused(
                f"TPMs of {bar.describe()} are barred; this one is {tpm}",
                hint="an operator barred it with `sealvm authority bar add`; use a host with another TPM or firmware",
                check="tpm-barred",
                bar=bar.bar_id,
            )


def vendor(manufacturer: str) -> str:
    """The manufacturer in one form: `STM` for `STM`, `id:53544D20` and `id:53544d00`; the id where it is no text."""
    match = _VENDOR.fullmatch(manufacturer.strip())
    if match is None:
        return _folded(manufacturer)
    text = bytes.fromhex(match.group(1)).strip(b"\0 ")
    if text and text.isascii() and text.decode().isprintable():
        return _folded(text.decode())
    return f"id:{match.group(1).lower()}"


def version_number(version: str) -> int | None:
    """The firmware version as a number; None when it is none."""
    match = _ID.fullmatch(version.strip())
    return int(match.group(1), 16) if match else None


def _same_version(left: str, right: str) -> bool:
    numbers = version_number(left), version_number(right)
    if None in numbers:
        return _folded(left) == _folded(right)
    return numbers[0] == numbers[1]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
