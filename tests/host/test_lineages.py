"""Versions only go up, also when two launches of one lineage meet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealvm.errors import MalformedError, RollbackRefused
from sealvm.host import lineages
from sealvm.package.header import Header
from tests.package.builder import CHUNK, build


def header(version: int, lineage: bytes = bytes(16)) -> Header:
    return build(os.urandom(CHUNK), version=version, lineage=lineage).header


def test_older_versions_are_refused_and_other_lineages_are_not(tmp_path: Path) -> None:
    lineages.check(tmp_path, header(3))
    lineages.remember(tmp_path, header(3))
    for version in (3, 4):
        lineages.check(tmp_path, header(version))
    lineages.check(tmp_path, header(1, bytes(15) + b"\1"))
    with pytest.raises(RollbackRefused, match=r"version 2.*version 3"):
        lineages.check(tmp_path, header(2))


def test_a_newer_version_between_check_and_start_wins(tmp_path: Path) -> None:
    older, newer = header(1), header(2)
    lineages.check(tmp_path, older)
    lineages.check(tmp_path, newer)
    lineages.remember(tmp_path, newer)
    with pytest.raises(RollbackRefused):
        lineages.remember(tmp_path, older)


def test_a_damaged_file_is_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / lineages.FILE).write_text('{"x": 1}')
    with pytest.raises(MalformedError, match="lineages"):
        lineages.check(tmp_path, header(1))
