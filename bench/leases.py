"""How many lease renewals a second one authority does, and whether the number of hosts matters.

    python bench/leases.py [--hosts 10 1000] [--rounds 400] [--threads 2] [--json]

One renewal is what a host asks for: two signed requests (challenge and lease), each with its proof verified and
remembered; a quote verified, its event log replayed and evaluated; durable SQLite transactions with an audit entry; and
the lease key's signatures. Measured at the service layer, in threads of one process: without TLS and HTTP. Quotes and
proofs are made in software by keys that stand in for the TPMs', which the authority cannot tell; that work of the hosts
is part of the rate and not of the time a renewal takes the authority. The bar (DESIGN section 16) is 200 a second on 2
cores, flat from 10 to 10,000 hosts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sealvm.attest.profile import load_profile
from sealvm.attest.state import local_state
from sealvm.authority import lease, profiles
from sealvm.authority.local import create, open_context
from sealvm.authority.operators import host_of
from sealvm.authority.ports import APPROVER_KEY, Context
from sealvm.authority.records import ApprovalRecord, HostRecord, RootRecord
from sealvm.crypto.ec import SoftwareSigner
from sealvm.lab.recording import load_recording
from sealvm.protocol.lease import LeaseRequest
from sealvm.protocol.messages import QuotedState
from sealvm.protocol.operator import ApplyRequest
from sealvm.protocol.proof import JTI_BYTES, make_proof
from sealvm.statements.approval import sign_approval
from sealvm.statements.lease import LeaseKey, quote_data
from sealvm.tcg.marshal import b2
from sealvm.tcg.pcr import PcrSelection, pcr_digest
from sealvm.tcg.public import name_of, qualified_name
from sealvm.tcg.templates import AK, IMPORT_PARENT, REQUEST_KEY, SRK, public_of

ORIGIN = "https://127.0.0.1:8443"
BAR = 200
ROOT = bytes(32)
DOCUMENT = """\
name: leased
pcrs: [0, 2, 4, 7, 9]
trust: [lab]
lease: 1h
requirements:
  - name: cmdline-exact
    says: the kernel starts with the approved options
    fact: kernel.cmdline
    equals: root=/dev/vda ro lockdown=integrity initrd=initrd
