"""One byte of a package is changed, in each of its parts: all are refused, before the guest sees anything of it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.console import Terminal
from tests.e2e.layouts import CHUNK_BYTES, TAG_BYTES, Layout, another_digit, flip, flipped, stored_at
from tests.e2e.network import GREETING, PROMPT, Network

pytestmark = [pytest.mark.tpm, pytest.mark.slow]
PAUSED = "paused (I/O error)"
Damage = Callable[[Layout], None]


@pytest.fixture
def copy(network: Network) -> tuple[Layout, str]:
    """A copy of a package that is stored without compression, and its reference."""
    reference = f"oci:{network.work / 'plain'}:plain"
    if not (network.work / "plain").exists():
        options = ("--compression", "none", "--chunk-size", str(CHUNK_BYTES // 1024), "--memory", "64")
        arguments = ("package", "build", str(network.image), reference, "--profile", "measured-kernel", *options)
        assert network.run(*arguments).code == 0
    path, copied = network.copy_package(reference, "damaged")
    return Layout(path), copied


def in_text(path: Path, text: bytes, skip: int = 0) -> None:
    flip(path, path.read_bytes().index(text) + skip)


BEFORE_THE_START: dict[str, tuple[Damage, int]] = {
    "layout marker": (lambda layout: in_text(layout.path / "oci-layout", b"1.0.0"), 11),
    "list of packages, its form": (lambda layout: flip(layout.path / "index.json", 0), 11),
    "list of packages, a tag": (lambda layout: in_text(layout.path / "index.json", b'"plain"', 2), 13),
    "list of packages, a digest": (lambda layout: another_digit(layout.path / "index.json", b"sha256:", 9), 13),
    "manifest, first byte": (lambda layout: flip(layout.manifest_file, 0), 24),
    "manifest, a digest": (lambda layout: in_text(layout.manifest_file, b"sha256:", 10), 24),
    "manifest, last byte": (lambda layout: flip(layout.manifest_file, -1), 24),
    "header, payload": (lambda layout: in_text(layout.part("header"), b'"payload":"', 100), 24),
    "header, signature": (lambda layout: in_text(layout.part("header"), b'"sig":"', 20), 24),
    "recipients, a wrap": (lambda layout: in_text(layout.part("recipients"), b'"wrap":"', 60), 24),
    "recipients, last byte": (lambda layout: flip(layout.part("recipients"), -1), 24),
    "index, its root": (lambda layout: flip(layout.part("index"), -1), 24),
    "index, cut": (lambda layout: _cut(layout.part("index")), 24),
    "pack, cut": (lambda layout: _cut(layout.part("pack")), 24),
    "pack, missing": (lambda layout: layout.part("pack").unlink(), 13),
    "header, forged": (lambda layout: layout.forge("header", _other_payload), 22),
    "header, forged signature": (
        lambda layout: layout.forge("header", lambda data: data.replace(_signature(data)[20:24], b"AAAA")),
        22,
    ),
    "recipients, forged": (lambda layout: layout.forge("recipients", _other_wrap), 24),
    "recipients, without a wrap": (lambda layout: layout.forge("recipients", lambda _data: b"{}"), 11),
    "index, forged": (lambda layout: layout.forge("index", lambda data: flipped(data, 0)), 24),
    "pack, forged": (lambda layout: layout.forge("pack", lambda data: flipped(data, 0)), 24),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _other_payload(envelope: bytes) -> bytes:
    document = json.loads(envelope)
    payload = json.loads(base64.b64decode(document["payload"]))
    payload["version"] += 1
    canonical = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps(document | {"payload": base64.b64encode(canonical).decode()}).encode()


def _signature(envelope: bytes) -> bytes:
    signature: str = json.loads(envelope)["signatures"][0]["sig"]
    return signature.encode()


def _other_wrap(data: bytes) -> bytes:
    document = json.loads(data)
    wrap = document["tree"]["wraps"][0]
    wrap["wrap"] = base64.b64encode(flipped(base64.b64decode(wrap["wrap"]), 70)).decode()
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("part", BEFORE_THE_START)
def test_a_damaged_part_is_refused_before_anything_starts(
    network: Network, copy: tuple[Layout, str], part: str
) -> None:
    layout, reference = copy
    damage, exit_code = BEFORE_THE_START[part]
    damage(layout)
    with network.nothing_left("host-1"):
        refused = network.ask("vm", "launch", reference, "--host", "host-1", "--name", "guest")
    assert refused.code == exit_code, refused.err
    assert refused.error["message"]


NEEDED_TO_BOOT: dict[str, Callable[[Network], tuple[str, int]]] = {
    "index, a page": lambda _network: ("index", 10),
    "pack, first byte": lambda _network: ("pack", 0),
    "pack, end of the first chunk": lambda _network: ("pack", CHUNK_BYTES + TAG_BYTES - 1),
    "pack, where the greeting is": lambda network: ("pack", stored_at(network.image, GREETING.encode()) + 1000),
}


@pytest.mark.parametrize("part", NEEDED_TO_BOOT)
def test_a_damaged_chunk_pauses_the_guest_that_boots_from_it(
    network: Network, copy: tuple[Layout, str], part: str
) -> None:
    layout, reference = copy
    kind, offset = NEEDED_TO_BOOT[part](network)
    flip(layout.part(kind), offset)
    refused = network.ask("vm", "launch", reference, "--host", "host-1", "--name", "guest", "--wait", GREETING)
    assert (refused.code, refused.error["code"]) == (24, "integrity")
    assert any("not what the provisioner signed" in event for event in refused.error["events"])
    shown = network.ask("vm", "show", "guest", "--host", "host-1").data
    assert shown["state"] == PAUSED
    assert shown["events"] == refused.error["events"]


def test_a_damaged_chunk_that_is_read_late_pauses_the_guest_then(network: Network, copy: tuple[Layout, str]) -> None:
    layout, reference = copy
    flip(layout.part("pack"), stored_at(network.image, b"note 7000 of this disk") + 77)
    arguments = ("vm", "launch", reference, "--host", "host-1", "--name", "guest", "--wait", PROMPT)
    assert network.ask(*arguments).code == 0
    with Terminal(network, "host-1", "guest") as terminal:
        terminal.type("\r")
        terminal.expect(PROMPT)
        terminal.type("cat /notes\r")
        deadline = time.monotonic() + 20
        while (shown := network.ask("vm", "show", "guest", "--host", "host-1").data)["state"] == "running":
            terminal.drain()
            assert time.monotonic() < deadline
    assert shown["state"] == PAUSED
    assert "ciphertext is not what the provisioner signed" in shown["events"][-1]


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9])
def test_verify_notices_a_changed_byte_anywhere_in_the_pack(
    network: Network, copy: tuple[Layout, str], place: float
) -> None:
    layout, reference = copy
    assert network.ask("package", "verify", reference).data["ok"] is True
    flip(layout.part("pack"), int(place * layout.part("pack").stat().st_size))
    refused = network.ask("package", "verify", reference)
    assert (refused.code, refused.error["code"]) == (24, "integrity")
    assert network.ask("package", "verify", reference, "--shallow").data["ok"] is True


@pytest.mark.parametrize("part", BEFORE_THE_START)
def test_verify_refuses_the_same_with_the_same_code(network: Network, copy: tuple[Layout, str], part: str) -> None:
    layout, reference = copy
    damage, exit_code = BEFORE_THE_START[part]
    damage(layout)
    found = network.run("package", "verify", reference).code
    # what is in a wrap only the TPM can tell, and nobody signs the recipients: they may be made anew
    assert found == (0 if part == "recipients, forged" else exit_code)


def test_parts_of_two_packages_do_not_mix(network: Network, copy: tuple[Layout, str]) -> None:
    layout, reference = copy
    good = network.package.removeprefix("oci:").rsplit(":", 1)[0]
    other = Layout(Path(good))
    layout.forge("recipients", lambda _own: other.part("recipients").read_bytes())
    refused = network.ask("vm", "launch", reference, "--host", "host-1", "--name", "guest")
    assert (refused.code, refused.error["code"]) == (24, "integrity")
