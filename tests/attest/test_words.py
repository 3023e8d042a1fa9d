"""The table from events to words and advice, walked with every event of every recorded boot."""

from __future__ import annotations

import pytest

from sealvm.attest.words import UNKNOWN, words_for
from tests.attest.logs import BOOTS_WITH_SHA256, E, boot, booted, verified

VAGUE = {"boot loader's step", "event of the boot loader or kernel", "firmware variable", "boot entry or boot order"}


@pytest.mark.parametrize("name", BOOTS_WITH_SHA256)
def test_every_event_of_a_recorded_boot_has_words_of_its_own_and_advice(name: str) -> None:
    for event in booted(name).events:
        words = words_for(event)
        assert words != UNKNOWN, event
        assert words.what not in VAGUE, event
        assert words.advice
        assert words.what.isprintable()


WORDS = {
    "secureboot-shim-grub": {
        (7, 22): "key that Secure Boot accepted a program by (db)",
        (7, 27): "shim's revocation level (SBAT)",
        (7, 29): "key by which shim accepted a program (MokList)",
        (14, 25): "shim's keys and settings MokList",
        (8, 36): "GRUB command",
        (8, 40): "kernel command line given by GRUB",
        (9, 42): "file that GRUB read /initrd.img",
        (1, 11): "boot entry Boot0001",
    },
    "uki": {(11, 28): "part of the unified kernel image .cmdline", (9, 33): "kernel command line"},
}


@pytest.mark.parametrize("name", WORDS)
def test_words_of_boot_loaders(name: str) -> None:
    found = {(event.pcr, event.index): words_for(event).what for event in booted(name).events}
    assert {place: found[place] for place in WORDS[name]} == WORDS[name]


def test_texts_of_boot_loaders_are_shown_where_the_digest_proves_them() -> None:
    texts = {event.index: event.text() for event in booted("secureboot-shim-grub").events}
    assert texts[36] == "linux /vmlinuz.efi root=/dev/vda ro lockdown=integrity"
    assert texts[40] == "/vmlinuz.efi root=/dev/vda ro lockdown=integrity"
    assert texts[11] == "UEFI Misc Device"
    assert texts[37] is None  # a file is known by its digest; its name is only logged


@pytest.mark.parametrize("data", [b"\x1b[31m", b"\xff\xfe", b"", b"a\nb"])
def test_what_cannot_be_shown_is_left_out_of_the_words(data: bytes) -> None:
    for pcr in (8, 9, 11, 12, 13, 14, 5):
        state = verified(boot(p9=[E(pcr, 0x0D, data, b"x")]), [])
        assert all(words_for(event).what.isprintable() for event in state.events)