"""


@dataclass(frozen=True, slots=True)
class Host:
    """A host in software: its record at the authority, and its two signing keys."""

    record: HostRecord
    ak: SoftwareSigner
    request_key: SoftwareSigner

    @property
    def ak_public(self) -> bytes:
        return public_of(AK, self.ak.point)


class Fleet:
    """An authority with this many hosts, all in the recorded good state, which is approved."""

    def __init__(self, directory: Path, hosts: int) -> None:
        create(directory)
        self.context: Context = open_context(directory, ORIGIN, [ORIGIN])
        self.recording = load_recording("good")
        profiles.apply_profile(self.context, "bench", ApplyRequest(document=DOCUMENT))
        self._approve()
        self.hosts = [self._host(number) for number in range(hosts)]
        with self.context.store.write() as tx:
            tx.add_root(RootRecord(ROOT, b"", "bench", "lab", self.context.now()))
            for host in self.hosts:
                tx.add_host(host.record)

    def _approve(self) -> None:
        ctx = self.context
        state = local_state(self.recording.pcr_values, self.recording.eventlog, self.recording.preimages)
        with ctx.store.write() as tx:
            (epoch,) = tx.epochs("leased")
            approval = sign_approval(
                ctx.custody.signer(APPROVER_KEY),
                profile="leased",
                epoch=1,
                cell="",
                selection=tuple(load_profile(DOCUMENT, "bench").pcrs),
                pcr_values=state.pcr_values,
                mode="leased",
                lease_point=epoch.lease_point,
            )
            tx.add_approval(
                ApprovalRecord("leased", 1, "", approval.pcr_digest, "host-0", approval.to_json(), ctx.now())
            )
        self.lease_point = epoch.lease_point

    def _host(self, number: int) -> Host:
        ak, request_key = SoftwareSigner.generate(), SoftwareSigner.generate()
        now = datetime.now(UTC).replace(microsecond=0)
        record = HostRecord(
            name=f"host-{number}",
            host_id=secrets.token_hex(16),
            ek_digest=secrets.token_bytes(32),
            registered=now,
            trust_class="lab",
            tpm_model=("id:00001014", "swtpm", "id:20191023"),
            ek_root=ROOT,
            ak_public=public_of(AK, ak.point),
            srk_public=public_of(SRK, SoftwareSigner.generate().point),
            import_parent_public=public_of(IMPORT_PARENT, SoftwareSigner.generate().point),
            request_key_public=public_of(REQUEST_KEY, request_key.point),
            request_keyid=request_key.keyid,
            enrolled=now,
        )
        return Host(record, ak, request_key)

    def renew(self, host: Host) -> float:
        """One renewal; the seconds that the authority spent on it."""
        first = self._proof(host, "/v1/leases/challenge")
        started = time.perf_counter()
        record = host_of(self.context, first, "POST", "/v1/leases/challenge", b"")
        challenge = lease.challenge(self.context, record)
        spent = time.perf_counter() - started
        nonce = secrets.token_bytes(32)
        key = LeaseKey("leased", 1, "", name_of(record.srk_public), self.lease_point)
        state = self._quote(host, challenge.pcrs, quote_data(challenge.nonce, nonce, key))
        request = LeaseRequest(
            session=challenge.session, profile="leased", epoch=1, cell="", nonce_tpm=nonce, state=state
        )
        body = request.model_dump_json().encode()
        second = self._proof(host, "/v1/leases", body)
        started = time.perf_counter()
        record = host_of(self.context, second, "POST", "/v1/leases", body)
        lease.renew(self.context, record, LeaseRequest.model_validate_json(body))
        return spent + time.perf_counter() - started

    def _proof(self, host: Host, path: str, body: bytes = b"") -> str:
        now, jti = datetime.now(UTC), secrets.token_bytes(JTI_BYTES)
        return make_proof(host.request_key, "POST", f"{ORIGIN}{path}", body, now=now, jti=jti)

    def _quote(self, host: Host, pcrs: tuple[int, ...], data: bytes) -> QuotedState:
        values = {index: self.recording.pcr_values[index] for index in pcrs}
        signer = qualified_name(0x4000000B, host.ak_public)
        attest = bytes.fromhex("ff5443478018") + b2(signer) + b2(data) + bytes(8) + (7).to_bytes(4, "big") + bytes(4)
        attest += b"\1" + bytes(8) + PcrSelection(pcrs).marshal() + b2(pcr_digest(values, pcrs))
        signature = host.ak.sign_digest(hashlib.sha256(attest).digest())
        return QuotedState(
            attest=attest,
            signature=signature,
            event_log=self.recording.eventlog,
            preimages=self.recording.preimages,
            pcr_values=values,
        )


def measure(fleet: Fleet, rounds: int, threads: int) -> dict[str, float]:
    """Renewals a second over `threads`, hosts in turn, and the median of one in milliseconds."""
    times: list[float] = []

    def work(first: int) -> None:  # each thread has hosts of its own: a host's new challenge voids its earlier one
        own = fleet.hosts[first::threads]
        for number in range(first, rounds, threads):
            times.append(fleet.renew(own[number // threads % len(own)]))

    workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    whole = time.perf_counter() - started
    return {"per_second_with_hosts_work": rounds / whole, "median_ms": statistics.median(times) * 1000}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--hosts", type=int, nargs="+", default=[10, 1000])
    arguments.add_argument("--rounds", type=int, default=400)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    results = {}
    for hosts in options.hosts:
        with tempfile.TemporaryDirectory() as directory:
            results[hosts] = measure(Fleet(Path(directory) / "authority", hosts), options.rounds, options.threads)
    if options.json:
        print(json.dumps(results, sort_keys=True))
        return
    for hosts, result in results.items():
        print(
            f"{hosts:6} hosts   {result['per_second_with_hosts_work']:6.0f} renewals a second, hosts' own work included"
            f"   one takes the authority {result['median_ms']:5.1f} ms   (bar: {BAR} a second)"
        )


if __name__ == "__main__":
    main()
