"""The JSON field types that statements and messages share: how bytes, points, digests and times are written.

    Base64Bytes   standard, padded base64              Point   65-byte P-256 point, lower-case hex
    HexBytes      lower-case hex                        Moment  RFC 3339 UTC, whole seconds
    ObjectName    name of a profile, host, provisioner: lower case, digits and '-', at most 63

They are pydantic annotations: they accept their Python value or its one JSON form, and nothing else. `parse_message`
turns every complaint of pydantic into MalformedError without repeating the input, which may hold a token.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from sealvm.errors import MalformedError
from sealvm.statements.times import format_time, parse_time

HEX = re.compile(r"(?:[0-9a-f]{2})*")

T = TypeVar("T")


def _from_base64(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("expected base64 text")  # noqa: TRY004  pydantic turns ValueError into its report
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("expected padded standard base64") from error


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _from_hex(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not HEX.fullmatch(value):
        raise ValueError("expected lower-case hex")
    return bytes.fromhex(value)


def _to_hex(value: bytes) -> str:
    return value.hex()


def _from_time(value: object) -> datetime:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("expected a time with its zone")
        return value
    try:
        return parse_time(value, "time")  # type: ignore[arg-type]
    except MalformedError as error:
        raise ValueError(error.message) from error


Base64Bytes = Annotated[
    bytes, BeforeValidator(_from_base64, json_schema_input_type=str), PlainSerializer(_to_base64, return_type=str)
]
HexBytes = Annotated[
    bytes, BeforeValidator(_from_hex, json_schema_input_type=str), PlainSerializer(_to_hex, return_type=str)
]
Point = Annotated[HexBytes, Field(min_length=65, max_length=65)]
Digest = Annotated[HexBytes, Field(min_length=32, max_length=32)]
Moment = Annotated[
    datetime, BeforeValidator(_from_time, json_schema_input_type=str), PlainSerializer(format_time, return_type=str)
]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
CellName = Annotated[str, Field(pattern=r"^(?:[a-z0-9][a-z0-9-]{0,62})?$")]
Epoch = Annotated[int, Field(ge=1, le=0xFFFFFFFF, strict=True)]
PcrIndex = Annotated[int, Field(ge=0, le=23)]


def parse_message(adapter: TypeAdapter[T], value: Any, what: str) -> T:
    """`value` (decoded JSON) as the adapter's type; MalformedError names `what`, the field and what was expected."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise MalformedError(f"{what}: {describe_invalid(error)}") from error


def describe_invalid(error: ValidationError) -> str:
    """The first complaint: where and what, never the offending value."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "value"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'][:200]}{more}"
