"""Step 6: root of the tampered host, a stranger with a TPM of his own, and whoever stores the package."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from sealvm.authority.ports import APPROVER_KEY
from sealvm.custody.files import FileCustody
from sealvm.errors import Fault
from sealvm.host.config import load_host
from sealvm.host.explain import BOOT_PCRS
from sealvm.host.keyring import Keyring
from sealvm.host.sync import connect, quoted_state
from sealvm.host.unlock import accepted_provisioners, stored_bundle
from sealvm.lab.attacks.stranger import run_stranger_attacks
from sealvm.lab.attacks.suite import run_attacks
from sealvm.lab.attacks.view import AttackerView, AttackResult, tempting_approvals
from sealvm.lab.demo.stage import PROFILE, Stage
from sealvm.lab.demo.vms import remove
from sealvm.lab.network import LabHost
from sealvm.lab.swtpm import Swtpm, manufacture
from sealvm.package.open import open_package
from sealvm.protocol.enroll import quote_nonce
from sealvm.protocol.messages import SealedKey, SyncRequest
from sealvm.store.layout import OciLayout
from sealvm.store.reference import parse_reference
from sealvm.tcg.duplicate import DuplicateBlob
from sealvm.tpm import pcr

_POINT_BYTES = 65
_FLIPPED_OFFSET = 100


def attack(stage: Stage) -> None:
    """All three attackers; Fault when one of them is not stopped."""
    tampered = stage.lab.host("host-3")
    results = run_attacks(attacker_view(stage, tampered))
    _report(stage, f"{tampered.name} as root, all blobs, all approvals:", results, "by the TPM")
    _report(stage, "stranger's TPM with host-1's files:", _stranger(stage), "blobs not loadable")
    _flipped_byte(stage)


def attacker_view(stage: Stage, host: LabHost) -> AttackerView:
    """Everything root of `host` has: files, TPM, bundle, package, and a sync as this host to get the duplicate again.

    The approver adds what it may well have signed: approvals of this very state, for another profile and epoch. None of
    them is for the wanted key.
    """
    config, keyring = load_host(host.directory), Keyring(host.directory)
    bundle, identity = stored_bundle(keyring), keyring.identity()
    key = keyring.key(PROFILE, 1, "")
    approvals = tuple(a for p in bundle.profiles for epoch in p.epochs for a in epoch.approvals)
    approver = FileCustody(stage.lab.authority_dir / "custody", stage.lab.authority_dir / "credential").signer(
        APPROVER_KEY
    )
    with config.open_tpm() as tpm:
        values = pcr.read(tpm, BOOT_PCRS)
    selection = next(p.epochs[0].selection for p in bundle.profiles if p.name == PROFILE)
    sealed = _sealed_again(stage, host)
    return AttackerView(
        tcti=config.tcti,
        lock=config.tpm_lock,
        blobs=identity.blobs,
        key=key,
        duplicate=DuplicateBlob(sealed.public, sealed.duplicate, sealed.in_sym_seed),
        approvals=(*approvals, *tempting_approvals(approver, key, values, selection)),
        wrap_point=_wrap_point(stage, bundle_of=host),
    )


def _sealed_again(stage: Stage, host: LabHost) -> SealedKey:
    """The profile key as it comes over the network: a sync that claims to hold no key yet."""
    config, keyring = load_host(host.directory), Keyring(host.directory)
    with connect(config, keyring.identity().blobs) as client:
        challenge = client.sync_challenge()
        with config.open_tpm() as tpm:
            state = quoted_state(tpm, config, challenge.pcrs, quote_nonce("sync-quote", challenge.nonce))
        answer = client.sync(SyncRequest(session=challenge.session, have=(), state=state))
    return next(key for key in answer.keys if key.profile == PROFILE)


def _wrap_point(stage: Stage, bundle_of: LabHost) -> bytes:
    """The ephemeral point of the package's wrap: the first 65 bytes of the HPKE ciphertext."""
    place = parse_reference(stage.reference)
    accepted = accepted_provisioners(stored_bundle(Keyring(bundle_of.directory)))
    with OciLayout.open(place.directory) as layout:
        recipients = open_package(layout, place.tag, accepted).recipients
    wrap = json.loads(recipients)["tree"]["wraps"][0]["wrap"]
    return base64.b64decode(wrap)[:_POINT_BYTES]


def _stranger(stage: Stage) -> list[AttackResult]:
    """A genuine TPM that nobody registered, with everything of host-1."""
    directory = stage.lab.directory / "stranger"
    if not directory.exists():
        manufacture(directory, stage.lab.ca)
    tpm = Swtpm(directory)
    tpm.start()
    try:
        return run_stranger_attacks(tpm.tcti, tpm.lock, attacker_view(stage, stage.lab.host("host-1")))
    finally:
        tpm.stop()


def _flipped_byte(stage: Stage) -> None:
    """One byte of a copy of the package is changed where the guest reads first; the VM must pause, not boot."""
    copy = stage.lab.directory / "flipped"
    place = parse_reference(stage.reference)
    pack = _copy_with_own_pack(place.directory, copy)
    with pack.open("r+b") as file:
        file.seek(_FLIPPED_OFFSET)
        byte = file.read(1)[0]
        file.seek(_FLIPPED_OFFSET)
        file.write(bytes([byte ^ 1]))
    arguments = (
        "vm",
        "launch",
        f"oci:{copy}:{place.tag}",
        "--host",
        "host-1",
        "--name",
        "demo",
        "--wait",
        stage.marker,
    )
    outcome = stage.program(*arguments)
    if outcome.error.get("code") != "integrity":
        raise Fault(f"a flipped byte went unnoticed: {outcome.error or 'the VM started'}")
    why = outcome.error["events"][-1].partition("integrity: ")[2]
    stage.say(f"  {'one byte flipped in the package:':44} guest read fails, VM paused ({why})")
    remove(stage, "host-1")


def _copy_with_own_pack(source: Path, copy: Path) -> Path:
    """The layout in `source` again as hard links, but for its largest blob, the pack: that is a copy, and returned."""
    files = [path for path in source.rglob("*") if path.is_file()]
    pack = max(files, key=lambda path: path.stat().st_size)
    for path in files:
        target = copy / path.relative_to(source)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path == pack:
            target.write_bytes(path.read_bytes())
        else:
            os.link(path, target)
    return copy / pack.relative_to(source)


def _report(stage: Stage, who: str, results: list[AttackResult], by: str) -> None:
    through = [result.name for result in results if not result.refused]
    if through or not results:
        raise Fault(f"{who} not refused: {', '.join(through) or 'nothing was tried'}")
    stage.say(f"  {who:44} {len(results)} attacks, {len(results)} refused ({by})")
