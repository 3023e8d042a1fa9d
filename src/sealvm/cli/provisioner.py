"""`sealvm provisioner`: keys that sign launch packages, and who trusts them."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.options import authority_option, json_option, provisioner_option
from sealvm.cli.output import emit, table


@click.group()
def provisioner() -> None:
    """Keys that sign launch packages, and who trusts them."""


@provisioner.command()
@provisioner_option
@json_option
def init(provisioner_dir: Path) -> None:
    """Make a signing key, encrypted under a generated credential file."""
    from sealvm.provisioner.keys import create_provisioner_key

    signer = create_provisioner_key(provisioner_dir)
    emit(
        {"directory": str(provisioner_dir), "keyid": signer.keyid, "public": str(provisioner_dir / "provisioner.pub")},
        [f"provisioner key {signer.keyid[:16]}… made in {provisioner_dir}"],
    )


@provisioner.command()
@click.argument("name")
@click.option("--profile", "profiles", multiple=True, required=True, help="A profile it may provision for; repeatable.")
@click.option(
    "--key", type=click.Path(path_type=Path), help="Its public key, PEM. [default: provisioner.pub of the provisioner]"
)
@provisioner_option
@authority_option
@json_option
def trust(name: str, profiles: tuple[str, ...], key: Path | None, provisioner_dir: Path, authority_dir: Path) -> None:
    """Have all hosts accept packages that this key signs, for these profiles; NAME is how you call it."""
    from sealvm.cli.files import read_bytes
    from sealvm.client.operator import operator_client
    from sealvm.crypto.ec import point_from_pem
    from sealvm.provisioner.keys import PUBLIC_FILE

    point = point_from_pem(read_bytes(key or provisioner_dir / PUBLIC_FILE, "provisioner's public key"))
    with operator_client(authority_dir) as client:
        view = client.trust_provisioner(name, point, profiles)
    emit(
        view.model_dump(mode="json"),
        [
            f"provisioner '{view.name}' ({view.keyid[:16]}…) accepted for {', '.join(view.profiles)}",
            "hosts learn of it at their next sync",
        ],
    )


@provisioner.command("list")
@authority_option
@json_option
def list_provisioners(authority_dir: Path) -> None:
    """Whose packages hosts accept."""
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        rows = [view.model_dump(mode="json") for view in client.provisioners()]
    shown = [{**row, "profiles": " ".join(row["profiles"]), "key": row["keyid"][:16]} for row in rows]
    emit(rows, table(shown, ["name", "key", "profiles", "trusted"], "no provisioner is accepted"))
