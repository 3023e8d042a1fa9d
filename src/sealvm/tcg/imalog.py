"""IMA's runtime log: what Linux measured of files after the boot, and the value of PCR 10 it leads to.

Reads `binary_runtime_measurements` of Linux, Documentation/security/IMA-templates.rst and
security/integrity/ima/ima_fs.c (ima_measurements_show), little-endian:

    u32 PCR || SHA-1 of the template data (20) || u32 length || template name || template data
    template data:  of `ima`: digest (20) || u32 length || path;  of all others: u32 length || fields, each u32 || bytes

Pure: no I/O. A kernel of version 5.8 or newer extends each bank with that bank's own hash of the template data; older
ones pad the SHA-1, which this reader does not accept as SHA-256. Nothing here is trusted before PCR 10 was compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealvm.errors import MalformedError
from sealvm.tcg.eventlog import extend
from sealvm.tcg.pcr import PCR_BYTES, PCR_COUNT

IMA_PCR: Final = 10
IMA_LOG_BYTES_MAX: Final = 16 << 20
IMA_ENTRIES_MAX: Final = 1 << 17
TEMPLATE_BYTES_MAX: Final = 256 << 10
PATH_BYTES_MAX: Final = 4096
BOOT_AGGREGATE: Final = "boot_aggregate"

_NAME_BYTES_MAX: Final = 255
_OLD_NAME_BYTES: Final = 256  # IMA_EVENT_NAME_LEN_MAX + 1: the `ima` template hashes the path padded to this
_VIOLATION: Final = bytes(20)
_WHAT: Final = "IMA log"
# Templates whose first two fields are d-ng and n-ng; a custom format is its own name.
_NG_TEMPLATES: Final = ("ima-ng", "ima-sig", "ima-buf", "ima-modsig", "evm-sig")
_DIGEST_BYTES: Final = {"md5": 16, "sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """One measurement. `digest` is what SHA-256 banks were extended with, and covers template, path and file digest.

    A `violation` says that the file could change while it was measured: the TPM got 32 bytes of ff, and nothing else of
    the entry is proved. `path` and `file_digest` are None where the template does not have them in a known form.
    """

    index: int
    pcr: int
    template: str
    digest: bytes
    violation: bool
    file_algorithm: str
    file_digest: bytes | None
    path: str | None


class _Cursor:
    """A bounded little-endian reader; whatever runs past the end is a MalformedError that names the entry."""

    def __init__(self, data: bytes, entry: int) -> None:
        self._data = data
        self.at = 0
        self.entry = entry

    def take(self, length: int, what: str, limit: int) -> bytes:
        left = len(self._data) - self.at
        if length > min(left, limit):
            raise _malformed(self.entry, f"{what} needs {length} bytes, {left} are left and at most {limit} are read")
        self.at += length
        return self._data[self.at - length : self.at]

    def number(self, what: str) -> int:
        return int.from_bytes(self.take(4, what, 4), "little")

    def sized(self, what: str, limit: int) -> bytes:
        return self.take(self.number(f"size of the {what}"), what, limit)

    def at_end(self) -> bool:
        return self.at == len(self._data)


def _malformed(entry: int, problem: str) -> MalformedError:
    return MalformedError(f"{_WHAT}, entry {entry}: {problem}", entry=entry)


def parse_ima_log(data: bytes) -> tuple[ImaEntry, ...]:
    """Read a whole log; every byte of it belongs to an entry, and every entry's SHA-1 is that of its template data.

    Takes at most 16 MiB and 131,072 entries. Raises MalformedError for anything else.
    """
    if len(data) > IMA_LOG_BYTES_MAX:
        raise MalformedError(f"{_WHAT}: {len(data)} bytes, at most {IMA_LOG_BYTES_MAX} are read")
    cursor = _Cursor(data, 0)
    entries: list[ImaEntry] = []
    while not cursor.at_end():
        cursor.entry = len(entries)
        if cursor.entry >= IMA_ENTRIES_MAX:
            raise MalformedError(f"{_WHAT}: more than {IMA_ENTRIES_MAX} entries")
        entries.append(_entry(cursor))
    return tuple(entries)


def _entry(cursor: _Cursor) -> ImaEntry:
    pcr = cursor.number("PCR")
    if pcr >= PCR_COUNT:
        raise _malformed(cursor.entry, f"PCR {pcr}, expected 0 to {PCR_COUNT - 1}")
    logged = cursor.take(20, "SHA-1 digest", 20)
    name = cursor.sized("template name", _NAME_BYTES_MAX)
    if not name.isascii() or not name.decode("ascii").isprintable():
        raise _malformed(cursor.entry, "the template's name is not printable")
    template = name.decode("ascii")
    file_digest: bytes | None
    if template == "ima":
        hashed, algorithm, file_digest, path = _old_template(cursor)
    else:
        hashed = cursor.sized("template data", TEMPLATE_BYTES_MAX)
        algorithm, file_digest, path = _fields(cursor.entry, template, hashed)
    violation = logged == _VIOLATION
    if not violation and hashlib.sha1(hashed, usedforsecurity=False).digest() != logged:
        raise _malformed(cursor.entry, "the logged digest is not that of the template data")
    digest = b"\xff" * PCR_BYTES if violation else hashlib.sha256(hashed).digest()
    return ImaEntry(cursor.entry, pcr, template, digest, violation, algorithm, file_digest, path)


def _old_template(cursor: _Cursor) -> tuple[bytes, str, bytes, str | None]:
    """The `ima` template: a 20-byte digest (SHA-1, or MD5 padded), and a path that is hashed with its padding."""
    file_digest = cursor.take(20, "file digest", 20)
    path = cursor.sized("path", _OLD_NAME_BYTES - 1)
    return file_digest + path.ljust(_OLD_NAME_BYTES, b"\0"), "sha1", file_digest, _path(path)


def _fields(entry: int, template: str, data: bytes) -> tuple[str, bytes | None, str | None]:
    """Algorithm, digest and path of a template that begins with d-ng and n-ng; of others nothing is concluded."""
    if template not in _NG_TEMPLATES and not template.startswith("d-ng|n-ng"):
        return "", None, None
    cursor = _Cursor(data, entry)
    digest = cursor.sized("field d-ng", TEMPLATE_BYTES_MAX)
    path = cursor.sized("field n-ng", PATH_BYTES_MAX + 1)
    while not cursor.at_end():
        cursor.sized("field", TEMPLATE_BYTES_MAX)
    name, separator, value = digest.partition(b":\0")
    algorithm = name.decode("ascii", errors="replace")
    if not separator or _DIGEST_BYTES.get(algorithm, len(value)) != len(value):
        raise _malformed(entry, "field d-ng has not the form 'algorithm:' NUL digest")
    return algorithm, value, _path(path.removesuffix(b"\0"))


def _path(data: bytes) -> str | None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def progress(entries: Sequence[ImaEntry], start: bytes = bytes(PCR_BYTES)) -> tuple[bytes, ...]:
    """The 32-byte value of PCR 10 before the first entry, `start`, and after each: one more than there are entries.

    A log read later than the quote has entries that the quote does not cover; the caller looks for the value quoted.
    """
    values = [start]
    for entry in entries:
        values.append(extend(values[-1], entry.digest) if entry.pcr == IMA_PCR else values[-1])
    return tuple(values)
