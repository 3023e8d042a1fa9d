"""A real kernel as guest: boot loader, kernel and init are read out of the package, and what it writes is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealvm.lab.image import build_busybox_image
from tests.e2e.console import Terminal
from tests.e2e.network import Network

pytestmark = [pytest.mark.tpm, pytest.mark.slow]
AT_HOST = ("--host", "host-2")
HELLO = "hello from Linux"


def test_linux_boots_from_the_sealed_disk_and_keeps_what_it_writes(network: Network, shared_cache: Path) -> None:
    image = build_busybox_image(network.work / "linux.raw", HELLO, shared_cache)
    package = network.build("linux", "--memory", "256", image=image)
    launch = ("vm", "launch", package, *AT_HOST, "--name", "linux", "--wait", HELLO)
    assert network.ask(*launch).data["line"] == HELLO
    with Terminal(network, "host-2", "linux") as terminal:
        terminal.type("\n")
        terminal.expect("# ")
        terminal.type(
            "busybox printf 'kept-%s' here | busybox dd of=/dev/vda bs=512 seek=2000 conv=fsync; echo do''ne\n"
        )
        terminal.expect("done")
    assert network.run("vm", "stop", "linux", "--grace", "0", *AT_HOST).code == 0
    assert network.ask("vm", "start", "linux", *AT_HOST, "--wait", HELLO).code == 0
    with Terminal(network, "host-2", "linux") as terminal:
        terminal.type("\nbusybox dd if=/dev/vda bs=512 skip=2000 count=1 | busybox head -c 9; echo\n")
        terminal.expect("kept-here")
    assert b"kept-here" not in image.read_bytes()
