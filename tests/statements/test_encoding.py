"""Field encodings: one form each, and complaints that do not repeat what was sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from sealvm.errors import MalformedError
from sealvm.statements.encoding import Base64Bytes, CellName, HexBytes, Moment, ObjectName, parse_message
from sealvm.statements.times import format_time, parse_time


class Sample(BaseModel):
    model_config = ConfigDict(extra="forbid")
    blob: Base64Bytes = b""
    digest: HexBytes = b""
    when: Moment = datetime(2026, 1, 1, tzinfo=UTC)
    name: ObjectName = "a"
    cell: CellName = ""


ADAPTER = TypeAdapter(Sample)


def test_round_trip() -> None:
    sample = Sample(blob=b"\xff\x00", digest=b"\xab", name="host-1", cell="rack")
    text = sample.model_dump_json()
    assert json.loads(text) == {
        "blob": "/wA=",
        "digest": "ab",
        "when": "2026-01-01T00:00:00Z",
        "name": "host-1",
        "cell": "rack",
    }
    assert parse_message(ADAPTER, json.loads(text), "sample") == sample


@pytest.mark.parametrize(
    "change",
    [
        {"blob": "/wA"},
        {"blob": "_wA="},
        {"blob": "/wA=\n"},
        {"blob": 7},
        {"digest": "AB"},
        {"digest": "abc"},
        {"digest": "ab\n"},
        {"digest": None},
        {"when": 7},
        {"when": "2026-01-01T00:00:00.5Z"},
        {"when": "2026-1-1T00:00:00Z"},
        {"when": "2026-01-01T00:00:00Z\n"},
        {"when": "2026-02-30T00:00:00Z"},
        {"name": ""},
        {"name": "-a"},
        {"name": "a\n"},
        {"name": "a" * 64},
        {"cell": "A"},
        {"unknown": 1},
    ],
)
def test_other_forms_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(MalformedError, match=r"^sample: "):
        parse_message(ADAPTER, change, "sample")


def test_a_time_needs_its_zone() -> None:
    with pytest.raises(MalformedError):
        parse_message(ADAPTER, {"when": datetime(2026, 1, 1)}, "sample")
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(east) == "2026-01-01T00:00:00Z"
    assert parse_time("2026-01-01T00:00:00Z", "t") == east


def test_the_input_is_not_repeated() -> None:
    with pytest.raises(MalformedError) as caught:
        parse_message(ADAPTER, {"digest": "SECRET-TOKEN"}, "sample")
    assert "SECRET" not in caught.value.message
