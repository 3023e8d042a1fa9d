"""Predicted states: what is taken over, what is computed, and what cannot be predicted.

That predictions equal what real boots measure is shown by test_predict_boot.py.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealvm.attest.artefacts import Artefacts, DirectKernel, StubKernel, UnifiedKernel, as_qemu_loads_it
from sealvm.attest.explain import reference_of, render
from sealvm.attest.facts import FactStatus
from sealvm.attest.predict import next_boot, predict
from sealvm.attest.reference import parse_reference
from sealvm.attest.state import local_state
from sealvm.errors import ConflictError, EvidenceRefused, MalformedError
from sealvm.tcg.authenticode import authenticode_digest
from tests.attest.logs import E, boot, booted, log_of, secure_boot, separator, verified
from tests.attest.pe import bzimage, kernel, uki

OBSERVED = verified(boot(p7=[secure_boot(b"\0"), separator(7)]))
CMDLINE = "root=/dev/vda ro"
OFF = {"p7": [secure_boot(b"\0"), separator(7)]}
PROFILE = f"""
name: predicted
pcrs: [0, 2, 4, 7, 9]
requirements:
  - {{name: kernel, says: a known kernel, fact: bootapps, in: [{authenticode_digest(kernel(), "k").hex()}]}}
  - {{name: options, says: known options, fact: kernel.cmdline, equals: {CMDLINE}}}
