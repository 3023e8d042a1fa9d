"""How long one standing unwrap takes on a software TPM, and how many TPM2_ECDH_ZGen it costs.

    python bench/unwrap.py [--rounds 200] [--json]

One round is what a launch does: connect to the TPM, load the profile key under the import parent, verify the approval,
start the salted session, PolicyPCR to ECDH_ZGen, and open the HPKE wrap of a 32-byte key. The bar (DESIGN section 16)
is 15 ms. Beside it, as the floor that no program gets under: connecting and one ECDH_ZGen with a key without policy.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sealvm.crypto import hpke
from sealvm.crypto.ec import SoftwareSigner
from sealvm.lab.swtpm import Swtpm, make_ca, manufacture
from sealvm.statements.approval import sign_approval
from sealvm.tcg import policy, templates
from sealvm.tcg.duplicate import duplicate
from sealvm.tcg.public import name_of
from sealvm.tpm import keys, pcr, profile_key
from sealvm.tpm.connection import open_tpm
from sealvm.tpm.identity import HostIdentityBlobs, provision
from sealvm.tpm.structures import ESYS_TR, ecc_point

SELECTION = (0, 2, 4, 7, 9)
BAR_MS = 15.0


class Host:
    """A host with one profile key sealed into its TPM, its present state approved."""

    def __init__(self, swtpm: Swtpm) -> None:
        self.swtpm = swtpm
        self.commands: Counter[str] = Counter()
        approver, key = SoftwareSigner.generate(), SoftwareSigner.generate()
        reference = policy.profile_ref("bench", 1, "", policy.MODE_STANDING)
        approver_name = name_of(templates.verifier_public(approver.point))
        public = templates.profile_key_public(key.point, policy.profile_key_policy(approver_name, reference))
        with open_tpm(swtpm.tcti, swtpm.lock) as tpm:
            self.blobs: HostIdentityBlobs = provision(tpm)
            blob = duplicate(key.scalar(), public, self.blobs.import_parent_public)
            private = profile_key.import_key(tpm, self.blobs, blob)
            values = pcr.read(tpm, SELECTION)
            plain = replace(templates.REQUEST_KEY, attributes=0x00020472, scheme=templates.NO_SCHEME)
            self.plain = keys.create_child(tpm, templates.public_of(plain), "a key without policy")
        self.key = profile_key.SealedKey("bench", 1, "", policy.MODE_STANDING, public, private)
        self.approvals = [
            sign_approval(approver, profile="bench", epoch=1, cell="", selection=SELECTION, pcr_values=values)
        ]
        self.point = key.point
        self.wrap = hpke.seal(key.point, b"bench", secrets.token_bytes(32))

    def unwrap(self) -> None:
        """A standing unwrap, from nothing open to the key in hand."""
        with open_tpm(self.swtpm.tcti, self.swtpm.lock) as tpm:

            def dh(point: bytes) -> bytes:
                return profile_key.ecdh(tpm, self.blobs, self.blobs.srk_name, self.key, self.approvals, point=point)

            hpke.open_with_dh(self.wrap, b"bench", self.point, dh)
            self.commands.update(tpm.counts)

    def floor(self) -> None:
        """Connecting, loading a key that any password opens, one ECDH_ZGen."""
        with (
            open_tpm(self.swtpm.tcti, self.swtpm.lock) as tpm,
            keys.child(tpm, *self.plain, "a key without policy") as handle,
        ):
            point = ecc_point(self.wrap[:65])
            tpm.run("ecdh_zgen", key_handle=handle, in_point=point, session1=ESYS_TR.PASSWORD)


def measure(action: Callable[[], None], rounds: int) -> list[float]:
    """Milliseconds of each round, sorted."""
    times = []
    for _round in range(rounds):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        manufacture(Path(directory) / "tpm", make_ca(Path(directory) / "ca"))
        swtpm = Swtpm(Path(directory) / "tpm")
        swtpm.start()
        try:
            host = Host(swtpm)
            floor = measure(host.floor, options.rounds)
            times = measure(host.unwrap, options.rounds)
        finally:
            swtpm.stop()
    commands = {name: count / options.rounds for name, count in sorted(host.commands.items())}
    result = {
        "rounds": options.rounds,
        "unwrap_ms": {"median": statistics.median(times), "p95": times[int(len(times) * 0.95)], "bar": BAR_MS},
        "floor_ms": {"median": statistics.median(floor)},
        "commands_per_unwrap": commands,
    }
    if options.json:
        print(json.dumps(result, sort_keys=True))
        return
    print(
        f"unwrap, standing   median {statistics.median(times):5.1f} ms   95 % {times[int(len(times) * 0.95)]:5.1f} ms"
    )
    print(f"floor              median {statistics.median(floor):5.1f} ms")
    print(f"TPM2_ECDH_ZGen     {commands['ecdh_zgen']:g} per wrap, of {sum(commands.values()):g} commands")


if __name__ == "__main__":
    main()
