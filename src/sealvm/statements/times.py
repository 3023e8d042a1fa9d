"""Times in signed statements and messages: RFC 3339, UTC, whole seconds, `2026-11-23T12:00:00Z` and no other form."""

from __future__ import annotations

from datetime import UTC, datetime

from sealvm.errors import MalformedError

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def format_time(moment: datetime) -> str:
    """`moment` (aware) in UTC, cut to the whole second."""
    return moment.astimezone(UTC).strftime(TIME_FORMAT)


def parse_time(text: str, what: str) -> datetime:
    """The aware datetime of `text`; MalformedError, naming `what`, for any other form."""
    try:
        moment = datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
    except (ValueError, TypeError) as error:
        raise MalformedError(f"{what}: {text!r} is not a time like 2026-11-23T12:00:00Z") from error
    if format_time(moment) != text:
        raise MalformedError(f"{what}: {text!r} is not a time like 2026-11-23T12:00:00Z")
    return moment
