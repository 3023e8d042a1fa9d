"""`sealvm approver`: the state approver's key, kept on a machine without a network."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit

_KEY_NAME = "approver"


@click.group()
def approver() -> None:
    """Sign approvals on a machine that has no network."""


@approver.command()
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
def init(directory: Path) -> None:
    """Make an approver's key in DIRECTORY, encrypted under its credential; approver.pub is what an authority gets."""
    from sealvm.crypto.ec import spki_pem
    from sealvm.custody.files import FileCustody
    from sealvm.store.atomic import write_atomic

    custody = FileCustody.initialise(directory / "custody", directory / "credential")
    signer = custody.create_signer(_KEY_NAME)
    public = directory / "approver.pub"
    write_atomic(public, spki_pem(signer.point).encode())
    lines = [f"approver's key made in {directory}", f"next: sealvm authority init --approver-public {public}"]
    emit({"directory": str(directory), "public": str(public), "keyid": signer.keyid}, lines)


@approver.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to carry to the approver.")
@authority_option
@json_option
def request(out: Path, authority_dir: Path) -> None:
    """Write everything that waits for the offline approver to a file, with the evidence it needs to judge."""
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.store.atomic import write_atomic

    with operator_client(authority_dir) as client:
        waiting = trust.approver_requests(client)
    write_atomic(out, waiting.model_dump_json().encode())
    count = len(waiting.requests)
    lines = [f"{count} request{'s' if count != 1 else ''} written to {out}", f"next: sealvm approver sign {out}"]
    emit({"requests": count, "file": str(out)}, lines)


@approver.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key", "directory", type=click.Path(path_type=Path), required=True, help="Folder of the approver's key."
)
@click.option("--out", type=click.Path(path_type=Path), help="The file to carry back. Without it nothing is signed.")
@click.option("--without-evidence", is_flag=True, help="Sign also for states that come without a boot log.")
@json_option
def sign(file: Path, directory: Path, out: Path | None, without_evidence: bool) -> None:
    """Judge every request in FILE on this machine, show it, and sign what meets its profile's requirements.

    Needs no network and no authority. Without --out it shows what it would sign, and signs nothing.
    """
    from sealvm.authority import review
    from sealvm.cli.files import read_limited_file
    from sealvm.custody.files import FileCustody
    from sealvm.protocol.trust import REQUEST_BYTES_LIMIT, parse_approver_request
    from sealvm.store.atomic import write_atomic

    signer = FileCustody(directory / "custody", directory / "credential").signer(_KEY_NAME)
    wanted = parse_approver_request(read_limited_file(file, REQUEST_BYTES_LIMIT, "approver request"))
    reviewed = review.review(wanted, signer.point)
    lines: list[str] = []
    data = []
    signed = 0
    for item in reviewed:
        refused = item.refused or ("it comes without evidence" if item.unseen and not without_evidence else "")
        signed += not refused
        verdict = f"NOT signed: {refused}" if refused else "signed" if out is not None else "would be signed"
        lines += [*item.lines, f"  digest {item.digest.hex()}", f"  => {verdict}"]
        data.append({"request": item.request_id, "says": list(item.lines), "refused": refused})
    if out is not None:
        answer = review.sign(reviewed, signer, unseen=without_evidence)
        write_atomic(out, answer.model_dump_json().encode())
        lines.append(f"{signed} of {len(reviewed)} signed; next: sealvm approver import {out}")
    emit({"requests": data, "signed": signed if out is not None else 0}, lines or ["nothing waits"])


@approver.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@authority_option
@json_option
def import_(file: Path, authority_dir: Path) -> None:
    """Hand the approver's signatures in FILE to the authority, which verifies and publishes them."""
    from sealvm.cli.files import read_limited_file
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.protocol.trust import EVIDENCE_BYTES_LIMIT, parse_approver_answer

    answer = parse_approver_answer(read_limited_file(file, EVIDENCE_BYTES_LIMIT, "approver answer"))
    with operator_client(authority_dir) as client:
        view = trust.import_answer(client, answer)
    lines = [f"approved: {text}" for text in view.approvals] + [f"delegated: {text}" for text in view.delegations]
    lines += [f"not waiting any more: {request}" for request in view.unknown]
    emit(view.model_dump(mode="json"), [*lines, f"{view.waiting} still wait"])
