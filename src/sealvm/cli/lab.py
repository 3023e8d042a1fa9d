"""`sealvm lab`: a computing network on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sealvm.cli.options import json_option, lab_dir
from sealvm.cli.output import emit, note, table


@click.group()
def lab() -> None:
    """A computing network on this machine, with software TPMs.

    The lab lies in .sealvm/lab, or where SEALVM_LAB says. Root of this machine can read the state of its TPMs: it is
    for learning and testing, never for secrets.
    """


@lab.command()
@click.option("--no-authority", is_flag=True, help="Power on the hosts only; set up the authority by hand.")
@json_option
def up(no_authority: bool) -> None:
    """Make the lab if there is none, and power on its hosts and its authority.

    Three hosts, each with a TPM that carries a recorded boot: host-1 and host-2 a good one, host-3 one with another
    kernel command line. Nothing is enrolled yet.
    """
    from sealvm.lab.authority import prepare_authority
    from sealvm.lab.network import Lab

    network = Lab(lab_dir())
    if not network.exists:
        note("making three TPMs with EK certificates")
        network.create()
    for host in network.hosts():
        network.power_on(host)
    if not no_authority:
        prepare_authority(network)
    _show(_state(network))


@lab.command()
@click.option("--remove", is_flag=True, help="Delete the lab as well, with every key in it.")
@json_option
def down(remove: bool) -> None:
    """Power everything off: the authority, the hosts' TPMs, and the VMs that run on them."""
    from sealvm.lab.network import Lab

    network = Lab(lab_dir())
    network.down(remove=remove)
    emit({"removed": remove}, ["the lab is off" + (" and removed" if remove else "")])


@lab.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--greeting", default="Hello from the sealed VM", show_default=True, help="What its login screen says.")
@click.option("--hostname", default="sealed-vm", show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=".sealvm/cache", show_default=True)
@json_option
def image(path: Path, greeting: str, hostname: str, cache: Path) -> None:
    """Make a small Debian disk at PATH (raw, 2 GiB, sparse) to try things with. Needs root the first time."""
    from sealvm.lab.image import build_debian_image

    build_debian_image(path.absolute(), hostname, greeting, cache.absolute())
    emit({"path": str(path), "bytes": path.stat().st_size}, [f"Debian disk made at {path}"])


@lab.command()
@json_option
def status() -> None:
    """What runs in the lab."""
    from sealvm.lab.network import Lab

    _show(_state(Lab(lab_dir())))


def _state(network: Any) -> dict[str, Any]:
    pid = network.authority_pid
    hosts = [
        {
            "name": host.name,
            "tpm": "on" if host.tpm.running_pid else "off",
            "boot": host.recording,
            "folder": str(host.directory),
        }
        for host in network.hosts()
    ]
    return {"directory": str(network.directory), "authority": {"running": pid is not None, "pid": pid}, "hosts": hosts}


def _show(state: dict[str, Any]) -> None:
    running = state["authority"]["running"]
    authority = f"running (pid {state['authority']['pid']})" if running else "off"
    emit(
        state,
        [
            f"lab in {state['directory']}; authority: {authority}",
            *table(state["hosts"], ["name", "tpm", "boot", "folder"], "no hosts"),
        ],
    )
