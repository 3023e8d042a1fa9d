"""`sealvm authority`: set up and serve the key owner."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.authority_bar import bar, root_remove
from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit, note, table


@click.group()
def authority() -> None:
    """Set up and serve the authority, which owns profile keys."""


@authority.command()
@click.option(
    "--approver-public",
    type=click.Path(path_type=Path),
    help="Public key (PEM) of a state approver that is kept offline; made by `sealvm approver init`.",
)
@authority_option
@json_option
def init(approver_public: Path | None, authority_dir: Path) -> None:
    """Make an authority: its keys, its private CA, its database and the first operator's token."""
    from sealvm.authority.local import create
    from sealvm.cli.files import read_bytes
    from sealvm.crypto.ec import point_from_pem

    point = None if approver_public is None else point_from_pem(read_bytes(approver_public, "approver's public key"))
    create(authority_dir, point)
    emit(
        {"directory": str(authority_dir), "operator_token_file": str(authority_dir / "operator-token")},
        [
            f"authority made in {authority_dir}",
            f"  its keys are encrypted under {authority_dir / 'credential'}: keep a copy elsewhere",
            f"  the operator's token is in {authority_dir / 'operator-token'}",
            "next: sealvm authority serve",
        ],
    )


@authority.command()
@authority_option
@click.option("--listen", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="TCP port; 0 takes a free one. [default: 0]")
@click.option("--name", "names", multiple=True, help="A name by which hosts reach it; may be repeated.")
def serve(authority_dir: Path, listen: str, port: int, names: tuple[str, ...]) -> None:
    """Serve the authority over TLS until interrupted."""
    from sealvm.authority.serve import serve as run

    run(authority_dir, listen, port, names=names, on_ready=lambda url: note(f"serving {url}"))


authority.add_command(bar)


@authority.group()
def root() -> None:
    """EK roots: whose TPMs may enroll, and as what class."""


@root.command("add")
@click.argument("certificate", type=click.Path(path_type=Path))
@click.option(
    "--class",
    "trust_class",
    type=click.Choice(["hardware", "virtual", "lab"]),
    required=True,
    help="What these TPMs are; each profile says which classes it trusts.",
)
@authority_option
@json_option
def root_add(certificate: Path, trust_class: str, authority_dir: Path) -> None:
    """Accept EK certificates that chain to CERTIFICATE (PEM, one or several CA certificates), as a trust class."""
    from sealvm.cli.files import read_text
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        views = client.add_root(read_text(certificate, "certificate"), trust_class)
    emit(
        [view.model_dump(mode="json") for view in views],
        [f"EK root accepted as {view.trust_class}: {view.subject}" for view in views],
    )


root.add_command(root_remove)


@root.command("list")
@authority_option
@json_option
def root_list(authority_dir: Path) -> None:
    """The accepted EK roots."""
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        rows = [view.model_dump(mode="json") for view in client.roots()]
    emit(rows, table(rows, ["trust_class", "subject", "sha256"], "no EK root is accepted: no host can enroll"))
