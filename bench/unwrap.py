"""How long one unwrap takes on a software TPM, standing and leased, and how many TPM2_ECDH_ZGen it costs.

    python bench/unwrap.py [--rounds 200] [--json]

One round is what a launch does: connect to the TPM, load the profile key under the import parent, verify the approval,
start the salted session, PolicyPCR to ECDH_ZGen, and open the HPKE wrap of a 32-byte key; leased, with the lease's
authorization verified and its ticket presented as well. The bar (DESIGN section 16) is 15 ms for both. A renewal is
timed without network and quote: session, grant, ticket. As the floor that no program gets under: connecting and one
ECDH_ZGen with a key without policy.
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
from sealvm.statements.approval import Approval, sign_approval
from sealvm.statements.lease import LeaseKey, sign_lease
from sealvm.tcg import policy, templates
from sealvm.tcg.duplicate import duplicate
from sealvm.tcg.public import name_of
from sealvm.tpm import keys, leases, pcr, profile_key
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.identity import HostIdentityBlobs, provision
from sealvm.tpm.structures import ESYS_TR, ecc_point

SELECTION = (0, 2, 4, 7, 9)
BAR_MS = 15.0


class Host:
    """A host with a standing and a leased profile key sealed into its TPM, its present state approved for both."""

    def __init__(self, swtpm: Swtpm) -> None:
        self.swtpm = swtpm
        self.commands: dict[str, Counter[str]] = {policy.MODE_STANDING: Counter(), policy.MODE_LEASED: Counter()}
        self.approver, self.lease_signer = SoftwareSigner.generate(), SoftwareSigner.generate()
        with open_tpm(swtpm.tcti, swtpm.lock) as tpm:
            self.blobs: HostIdentityBlobs = provision(tpm)
            self.keys = {mode: self._seal(tpm, mode) for mode in self.commands}
            self.lease_key = LeaseKey("bench", 1, "", self.blobs.srk_name, self.lease_signer.point)
            self.lease = self.renew(tpm)
            plain = replace(templates.REQUEST_KEY, attributes=0x00020472, scheme=templates.NO_SCHEME)
            self.plain = keys.create_child(tpm, templates.public_of(plain), "a key without policy")

    def _seal(self, tpm: Tpm, mode: str) -> tuple[profile_key.SealedKey, Approval, bytes, bytes]:
        """Key, approval, point, and a wrap to it."""
        key = SoftwareSigner.generate()
        reference = policy.profile_ref("bench", 1, "", mode)
        approver_name = name_of(templates.verifier_public(self.approver.point))
        public = templates.profile_key_public(key.point, policy.profile_key_policy(approver_name, reference))
        private = profile_key.import_key(
            tpm, self.blobs, duplicate(key.scalar(), public, self.blobs.import_parent_public)
        )
        approval = sign_approval(
            self.approver,
            profile="bench",
            epoch=1,
            cell="",
            selection=SELECTION,
            pcr_values=pcr.read(tpm, SELECTION),
            mode=mode,
            lease_point=self.lease_signer.point if mode == policy.MODE_LEASED else b"",
        )
        sealed = profile_key.SealedKey("bench", 1, "", mode, public, private)
        return sealed, approval, key.point, hpke.seal(key.point, b"bench", secrets.token_bytes(32))

    def unwrap(self, mode: str = policy.MODE_STANDING) -> None:
        """An unwrap, from nothing open to the key in hand."""
        key, approval, point, wrap = self.keys[mode]
        lease = self.lease if mode == policy.MODE_LEASED else None
        with open_tpm(self.swtpm.tcti, self.swtpm.lock) as tpm:

            def dh(enc: bytes) -> bytes:
                return profile_key.ecdh(tpm, self.blobs, self.blobs.srk_name, key, [approval], point=enc, lease=lease)

            hpke.open_with_dh(wrap, b"bench", point, dh)
            self.commands[mode].update(tpm.counts)

    def unwrap_leased(self) -> None:
        """The same with a leased key."""
        self.unwrap(policy.MODE_LEASED)

    def renew(self, tpm: Tpm) -> leases.HeldLease:
        """A renewal without network and quote."""
        session = leases.begin(tpm)
        signed = sign_lease(
            self.lease_signer,
            self.lease_key,
            reset_count=session.reset_count,
            nonce_tpm=session.nonce_tpm,
            seconds=3600,
        )
        return leases.finish(tpm, session, self.lease_key, signed)

    def renewal(self) -> None:
        """The same, from nothing open."""
        with open_tpm(self.swtpm.tcti, self.swtpm.lock) as tpm:
            self.renew(tpm)

    def floor(self) -> None:
        """Connecting, loading a key that any password opens, one ECDH_ZGen."""
        with (
            open_tpm(self.swtpm.tcti, self.swtpm.lock) as tpm,
            keys.child(tpm, *self.plain, "a key without policy") as handle,
        ):
            point = ecc_point(self.keys[policy.MODE_STANDING][3][:65])
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
            standing = measure(host.unwrap, options.rounds)
            leased = measure(host.unwrap_leased, options.rounds)
            renewal = measure(host.renewal, options.rounds)
        finally:
            swtpm.stop()
    commands = {
        mode: {name: count / options.rounds for name, count in sorted(counts.items())}
        for mode, counts in host.commands.items()
    }
    result = {
        "rounds": options.rounds,
        "unwrap_ms": summary(standing) | {"bar": BAR_MS},
        "unwrap_leased_ms": summary(leased) | {"bar": BAR_MS},
        "lease_renewal_ms": summary(renewal),
        "floor_ms": summary(floor),
        "commands_per_unwrap": commands[policy.MODE_STANDING],
        "commands_per_leased_unwrap": commands[policy.MODE_LEASED],
    }
    if options.json:
        print(json.dumps(result, sort_keys=True))
        return
    for name, times in (("standing", standing), ("leased", leased)):
        used = commands[name]
        print(
            f"unwrap, {name:9} median {statistics.median(times):5.1f} ms   95 % {summary(times)['p95']:5.1f} ms   "
            f"{used['ecdh_zgen']:g} TPM2_ECDH_ZGen of {sum(used.values()):g} commands"
        )
    print(f"renewal, TPM only  median {statistics.median(renewal):5.1f} ms")
    print(f"floor              median {statistics.median(floor):5.1f} ms")


def summary(times: list[float]) -> dict[str, float]:
    """Median and 95th percentile of sorted times."""
    return {"median": statistics.median(times), "p95": times[int(len(times) * 0.95)]}


if __name__ == "__main__":
    main()
