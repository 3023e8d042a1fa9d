"""Files that register many hosts: CSV or JSON lines, each a name and an EK digest (docs/enrolling-hosts.md).

    name,ek_digest                                    CSV; this first line may be left out
    host-1,3f…                                        64 hex digits, upper or lower case
    {"name": "host-1", "ek_digest": "3f…"}            JSON lines; a file is one or the other

Empty lines and CSV lines that begin with # are skipped.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from sealvm.crypto import canonical
from sealvm.errors import MalformedError
from sealvm.protocol.hosts import Registration
from sealvm.statements.encoding import parse_message

FILE_BYTES_LIMIT = 16 * 1024 * 1024
HOSTS_LIMIT = 100_000
_LINE_LIMIT = 1024
_HEADER = ["name", "ek_digest"]
_REGISTRATION: TypeAdapter[Registration] = TypeAdapter(Registration)


def parse_registrations(text: str, what: str) -> tuple[Registration, ...]:
    """The hosts in `text`, in its order; MalformedError names the line: its form, or a name or EK given twice."""
    json_lines = text.lstrip("\ufeff \r\n\t").startswith("{")
    lines = _json_lines(text, what) if json_lines else _csv_lines(text, what)
    hosts: list[Registration] = []
    seen: dict[object, int] = {}
    for number, fields in lines:
        place = f"{what}, line {number}"
        if len(hosts) == HOSTS_LIMIT:
            raise MalformedError(f"{place}: more than {HOSTS_LIMIT} hosts", hint="split the file")
        host = parse_message(_REGISTRATION, _lower(fields), place)
        for value, name in ((host.name, f"name {host.name}"), (host.ek_digest, "EK digest")):
            if value in seen:
                raise MalformedError(f"{place}: the {name} was given in line {seen[value]} already")
            seen[value] = number
        hosts.append(host)
    return tuple(hosts)


def _lower(fields: Any) -> Any:
    """The fields with the digest as the authority writes it."""
    digest = fields.get("ek_digest") if isinstance(fields, dict) else None
    return {**fields, "ek_digest": digest.strip().lower()} if isinstance(digest, str) else fields


def _json_lines(text: str, what: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        if line.strip():
            yield number, canonical.loads(line.strip().encode(), f"{what}, line {number}", _LINE_LIMIT)


def _csv_lines(text: str, what: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) > _LINE_LIMIT:
            raise MalformedError(f"{what}, line {number}: longer than {_LINE_LIMIT} characters")
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], strict=True))]
        except csv.Error as error:
            raise MalformedError(f"{what}, line {number}: not CSV: {error}") from error
        if cells == _HEADER:
            continue
        if len(cells) != len(_HEADER):
            raise MalformedError(f"{what}, line {number}: {len(cells)} columns, expected name,ek_digest")
        yield number, dict(zip(_HEADER, cells, strict=True))
