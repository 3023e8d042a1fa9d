"""Steps 1 to 3: hosts enroll, the profile's key is sealed into every TPM, a state is approved."""

from __future__ import annotations

from importlib import resources

from sealvm.client.operator import operator_client
from sealvm.errors import Fault
from sealvm.host.config import load_host
from sealvm.host.enroll import enroll, read_ek_digest
from sealvm.host.sync import sync
from sealvm.lab.demo.stage import PROFILE, Stage

_DIGEST_CHARS = 12


def enroll_hosts(stage: Stage) -> None:
    """Step 1: an operator registers each EK; each TPM proves that it holds it, and what the host booted."""
    for host in stage.lab.hosts():
        ek_digest = read_ek_digest(load_host(host.directory))
        with operator_client(stage.lab.authority_dir) as client:
            ticket = client.register_host(host.name, ek_digest)
        report = enroll(host.directory, ticket)
        stage.say(
            f"  {host.name}  EK certificate ok (class: {report.trust_class})  AK activated  "
            f"log replays: {report.events} events"
        )


def apply_profile(stage: Stage) -> None:
    """Step 2: the profile's key is made, and sealed into the TPM of every host at its next sync."""
    document = (resources.files("sealvm.lab") / "profiles" / f"{PROFILE}.yaml").read_text()
    with operator_client(stage.lab.authority_dir) as client:
        view = client.apply_profile(document)
    sealed = [host.name for host in stage.lab.hosts() if sync(host.directory).new_keys]
    pcrs = " ".join(map(str, view.pcrs))
    stage.say(f"[2/7] Profile '{PROFILE}' (PCR {pcrs}): its key is sealed into the TPMs of {', '.join(sealed)}")
    tampered = [host.name for host in stage.lab.hosts() if host.recording != "good"]
    stage.say(f"  {', '.join(tampered)} has the key too. It will not be able to use it.")


def approve_state(stage: Stage) -> None:
    """Step 3: host-1's verified state meets every requirement, and the state approver signs it."""
    with operator_client(stage.lab.authority_dir) as client:
        (view,) = client.approve(PROFILE, "host-1")
    if view.outcome != "signed" or not view.satisfied_by or not view.not_satisfied_by:
        raise Fault(f"the approval came out as {view.outcome}, satisfied by {', '.join(view.satisfied_by)}")
    width = max(len(requirement.name) for requirement in view.requirements)
    for requirement in view.requirements:
        mark = "met" if requirement.met else "NOT"
        stage.say(f"  {mark}  {requirement.name:{width}}  {requirement.detail}")
    stage.say(
        f"  approval signed: {' and '.join(view.satisfied_by)} satisfy it; {', '.join(view.not_satisfied_by)} does not"
    )
