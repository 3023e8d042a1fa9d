"""Attacks over a reset, restart and resume of a TPM of the test's own, and attacks that cost it its keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sealvm.lab.attacks.destructive import DESTRUCTIVE_ATTACKS
from sealvm.lab.attacks.power import POWER_ATTACKS, PowerAttack, run_power_attack
from sealvm.lab.attacks.view import Attack, attempt
from sealvm.lab.swtpm import LabCa, Swtpm, make_ca, replay_pcrs
from sealvm.tpm.connection import open_tpm
from tests.tpm.rig import Owner, make_host, started_tpm, view_of

pytestmark = [pytest.mark.tpm, pytest.mark.slow]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCa:
    return make_ca(tmp_path_factory.mktemp("ca") / "ca")


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory: pytest.TempPathFactory, ca: LabCa) -> Iterator[Swtpm]:
    with started_tpm(tmp_path_factory.mktemp("power") / "tpm", ca) as started:
        yield started


@pytest.mark.parametrize("attack", POWER_ATTACKS, ids=lambda attack: attack.name)
def test_what_was_good_before_is_refused_after(swtpm: Swtpm, attack: PowerAttack) -> None:
    swtpm.power_cycle()
    replay_pcrs(swtpm.tcti, [(9, b"the approved boot".ljust(32))], swtpm.lock)
    host = make_host(swtpm, Owner())
    result = run_power_attack(attack, view_of(host, host.values), swtpm)
    assert result.refused, attack.name
    with open_tpm(swtpm.tcti, swtpm.lock) as tpm:
        assert tpm.handles(0x80000000) == tpm.handles(0x02000000) == []


@pytest.mark.parametrize("attack", DESTRUCTIVE_ATTACKS, ids=lambda attack: attack.name)
def test_destroying_keys_opens_none(tmp_path_factory: pytest.TempPathFactory, ca: LabCa, attack: Attack) -> None:
    with started_tpm(tmp_path_factory.mktemp("doomed") / "tpm", ca) as doomed:
        replay_pcrs(doomed.tcti, [(9, b"init=/bin/sh".ljust(32))], doomed.lock)
        host = make_host(doomed, Owner())
        view = view_of(host, {**host.values, 9: b"g" * 32})
        with open_tpm(doomed.tcti, doomed.lock) as tpm:
            assert attempt(attack, tpm, view).refused, attack.name
