"""Attacks on evidence, one test each: root on an enrolled host wants a tampered boot to pass for the approved one.

The boots are real (tests/data/eventlogs). What the TPM quotes cannot be chosen; the log, its preimages and labels can,
and PCRs can be extended further. Nothing here may end in a satisfied profile.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from sealvm.attest.evaluate import evaluate
from sealvm.attest.profile import Profile, load_profile
from sealvm.attest.state import verify_measured_state
from sealvm.errors import EvidenceRefused, MalformedError
from sealvm.tcg.attest import ClockInfo, VerifiedQuote
from sealvm.tcg.eventlog import Event, extend, parse_event_log
from sealvm.tcg.pcr import PcrSelection, pcr_digest
from tests.attest.logs import BOOT_PCRS, BOOTS, booted, encode_event, header, options

GOOD = "root=/dev/vda ro lockdown=integrity initrd=initrd"
EVIL = "root=/dev/vda ro lockdown=integrity ima_policy=tcb ima_template=ima-ng initrd=initrd"


def profile_of(name: str) -> Profile:
    """The strictest profile that the recorded boot `name` meets."""
    evidence = booted(name).evidence
    requirements = [
        {
            "name": "programs",
            "says": "known programs",
            "fact": "bootapps",
            "in": list(_value(evidence["bootapps"].value)),
        },
        {"name": "kernel", "says": "the kernel", "fact": "kernel.digest", "equals": evidence["kernel.digest"].value},
        {"name": "options", "says": "known options", "fact": "kernel.cmdline", "equals": GOOD},
        {"name": "initrd", "says": "the initrd", "fact": "initrd.digest", "equals": evidence["initrd.digest"].value},
        {
            "name": "secure",
            "says": "as approved",
            "fact": "secureboot.enabled",
            "equals": evidence["secureboot.enabled"].value,
        },
    ]
    return load_profile(json.dumps({"name": "strict", "pcrs": [0, 2, 4, 7, 9], "requirements": requirements}), "strict")


def _value(value: object) -> tuple[str, ...]:
    assert isinstance(value, tuple)
    return value


STRICT = profile_of("direct")


@dataclass(frozen=True)
class Forgery:
    """What the attacker hands over, and what their TPM holds."""

    events: tuple[Event, ...]
    values: Mapping[int, bytes]
    preimages: Sequence[bytes]
    selection: Sequence[int] = BOOT_PCRS

    def extended(self, pcr: int, event_type: int, data: bytes, hashed: bytes) -> Forgery:
        """The TPM extended with the hash of `hashed`, and logged as one pleases."""
        digest = hashlib.sha256(hashed).digest()
        event = Event(len(self.events), pcr, event_type, {"sha256": digest}, data)
        values = {**self.values, pcr: extend(self.values[pcr], digest)}
        return replace(self, events=(*self.events, event), values=values)

    def claimed(self, index: int, **changed: object) -> Forgery:
        """Event `index` with another label, text or digest in the log; the TPM is as it was."""
        events = [replace(event, **changed) if event.index == index else event for event in self.events]  # type: ignore[arg-type]
        return replace(self, events=tuple(events))

    def log(self) -> bytes:
        body = (encode_event(e.pcr, e.event_type, e.digests["sha256"], e.data) for e in self.events if e.index)
        return header() + b"".join(body)

    def satisfies(self, profile: Profile) -> bool:
        """Whether a verifier believes it. A refusal of the evidence is a no."""
        digest = pcr_digest(self.values, self.selection)
        quote = VerifiedQuote(PcrSelection(self.selection), digest, ClockInfo(1, 1, 0, True), 1)
        state = verify_measured_state(quote, self.log(), self.preimages)
        return evaluate(profile, state.evidence).satisfied


def boot_of(name: str) -> Forgery:
    folder = BOOTS[name]
    held = {int(pcr): bytes.fromhex(value) for pcr, value in json.loads((folder / "pcrs.json").read_text()).items()}
    preimages = [base64.b64decode(text) for text in json.loads((folder / "preimages.json").read_text())]
    log = parse_event_log((folder / "eventlog.bin").read_bytes())
    return Forgery(log.events, held, [*preimages, options(GOOD), options(EVIL)])


def of(forgery: Forgery, pcr: int, place: int) -> int:
    """The index of the `place`th event of `pcr`."""
    return [event.index for event in forgery.events if event.pcr == pcr and event.extends][place]


HONEST, TAMPERED = boot_of("direct"), boot_of("ima-ng")
OPTIONS, INITRD = of(TAMPERED, 9, 0), of(TAMPERED, 9, 1)
TAG = HONEST.events[OPTIONS].data


def test_the_approved_boot_passes_and_the_tampered_one_does_not() -> None:
    assert HONEST.satisfies(STRICT)
    assert not TAMPERED.satisfies(STRICT)


BELIEVED_BUT_NOT_MET: dict[str, Callable[[], Forgery]] = {
    "forged event text: the approved options as the event's data": lambda: TAMPERED.claimed(
        OPTIONS, data=options(GOOD)
    ),
    "forged event text: tagged": lambda: TAMPERED.claimed(OPTIONS, data=TAG[:4] + b"\x1a\0\0\0" + options(GOOD)[:26]),
    "the approved options extended afterwards": lambda: TAMPERED.extended(9, 6, TAG, options(GOOD)),
    "the evil options relabelled as the initrd, the approved ones extended": lambda: TAMPERED.claimed(
        OPTIONS, data=TAMPERED.events[INITRD].data
    ).extended(9, 6, TAG, options(GOOD)),
    "the evil options relabelled as informative text of GRUB": lambda: TAMPERED.claimed(
        OPTIONS, event_type=0xD, data=b"grub_cmd: true\0"
    ).extended(9, 6, TAG, options(GOOD)),
    "doubled events: the approved boot's, and the options once more": lambda: HONEST.extended(9, 6, TAG, options(GOOD)),
    "another program before the kernel, relabelled as an action": lambda: HONEST.extended(
        4, 0x80000007, b"Returning from EFI Application from Boot Option", b"evil"
    ),
    "an event after the separator: Secure Boot's setting once more": lambda: HONEST.extended(
        7, 0x80000001, HONEST.events[of(HONEST, 7, 0)].data, HONEST.events[of(HONEST, 7, 0)].data
    ),
}


@pytest.mark.parametrize("forge", BELIEVED_BUT_NOT_MET.values(), ids=BELIEVED_BUT_NOT_MET.keys())
def test_a_forgery_whose_log_replays_meets_nothing(forge: Callable[[], Forgery]) -> None:
    assert not forge().satisfies(STRICT)


def exchanged(forgery: Forgery) -> Forgery:
    return forgery.claimed(OPTIONS, digests=HONEST.events[OPTIONS].digests)


def without_an_event(forgery: Forgery) -> Forgery:
    return replace(forgery, events=tuple(event for event in forgery.events if event.index != OPTIONS))


def unextended(forgery: Forgery) -> Forgery:
    return replace(forgery, values=dict.fromkeys(range(24), bytes(32)))


def unextended_without_log(forgery: Forgery) -> Forgery:
    return replace(forgery, events=forgery.events[:1], values=dict.fromkeys(range(24), bytes(32)))


REFUSED: dict[str, tuple[Callable[[], Forgery], str]] = {
    "the approved event in place of the evil one": (lambda: exchanged(TAMPERED), "does not lead to the quoted values"),
    "the approved boot's log": (lambda: replace(TAMPERED, events=HONEST.events), "does not lead to the quoted values"),
    "the evil event left out": (lambda: without_an_event(TAMPERED), "does not lead to the quoted values"),
    "a doubled event in the log alone": (
        lambda: replace(HONEST, events=(*HONEST.events, replace(HONEST.events[OPTIONS], index=99))),
        "the TPM never saw it",
    ),
    "a doubled separator": (lambda: HONEST.extended(4, 4, bytes(4), bytes(4)), "second separator in PCR 4"),
    "a doubled separator under another label": (
        lambda: HONEST.extended(4, 0xD, b"x", bytes(4)),
        "label and digest of a separator disagree",
    ),
    "a separator's label on a program": (
        lambda: HONEST.extended(4, 4, bytes(4), b"evil"),
        "label and digest of a separator disagree",
    ),
    "an unextended bank": (lambda: unextended(HONEST), "does not lead to the quoted values"),
    "an unextended bank with a log to match": (lambda: unextended_without_log(HONEST), "PCR 0 was never extended"),
    "a weak selection: without PCR 4": (lambda: replace(HONEST, selection=(0, 2, 7, 9)), "must cover 0, 2, 4, 7"),
    "a weak selection: PCR 9 alone": (lambda: replace(HONEST, selection=(9,)), "must cover 0, 2, 4, 7"),
    "a resettable PCR in the selection": (
        lambda: replace(HONEST, selection=(0, 2, 4, 7, 9, 16)),
        "none of 16 to 23",
    ),
}


@pytest.mark.parametrize(("forge", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_forgery_that_does_not_hold_together_is_refused(forge: Callable[[], Forgery], message: str) -> None:
    with pytest.raises(EvidenceRefused, match=message):
        forge().satisfies(STRICT)


def test_a_quote_without_pcr_9_proves_no_options() -> None:
    assert not replace(HONEST, selection=(0, 2, 4, 7)).satisfies(STRICT)


@pytest.mark.parametrize("pcr", [16, 20, 23])
def test_a_profile_cannot_select_a_resettable_pcr_nor_leave_out_the_boot(pcr: int) -> None:
    for pcrs in ([0, 2, 4, 7, 9, pcr], [0, 2, 7, 9], [4, 9]):
        with pytest.raises(MalformedError, match="pcrs: "):
            load_profile(json.dumps({**STRICT.model_dump(include={"name"}), "pcrs": pcrs, "requirements": []}), "weak")


def test_a_log_of_the_sha1_bank_alone_is_refused() -> None:
    log = (BOOTS["tpm12"] / "eventlog.bin").read_bytes()
    quote = VerifiedQuote(PcrSelection(BOOT_PCRS), pcr_digest(HONEST.values, BOOT_PCRS), ClockInfo(1, 1, 0, True), 1)
    with pytest.raises(EvidenceRefused, match="no SHA-256 digests"):
        verify_measured_state(quote, log, [])
