from __future__ import annotations

import hashlib

import pytest

from sealvm.lab.swtpm import Swtpm
from sealvm.tpm import pcr
from sealvm.tpm.connection import open_tpm

pytestmark = pytest.mark.tpm


def test_extend_is_the_hash_of_old_and_new(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm:
        before = pcr.read(tpm, [14])[14]
        pcr.extend(tpm, 14, b"d" * 32)
        assert pcr.read(tpm, [14]) == {14: hashlib.sha256(before + b"d" * 32).digest()}


def test_all_pcrs_are_read_in_several_commands(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm:
        values = pcr.read(tpm, range(24))
        assert tpm.counts["pcr_read"] == 3
    assert list(values) == list(range(24))
    assert values[17] == b"\xff" * 32


def test_no_pcrs_are_no_command(swtpm: Swtpm) -> None:
    with open_tpm(swtpm.tcti) as tpm:
        assert pcr.read(tpm, []) == {}
