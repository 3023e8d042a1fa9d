"""The lab's authority: made once, served by a process of its own over TCP, and told to accept the lab's TPMs."""

from __future__ import annotations

from sealvm.authority.local import create
from sealvm.client.operator import operator_client
from sealvm.lab.network import Lab

LAB_CLASS = "lab"


def prepare_authority(network: Lab) -> None:
    """Make the authority if there is none, serve it, and accept the lab CA's root as class `lab`. May be repeated."""
    if not (network.authority_dir / "authority.db").exists():
        create(network.authority_dir)
    network.start_authority()
    with operator_client(network.authority_dir) as client:
        if not client.roots():
            client.add_root(network.ca.root.read_text(), LAB_CLASS)
