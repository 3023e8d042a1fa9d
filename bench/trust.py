"""How long the trust decisions take, one by one, on software TPMs and a real authority process of this machine.

    python bench/trust.py [--rounds 100] [--syncs 20] [--json]

Unwraps as in bench/unwrap.py, from nothing open to the key in hand. A sync is everything that `host sync` does after
the program has started: challenge, quote, request and answer over TLS, signature and version checks, files. The
authority is `sealvm authority serve` with its SQLite store. One evaluation is of a real boot's log (shim, GRUB, Secure
Boot) that was read and replayed before; `log` is that reading. `host explain` reads TPM, log and trust bundle of a host
that booted with another command line than the approved one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from evidence import ROOT, recorded
from unwrap import Host, measure

from sealvm.attest.evaluate import evaluate
from sealvm.attest.profile import load_profile
from sealvm.client.operator import operator_client
from sealvm.host.config import load_host
from sealvm.host.enroll import enroll, read_ek_digest
from sealvm.host.explain import explain_host
from sealvm.host.sync import sync
from sealvm.lab.authority import prepare_authority
from sealvm.lab.network import Lab, LabHost
from sealvm.lab.swtpm import Swtpm, make_ca, manufacture

PROFILE = "measured-kernel"


@contextmanager
def unwrapping_host(directory: Path) -> Iterator[Host]:
    """A host with a standing and a leased key."""
    manufacture(directory / "tpm", make_ca(directory / "ca"))
    swtpm = Swtpm(directory / "tpm")
    swtpm.start()
    try:
        yield Host(swtpm)
    finally:
        swtpm.stop()


@contextmanager
def enrolled_host(directory: Path) -> Iterator[tuple[Lab, LabHost]]:
    """A lab of one host, enrolled with an authority process, its recorded good boot approved."""
    lab = Lab(directory / "lab")
    lab.create({"host-1": "good"})
    try:
        host = lab.host("host-1")
        lab.power_on(host)
        prepare_authority(lab)
        with operator_client(lab.authority_dir) as client:
            enroll(host.directory, client.register_host(host.name, read_ek_digest(load_host(host.directory))))
            client.apply_profile((resources.files("sealvm.lab") / "profiles" / f"{PROFILE}.yaml").read_text())
            sync(host.directory)
            client.approve(PROFILE, host.name)
        sync(host.directory)
        yield lab, host
    finally:
        lab.down(remove=True)


def of_tpm(directory: Path, rounds: int) -> dict[str, float]:
    """Medians in milliseconds of what needs a TPM alone."""
    with unwrapping_host(directory) as host:
        return {
            "unwrap, standing": median(host.unwrap, rounds),
            "unwrap, leased": median(host.unwrap_leased, rounds),
        }


def of_network(directory: Path, rounds: int, syncs: int) -> dict[str, float]:
    """Medians in milliseconds of what needs an enrolled host."""
    with enrolled_host(directory) as (lab, host):
        found = {"sync over TLS": median(lambda: sync(host.directory), syncs)}
        config = load_host(host.directory)
        found["host explain, approved"] = median(lambda: explain_host(config), rounds)
        lab.reboot(host, "tampered")
        found["host explain, tampered"] = median(lambda: explain_host(config), rounds)
        return found


def of_log(rounds: int) -> dict[str, float]:
    """Medians in milliseconds of what needs a recorded log alone."""
    profile = load_profile((ROOT / "examples/profiles/secure-boot.yaml").read_text(), "secure-boot.yaml")
    read = recorded("secureboot-shim-grub")
    state = read()
    return {
        "log of a real boot": median(read, rounds),
        "evaluation of it": median(lambda: evaluate(profile, state.evidence), rounds),
    }


def median(action: Callable[[], object], rounds: int) -> float:
    """The median of `rounds` runs in milliseconds, after one to warm up."""
    action()
    return round(statistics.median(measure(action, rounds)), 3)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--syncs", type=int, default=20)
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="trust-", dir="/tmp") as scratch:
        found = {
            **of_tpm(Path(scratch), options.rounds),
            **of_network(Path(scratch), options.rounds, options.syncs),
            **of_log(options.rounds),
        }
    if options.json:
        print(json.dumps(found))
        return
    for name, milliseconds in found.items():
        print(f"{name:<24} {milliseconds:9.3f} ms")


if __name__ == "__main__":
    main()
