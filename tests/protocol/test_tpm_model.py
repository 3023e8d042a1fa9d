"""Which TPMs a bar covers, and registration files, by their rules."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sealvm.errors import EnrollmentRefused, MalformedError
from sealvm.protocol.hosts import BarRequest, BulkRequest
from sealvm.protocol.registrations import parse_registrations
from sealvm.protocol.tpm_model import Bar, TpmModel, check_not_barred, vendor, version_number
from sealvm.statements.encoding import parse_message

ST = TpmModel("id:53544D20", "ST33HTPHAHB4", "id:00490004")
DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("bar", "covers"),
    [
        (Bar("1", "STM"), True),
        (Bar("1", "stm"), True),
        (Bar("1", "id:53544d20"), True),
        (Bar("1", "id:53544D00"), True),
        (Bar("1", "IFX"), False),
        (Bar("1", "STM", model="st33htphahb4"), True),
        (Bar("1", "STM", model="ST33"), False),
        (Bar("1", "STM", version="id:490004"), True),
        (Bar("1", "STM", version="00490004"), True),
        (Bar("1", "STM", version="id:00490005"), False),
        (Bar("1", "STM", before="id:00490005"), True),
        (Bar("1", "STM", before="id:00490004"), False),
        (Bar("1", "STM", model="other", before="id:ffffffff"), False),
    ],
)
def test_bars(bar: Bar, covers: bool) -> None:
    assert bar.covers(ST) is covers
    if covers:
        with pytest.raises(EnrollmentRefused) as refused:
            check_not_barred(ST, [Bar("0", "IFX"), bar])
        assert refused.value.fields["check"] == "tpm-barred"
    else:
        check_not_barred(ST, [bar])


def test_a_version_that_is_no_number_is_before_all() -> None:
    odd = TpmModel("id:53544D20", "ST33", "1.2-rc")
    assert Bar("1", "STM", before="id:01").covers(odd)
    assert Bar("1", "STM", version="1.2-RC").covers(odd)
    assert not Bar("1", "STM", version="id:01").covers(odd)


def test_makers_in_one_form() -> None:
    assert vendor("id:49465800") == vendor("IFX") == vendor(" ifx ")
    assert vendor("id:00001014") == "id:00001014"
    assert version_number("id:0049.0004") is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_bar_of_a_maker_covers_what_is_spelled_alike(maker: str, other: str) -> None:
    tpm = TpmModel(maker, "m", "v")
    assert Bar("1", maker).covers(tpm)
    assert Bar("1", other).covers(tpm) is (vendor(maker) == vendor(other))


@pytest.mark.parametrize(
    "fields",
    [
        {"manufacturer": ""},
        {"manufacturer": "  "},
        {"manufacturer": "STM", "version": "id:1", "before": "id:2"},
        {"manufacturer": "STM", "before": "yesterday"},
        {"manufacturer": "STM", "model": "x" * 200},
    ],
)
def test_bars_that_are_none(fields: dict[str, str]) -> None:
    with pytest.raises(MalformedError, match="bar"):
        parse_message(TypeAdapter(BarRequest), fields, "bar")


# registration files


CSV = f"name,ek_digest\n# rack 4\nhost-1,{DIGEST.upper()}\n\nhost-2, {'cd' * 32}\n"


@pytest.mark.parametrize(
    "text",
    [
        CSV,
        CSV.removeprefix("name,ek_digest\n"),
        "\ufeff" + CSV.replace("\n", "\r\n"),
        json.dumps({"name": "host-1", "ek_digest": DIGEST})
        + "\n\n"
        + json.dumps({"name": "host-2", "ek_digest": ("cd" * 32).upper()}),
    ],
)
def test_registration_files(text: str) -> None:
    hosts = parse_registrations(text, "hosts.csv")
    assert [(host.name, host.ek_digest.hex()) for host in hosts] == [("host-1", DIGEST), ("host-2", "cd" * 32)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"host-1,{DIGEST}\nhost-1,{'cd' * 32}", "line 2: the name host-1 was given in line 1"),
        (f"host-1,{DIGEST}\nhost-2,{DIGEST}", "line 2: the EK digest was given in line 1"),
        (f"host-1,{DIGEST},x", "line 1: 3 columns"),
        ("host-1", "line 1: 1 columns"),
        ("host-1,abcd", "line 1: ek_digest"),
        (f"Host 1,{DIGEST}", "line 1: name"),
        ('host-1,"' + DIGEST, "line 1: not CSV"),
        ("x" * 2000 + ",y", "line 1: longer"),
        ('{"name": "host-1"}', "line 1: ek_digest"),
        ('{"name": "host-1", "ek_digest": 5}', "line 1: ek_digest"),
        ("{", "line 1"),
        ('{"a": 1}\nhost-1,x', "line 1"),
    ],
)
def test_registration_files_that_are_none(text: str, complaint: str) -> None:
    with pytest.raises(MalformedError, match=complaint):
        parse_registrations(text, "hosts.csv")


@given(st.text(max_size=200))
def test_any_registration_file_is_read_or_malformed(text: str) -> None:
    try:
        hosts = parse_registrations(text, "file")
    except MalformedError:
        return
    assert len({host.name for host in hosts}) == len(hosts)


def test_a_bulk_request_names_each_host_once() -> None:
    with pytest.raises(MalformedError, match="name is given twice"):
        same = [{"name": "a", "ek_digest": DIGEST}, {"name": "a", "ek_digest": "cd" * 32}]
        parse_message(TypeAdapter(BulkRequest), {"hosts": same}, "request")
    with pytest.raises(MalformedError, match="ek_digest is given twice"):
        same = [{"name": "a", "ek_digest": DIGEST}, {"name": "b", "ek_digest": DIGEST}]
        parse_message(TypeAdapter(BulkRequest), {"hosts": same}, "request")
