"""While a guest runs, its keys are in memory and nowhere else: on no command line, in no environment, in no file."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from sealvm.host import luks
from sealvm.host.config import load_host
from sealvm.host.instance_record import folder_of
from sealvm.host.overlay_key import unwrap_overlay_key
from sealvm.host.unlock import accepted_provisioners, open_keys
from sealvm.package.open import open_package
from sealvm.store.layout import OciLayout
from sealvm.store.reference import parse_reference
from tests.e2e.network import GREETING, Network

pytestmark = pytest.mark.tpm


def forms(secret: bytes) -> list[bytes]:
    return [secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)]


def keys_of(network: Network, host: str, name: str) -> list[bytes]:
    """The keys of an instance, as this host itself unwraps them."""
    config = load_host(network.host_dir(host))
    opener = open_keys(config)
    place = parse_reference(network.package)
    with OciLayout.open(place.directory) as layout:
        package = open_package(layout, place.tag, accepted_provisioners(opener.bundle))
    wrap = folder_of(config.directory, name).read_wrap()
    key = package.unwrap(opener)
    overlay = unwrap_overlay_key(wrap, package.header, name, opener, key)
    return [key.reveal(), overlay.reveal(), luks.passphrase_of(overlay)]


def contents(*folders: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_no_key_and_no_plaintext_is_anywhere_but_in_memory(network: Network) -> None:
    arguments = ("vm", "launch", network.package, "--host", "host-1", "--name", "guest", "--wait", GREETING)
    assert network.ask(*arguments).code == 0
    pids = network.pids("host-1", "guest")
    assert set(pids) == {"blockserver", "storage", "machine"}
    secrets = [form for key in keys_of(network, "host-1", "guest") for form in forms(key)]
    secrets += [form for text in network.secrets for form in forms(text.encode())]

    shown = [Path(f"/proc/{pid}/{what}").read_bytes() for pid in pids.values() for what in ("cmdline", "environ")]
    runtime = Path(network.record("host-1", "guest")["runtime_dir"])
    layout = Path(network.package.removeprefix("oci:").rsplit(":", 1)[0])
    files = contents(network.host_dir("host-1"), runtime, layout)
    assert any(path.name == "overlay.luks" for path in files)
    for secret in secrets:
        assert not any(secret in text for text in shown)
        assert [path for path, data in files.items() if secret in data] == []
    assert network.marker.encode() in network.image.read_bytes()  # so the search does find it where it is


def test_what_lies_on_the_host_is_nobody_elses_to_read(network: Network) -> None:
    assert network.ask("vm", "launch", network.package, "--host", "host-1", "--name", "guest").code == 0
    folder = network.host_dir("host-1") / "instances" / "guest"
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    runtime = Path(network.record("host-1", "guest")["runtime_dir"])
    assert runtime.stat().st_mode & 0o777 == 0o700


def test_the_processes_leave_no_core_files(network: Network) -> None:
    assert network.ask("vm", "launch", network.package, "--host", "host-1", "--name", "guest").code == 0
    for pid in network.pids("host-1", "guest").values():
        limit = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in line)
        assert int(limit.split()[4]) <= 1, limit