"""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def direct(memory_bytes: int = 1 << 29, cmdline: str = CMDLINE) -> DirectKernel:
    return DirectKernel(bzimage(), cmdline, b"initrd", memory_bytes)


def test_a_kernel_from_a_boot_entry() -> None:
    observed = verified(boot())
    state = predict(observed, StubKernel(kernel(), CMDLINE, b"new initrd"))
    assert state.evidence["bootapps"].value == (authenticode_digest(kernel(), "k").hex(),)
    assert state.evidence["kernel.cmdline"].value == CMDLINE
    assert state.evidence["initrd.digest"].value == sha(b"new initrd")
    for pcr in (0, 1, 2, 3, 5, 6, 7):
        assert state.pcr_values[pcr] == observed.pcr_values[pcr]
    assert sorted(state.pcr_values) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14]
    assert state.pcr_values[8] == state.pcr_values[12] == bytes(32)
    assert not state.flaws
    assert [event.index for event in state.events] == list(range(1, len(state.events) + 1))


def test_the_same_artefacts_give_the_same_values_again() -> None:
    first = predict(verified(boot()), StubKernel(kernel(), CMDLINE, b"initrd"))
    again = predict(first, StubKernel(kernel(), CMDLINE, b"initrd"))
    assert again.pcr_values == first.pcr_values


def test_without_an_initrd_none_is_measured() -> None:
    state = predict(verified(boot()), StubKernel(kernel(), CMDLINE))
    assert state.evidence["initrd.digest"].status is FactStatus.ABSENT


@pytest.mark.parametrize("on", [True, False])
def test_a_unified_kernel_image(on: bool) -> None:
    image = uki(CMDLINE)
    state = predict(verified(boot(**({} if on else OFF))), UnifiedKernel(image))
    outer, inner = authenticode_digest(image, "u").hex(), authenticode_digest(kernel(), "k").hex()
    assert state.evidence["bootapps"].value == ((outer,) if on else (outer, inner))
    assert state.evidence["kernel.cmdline"].value == CMDLINE
    assert state.evidence["initrd.digest"].value == sha(b"initrd")
    sections = state.evidence["uki.sections"].value
    assert isinstance(sections, tuple)
    assert sections[:2] == (sha(b".linux\0"), sha(kernel()))
    assert sections[2] == sha(b".osrel\0")
    assert state.evidence["uki.parameters"].status is FactStatus.ABSENT


def test_a_kernel_from_qemu_is_measured_with_what_qemu_wrote_into_it() -> None:
    state = predict(verified(boot(**OFF)), direct())
    patched = as_qemu_loads_it(bzimage(), 6, 1 << 29)
    assert patched != bzimage()
    assert state.evidence["kernel.digest"].value == authenticode_digest(patched, "k").hex()
    assert state.evidence["kernel.cmdline"].value == f"{CMDLINE} initrd=initrd"
    of_pcr_4 = [event for event in state.events if event.pcr == 4]
    assert not of_pcr_4[0].is_separator
    assert of_pcr_4[-1].is_separator


def test_programs_of_the_firmware_itself_are_taken_over() -> None:
    setup = E(4, 0x80000003, b"", b"setup program")
    parts = [setup, separator(4), E(4, 0x80000003, b"", b"old kernel")]
    state = predict(verified(boot(p4=parts)), StubKernel(kernel(), CMDLINE))
    assert state.evidence["bootapps"].value == (sha(b"setup program"), authenticode_digest(kernel(), "k").hex())


def test_a_predicted_state_can_be_approved_and_explained() -> None:
    state = predict(verified(boot()), StubKernel(kernel(), CMDLINE))
    reference = reference_of(state)
    assert parse_reference(reference).pcr_values == state.pcr_values
    assert next_boot(PROFILE, [reference], verified(boot()), StubKernel(kernel(), CMDLINE)).satisfied


def test_the_next_boot_is_explained_before_it_happens() -> None:
    reference = reference_of(predict(verified(boot()), StubKernel(kernel(), CMDLINE)))
    answer = next_boot(PROFILE, [reference], verified(boot()), StubKernel(kernel(), f"{CMDLINE} init=/bin/sh"))
    assert not answer.satisfied
    lines = render(answer)
    assert lines[0].startswith("PCR 9 differs, from event ")
    assert lines[1:] == [
        f"  approved: {CMDLINE}",
        f"  found:    {CMDLINE} init=/bin/sh",
        'breaks: options "known options"',
        "to do: reboot with the approved command line, or approve this state",
    ]


NOT_PREDICTED: dict[str, tuple[Artefacts, type[Exception], str]] = {
    "QEMU's kernel with Secure Boot": (direct(), ConflictError, "without measuring it"),
    "a UKI of another stub": (
        UnifiedKernel(uki(magic=b"#### LoaderInfo: systemd-stub 255.4-1 ####")),
        ConflictError,
        "systemd-stub 255",
    ),
    "a UKI of no stub": (UnifiedKernel(uki(magic=b"")), MalformedError, "stub is not systemd's"),
    "a UKI with signed PCR values": (UnifiedKernel(uki(pcrsig=b"{}")), ConflictError, ".pcrsig"),
    "a UKI without options": (UnifiedKernel(uki("")), MalformedError, "no section .cmdline"),
    "a UKI without a kernel": (UnifiedKernel(uki(inner=b"")), MalformedError, "no section .linux"),
    "a UKI whose kernel is none": (UnifiedKernel(uki(inner=b"x")), MalformedError, "UKI's kernel: is no PE/COFF"),
    "a UKI with two lines of options": (UnifiedKernel(uki("ro\nrw")), MalformedError, "one printable ASCII line"),
    "no kernel": (StubKernel(b"x", CMDLINE), MalformedError, "kernel: is no PE/COFF program"),
    "no options": (StubKernel(kernel(), ""), MalformedError, "one printable ASCII line"),
    "too many options": (StubKernel(kernel(), "x" * 2048), MalformedError, "2048 characters"),
    "options with a tab": (StubKernel(kernel(), "a\tb"), MalformedError, "one printable ASCII line"),
}


@pytest.mark.parametrize(("artefacts", "error", "message"), NOT_PREDICTED.values(), ids=NOT_PREDICTED.keys())
def test_what_cannot_be_predicted_is_refused_by_name(
    artefacts: Artefacts, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        predict(verified(boot()), artefacts)


@pytest.mark.parametrize(
    ("image", "memory", "message"),
    [
        (kernel(), 1 << 29, "no bzImage"),
        (bzimage()[:0x206] + b"\x05\x02" + bzimage()[0x208:], 1 << 29, "boot protocol 2.5"),
        (bzimage(), 1 << 31, "less than 2147483648"),
        (bzimage(), 0, "less than 2147483648"),
    ],
)
def test_qemu_takes_no_other_kernel_or_memory(image: bytes, memory: int, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        as_qemu_loads_it(image, 6, memory)


@given(st.data())
def test_damaged_artefacts_give_a_state_or_a_typed_error(data: st.DataObject) -> None:
    image, plain = bytearray(uki()), bytearray(bzimage())
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, 0x400))] = data.draw(st.integers(0, 255))
        plain[data.draw(st.integers(0, 0x300))] = data.draw(st.integers(0, 255))
    damaged = (
        UnifiedKernel(bytes(image)),
        StubKernel(bytes(plain), "ro"),
        DirectKernel(bytes(plain), "ro", b"i", 1 << 29),
    )
    for artefacts in damaged:
        with suppress(MalformedError, ConflictError):
            predict(OBSERVED, artefacts)


def test_a_host_that_boots_by_shim_is_not_predicted() -> None:
    with pytest.raises(ConflictError, match="boots by shim"):
        predict(booted("secureboot-shim-grub"), UnifiedKernel(uki()))


def test_a_flawed_or_partial_state_predicts_nothing() -> None:
    log = log_of(boot())
    observed = verified(boot())
    flawed = local_state({**observed.pcr_values, 4: bytes(31) + b"\1"}, log, [])
    with pytest.raises(EvidenceRefused, match="the observed state is flawed: PCR 4"):
        predict(flawed, StubKernel(kernel(), CMDLINE))
    partial = local_state({pcr: observed.pcr_values[pcr] for pcr in (0, 2, 4)}, log, [])
    with pytest.raises(EvidenceRefused, match="no value of PCR 7"):
        predict(partial, StubKernel(kernel(), CMDLINE))
    with pytest.raises(EvidenceRefused, match="whether Secure Boot is on"):
        predict(verified(boot(p7=[separator(7)])), StubKernel(kernel(), CMDLINE))
