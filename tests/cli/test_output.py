"""Data goes to stdout, everything else to stderr; errors in plain words, or as JSON where that was asked for."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner, Result

from sealvm.cli import output
from sealvm.cli.options import json_option
from sealvm.errors import StateRefused
from sealvm.secret import Secret


@click.command()
@json_option
def speak() -> None:
    output.note("a note")
    output.emit({"b": 1, "a": "ü"}, lambda: ["for people"])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(speak, arguments, catch_exceptions=False)


def test_people_get_lines_and_notes() -> None:
    assert (run().stdout, run().stderr) == ("for people\n", "a note\n")


def test_programs_get_json_and_nothing_else() -> None:
    assert json.loads(run("--json").stdout) == {"a": "ü", "b": 1}
    assert run("--json").stderr == ""


REFUSAL = StateRefused("no", hint="do this", explanation_lines=["PCR 9 differs"], profile="p", key=Secret(b"k" * 32))


def test_an_error_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    output.report_error(REFUSAL, 20, json_wanted=False)
    assert capsys.readouterr() == (
        "",
        "sealvm: no (profile-state-not-approved, exit 20)\n  PCR 9 differs\n  hint: do this\n",
    )


def test_an_error_for_programs_never_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    output.report_error(REFUSAL, 20, json_wanted=True)
    out, err = capsys.readouterr()
    shown = json.loads(err)["error"]
    assert out == ""
    assert shown | {"key": ""} == {
        "code": "profile-state-not-approved",
        "exit": 20,
        "message": "no",
        "hint": "do this",
        "explanation_lines": ["PCR 9 differs"],
        "profile": "p",
        "key": "",
    }
    assert "kkkk" not in err


def test_a_table_is_aligned_and_an_empty_one_says_so() -> None:
    rows = [{"name": "a", "last_sync": "never"}, {"name": "long-name", "last_sync": None}]
    assert output.table(rows, ["name", "last_sync"], "none") == [
        "NAME       LAST-SYNC",
        "a          never",
        "long-name  None",
    ]
    assert output.table([], ["name"], "none") == ["none"]


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("encrypting") as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "")
