"""Saved evidence files: read as their host's state, or malformed with their name."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.attest.saved import load_saved_state
from sealvm.errors import EvidenceRefused, MalformedError
from tests.attest.logs import BOOTS, booted


def saved(name: str = "ima-sig", **changed: Any) -> bytes:
    """The evidence of a recorded boot as a host saves it, with keys replaced, or left out for None."""
    folder = BOOTS[name]
    document = {
        "pcr_values": {
            pcr: value for pcr, value in json.loads((folder / "pcrs.json").read_text()).items() if int(pcr) < 11
        },
        "event_log": base64.b64encode((folder / "eventlog.bin").read_bytes()).decode(),
        "preimages": json.loads((folder / "preimages.json").read_text()),
        "ima_log": base64.b64encode((folder / "ima.bin").read_bytes()).decode() if name != "tpm12" else "",
        "attest": "a quote, which is not read",
    }
    document.update(changed)
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def test_a_saved_state_is_the_hosts() -> None:
    state = load_saved_state(saved(), "saved.json")
    verified = booted("ima-sig", range(11))
    assert state.pcr_values == verified.pcr_values
    assert state.evidence == verified.evidence
    assert state.flaws == ()


def test_logs_of_files_and_preimages_may_be_left_out() -> None:
    state = load_saved_state(saved("direct", preimages=None, ima_log=None), "saved.json")
    assert state.evidence["kernel.cmdline"].value is None
    assert [flaw.pcr for flaw in state.flaws] == [10]
    assert load_saved_state(saved("direct", ima_log="").replace(b'"ima_log": ""', b'"ima_log": null'), "x").flaws


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "expected an object"),
        (b"x", "not JSON"),
        (saved(pcr_values={}), "pcr_values must map"),
        (saved(pcr_values={"24": "00" * 32}), "0 to 23"),
        (saved(pcr_values={"1": "00"}), "64 lower-case hex digits"),
        (saved(pcr_values={"01": "00" * 32}), "0 to 23"),
        (saved(event_log=None), "event_log must be base64 text"),
        (saved(event_log="#"), "event_log is not base64"),
        (saved(event_log=""), "event log, event 0"),
        (saved(preimages="x"), "preimages must be a list"),
        (saved(preimages=[1]), "preimages must be base64 text"),
        (saved(ima_log="AAAA"), "IMA log, entry 0"),
    ],
)
def test_a_file_of_another_form_is_malformed(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        load_saved_state(data, "saved.json")


def test_a_log_without_sha256_is_refused() -> None:
    with pytest.raises(EvidenceRefused, match="no SHA-256"):
        load_saved_state(saved("tpm12", pcr_values={"0": "00" * 32}), "saved.json")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_state_or_a_malformed_error(data: bytes) -> None:
    with pytest.raises(MalformedError):
        load_saved_state(data, "saved.json")
