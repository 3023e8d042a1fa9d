"""Predictions against real boots: OVMF, a swtpm, and Debian's kernels and systemd-stub, under QEMU.

Each case boots once to observe a host, predicts what other artefacts will measure, boots these, and compares every PCR.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sealvm.attest.artefacts import Artefacts, DirectKernel, StubKernel, UnifiedKernel
from sealvm.attest.explain import reference_of
from sealvm.attest.predict import next_boot, predict
from sealvm.attest.state import MeasuredState
from tests.attest.recorder import STUB, load_script, signer, state_of, unpack_debian

pytestmark = [pytest.mark.slow, pytest.mark.tpm, pytest.mark.timeout(600)]

OLD, NEW = "root=/dev/vda ro", "root=/dev/vda ro lockdown=integrity"
PROFILE = f"""
name: next
pcrs: [0, 2, 4, 7, 9]
requirements: [{{name: options, says: the new options, fact: kernel.cmdline, matches: "{NEW}*"}}]
"""


@dataclass(frozen=True)
class Bench:
    """The recorder, unpacked packages, and the older and newer kernel."""

    script: Any
    root: Path
    directory: Path
    kernels: tuple[Path, ...]

    def boot(self, how: Any) -> MeasuredState:
        with TemporaryDirectory(prefix="predict-") as name:
            return state_of(self.script.record(how, Path(name)))

    def initrd(self) -> bytes:
        with TemporaryDirectory(prefix="predict-") as name:
            return bytes(self.script.build_initrd(Path(name)).read_bytes())

    def uki(self, how: Any) -> bytes:
        with TemporaryDirectory(prefix="predict-") as name:
            directory = Path(name)
            image = self.script.build_uki(directory, how, self.script.build_initrd(directory))
            return bytes(self.script.signed(directory, how, image).read_bytes())

    def artefacts(self, how: Any) -> Artefacts:
        match how.via:
            case "direct":
                return DirectKernel(how.kernel.read_bytes(), how.cmdline, self.initrd(), how.memory_mib << 20)
            case "entry":
                return StubKernel(how.kernel.read_bytes(), f"{how.cmdline} initrd=\\initrd.img")
            case _:
                return UnifiedKernel(self.uki(how))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("debian")
    root = unpack_debian(directory)
    kernels = tuple(sorted((root / "boot").glob("vmlinuz-*")))
    assert len(kernels) == 2
    yield Bench(load_script(), root, directory, kernels)


@pytest.mark.parametrize(
    ("via", "firmware"), [("direct", "plain"), ("entry", "plain"), ("uki", "plain"), ("uki", "snakeoil")]
)
def test_a_real_boot_measures_what_was_predicted(bench: Bench, via: str, firmware: str) -> None:
    sign = signer(bench.root, bench.directory) if firmware == "snakeoil" else ()
    before = bench.script.Boot(via, bench.kernels[0], OLD, firmware, stub=bench.root / STUB, sign=sign)
    after = replace(before, kernel=bench.kernels[1], cmdline=NEW)
    observed = bench.boot(before)
    artefacts = bench.artefacts(after)
    predicted = predict(observed, artefacts)
    assert not next_boot(PROFILE, [reference_of(observed)], observed, artefacts).satisfied
    assert next_boot(PROFILE, [reference_of(predicted)], observed, artefacts).satisfied
    booted = bench.boot(after)
    assert predicted.pcr_values == booted.pcr_values
    differing = {name for name, fact in booted.evidence.items() if fact.value != predicted.evidence[name].value}
    assert differing == set()
    assert booted.pcr_values[4] != observed.pcr_values[4]
    assert booted.pcr_values[9] != observed.pcr_values[9]


def test_a_host_that_booted_from_qemu_is_predicted_to_boot_a_uki(bench: Bench) -> None:
    """Another way to boot: all is as predicted but the boot entries and the partition table, of PCR 1 and 5."""
    before = bench.script.Boot("direct", bench.kernels[1], OLD)
    after = bench.script.Boot("uki", bench.kernels[1], NEW, stub=bench.root / STUB)
    predicted, booted = predict(bench.boot(before), bench.artefacts(after)), bench.boot(after)
    differing = {pcr for pcr, value in booted.pcr_values.items() if predicted.pcr_values[pcr] != value}
    assert differing == {1, 5}
