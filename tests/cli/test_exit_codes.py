"""The table of exit codes, the error tree and the page about them say the same."""

import re
from pathlib import Path

import pytest

from sealvm import errors
from sealvm.cli.exit_codes import EXIT_CODES, exit_code_of


def tree(root: type[errors.SealvmError]) -> list[type[errors.SealvmError]]:
    return [
        root,
        *(leaf for child in root.__subclasses__() for leaf in tree(child) if leaf.__module__ == errors.__name__),
    ]


def test_every_error_has_an_exit_code_of_its_own() -> None:
    assert set(EXIT_CODES) == set(tree(errors.SealvmError))
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert len({kind.code for kind in EXIT_CODES}) == len(EXIT_CODES)


def test_refusals_and_faults_do_not_mix() -> None:
    for kind, code in EXIT_CODES.items():
        assert issubclass(kind, errors.Refusal) == (20 <= code < 40)
        assert issubclass(kind, errors.Fault) == (40 <= code < 60)


def test_the_tree_in_the_module_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {kind.__name__ for kind in tree(errors.SealvmError)} - {"SealvmError"}


def test_the_page_lists_every_code() -> None:
    page = Path("docs/reference/errors.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", page, re.MULTILINE))
    assert rows == {kind.code: str(code) for kind, code in EXIT_CODES.items() if kind is not errors.SealvmError}


def test_a_class_without_entry_has_its_parents_code() -> None:
    class Special(errors.StateRefused):
        pass

    assert exit_code_of(Special("no")) == 20


@pytest.mark.parametrize("kind", list(EXIT_CODES))
def test_an_error_carries_message_hint_and_fields(kind: type[errors.SealvmError]) -> None:
    error = kind("what happened", hint="what to do", where="here")
    assert (str(error), error.hint, error.fields) == ("what happened", "what to do", {"where": "here"})
