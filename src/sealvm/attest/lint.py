"""Warnings about a profile that is well-formed and does not say what its author probably means.

DESIGN section 5: what a profile leaves open is allowed, and a state that only one host can ever have helps no fleet.
A warning is advice; nothing is refused for it. Each rule is described in docs/profiles.md, under its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sealvm.attest.facts import FACTS
from sealvm.attest.profile import Profile, Requirement, load_profile
from sealvm.attest.profile_yaml import Document, Path, read_document

_TEXT_FACTS: Final = ("kernel.cmdline", "grub.commands")
_PROGRAM_FACTS: Final = ("bootapps", "kernel.digest", "bootloader.digest")

# A verity root hash that the initrd or kernel enforces: systemd's roothash= and usrhash=, dm-mod.create= with verity,
# and Android's and dracut's spellings; or IMA appraisal of everything that root owns.
_BINDS_ROOT: Final = re.compile(
    r"(?:\b(?:roothash|systemd\.verity_root_hash|rd\.verity\.hash)=[0-9a-f]{32,}"
    r"|\bdm-mod\.create=.*\bverity\b.*[0-9a-f]{32,}"
    r"|\bima_appraise=enforce\b.*\bima_policy=\S*appraise_tcb|\bima_policy=\S*appraise_tcb\b.*\bima_appraise=enforce\b)"
)
_ONE_HOST: Final = re.compile(
    r"(?:\b(?:root|resume|rootflags|cryptdevice|luks\.uuid|rd\.luks\.uuid|luks\.name|rd\.luks\.name|systemd\.verity\w*)="
    r"\S*(?:UUID=|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})"
    r"|\S*/dev/disk/by-(?:uuid|partuuid|id|path|diskseq)/\S+"
    r"|\b(?:systemd\.hostname|hostname|systemd\.machine_id|BOOTIF|ifname|systemd\.set_credential)=\S+"
    r"|\bip=\d+\.\d+\.\d+\.\d+\S*)"
)
_ONE_HOST_PCRS: Final = {
    1: "the firmware's settings, boot entries and serial numbers",
    5: "the disk's partition table, with its identifiers",
}


@dataclass(frozen=True, slots=True)
class LintWarning:
    """One piece of advice: the line of the document it is about, the rule's name, what is wrong, and what to do."""

    line: int
    rule: str
    message: str
    hint: str

    def text(self, source: str) -> str:
        """One line for people."""
        return f"{source}, line {self.line}: {self.message} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class _Subject:
    """A profile and where its parts stand."""

    profile: Profile
    document: Document

    def warning(self, path: Path, rule: str, message: str, hint: str) -> LintWarning:
        return LintWarning(self.document.line_of(path), rule, message, hint)

    def asking(self, *facts: str) -> list[tuple[int, Requirement]]:
        return [(index, one) for index, one in enumerate(self.profile.requirements) if one.fact in facts]

    def judged(self, fact: str) -> bool:
        """Whether a requirement says all that `fact` may be."""
        return any(one.predicate in ("equals", "in") for _, one in self.asking(fact))


def lint(text: str, source: str) -> tuple[LintWarning, ...]:
    """The warnings about the profile in `text`, by line. Raises MalformedError for a profile that does not load."""
    subject = _Subject(load_profile(text, source), read_document(text, source))
    found = [warning for rule in _RULES for warning in rule(subject)]
    return tuple(sorted(found, key=lambda warning: (warning.line, warning.rule)))


def _root_not_bound(subject: _Subject) -> Iterator[LintWarning]:
    asking = subject.asking(*_TEXT_FACTS)
    if any(_binds_root(requirement) for _, requirement in asking) or subject.judged("ima.files"):
        return
    path: Path = ("requirements", asking[0][0], asking[0][1].predicate) if asking else ("requirements",)
    yield subject.warning(
        path,
        "root-not-bound",
        "nothing binds the root file system: whoever edits the disk offline leaves the PCRs unchanged",
        "put a verity hash (roothash=…) into the kernel's options and ask about kernel.cmdline, or use IMA appraisal",
    )


def _binds_root(requirement: Requirement) -> bool:
    """Whether every command line that is allowed has a hash; of GRUB's commands, the one that starts the kernel."""
    found = [_BINDS_ROOT.search(str(value)) is not None for value in requirement.values()]
    return any(found) if requirement.fact == "grub.commands" else bool(found) and all(found)


def _one_host(subject: _Subject) -> Iterator[LintWarning]:
    for index, requirement in subject.asking(*_TEXT_FACTS):
        for value in requirement.values():
            if (found := _ONE_HOST.search(str(value))) is not None:
                yield subject.warning(
                    ("requirements", index, requirement.predicate),
                    "one-host",
                    f"requirement '{requirement.name}' wants '{found[0][:80]}', which only one host can have",
                    "name the disk by a label or path that all hosts have (root=LABEL=…, root=/dev/vda2)",
                )
    for pcr, what in _ONE_HOST_PCRS.items():
        if pcr in subject.profile.pcrs:
            yield subject.warning(
                ("pcrs",),
                "one-host",
                f"PCR {pcr} holds {what}: hardly two hosts have the same",
                f"leave PCR {pcr} out, or expect one approval for each host",
            )


def _loads_unbound(subject: _Subject) -> Iterator[LintWarning]:
    if not {8, 9, 11, 12} & set(subject.profile.pcrs):
        yield subject.warning(
            ("pcrs",),
            "boot-not-bound",
            "the selection binds neither initrd nor command line: an approved kernel may be started with any",
            "add PCR 9 (Linux's EFI stub), 8 and 9 (GRUB), or 11 and 12 (a UKI)",
        )
        return
    if not subject.asking("kernel.cmdline", "grub.commands", "uki.parameters", "uki.sections"):
        yield subject.warning(
            ("requirements",),
            "options-not-asked",
            "no requirement says what the kernel's options may be: whoever approves a state must look at them",
            "ask about kernel.cmdline with `equals` or `in`",
        )


def _kernel_without_bootapps(subject: _Subject) -> Iterator[LintWarning]:
    if not subject.judged("bootapps"):
        for index, requirement in subject.asking("kernel.digest"):
            yield subject.warning(
                ("requirements", index, "fact"),
                "kernel-without-bootapps",
                f"requirement '{requirement.name}' asks about kernel.digest, and none about bootapps: "
                "it is met only on hosts that start nothing before the kernel",
                "say with `in` which programs may be started (bootapps)",
            )
    if not subject.asking(*_PROGRAM_FACTS) and not _signed(subject):
        for index, requirement in subject.asking("kernel.cmdline", "initrd.digest", "ima.files"):
            yield subject.warning(
                ("requirements", index, "fact"),
                "kernel-not-asked",
                f"requirement '{requirement.name}' believes what a kernel measured, and none says which kernel",
                "ask about bootapps, bootloader.digest or kernel.digest",
            )


def _signed(subject: _Subject) -> bool:
    """Whether programs are known by the keys that signed them."""
    enforced = any(True in one.values() for _, one in subject.asking("secureboot.enabled"))
    return enforced and subject.judged("secureboot.authorities")


def _never_met(subject: _Subject) -> Iterator[LintWarning]:
    for index, requirement in enumerate(subject.profile.requirements):
        grows = FACTS[requirement.fact].grows
        if requirement.predicate == "contains" and grows and not subject.judged(requirement.fact):
            yield subject.warning(
                ("requirements", index, "contains"),
                "never-met",
                f"requirement '{requirement.name}' is never met: something can be added to {requirement.fact} "
                "after the boot, and no requirement says with `in` what all of it may be",
                f"add a requirement on {requirement.fact} with `in`",
            )


def _open_options(subject: _Subject) -> Iterator[LintWarning]:
    for index, requirement in subject.asking("kernel.cmdline"):
        if requirement.predicate in ("matches", "contains") and not subject.judged("kernel.cmdline"):
            yield subject.warning(
                ("requirements", index, requirement.predicate),
                "open-options",
                f"requirement '{requirement.name}' leaves other options open: init=/bin/sh, for example",
                "use `equals` or `in`, with whole lines",
            )


def _weak_trust(subject: _Subject) -> Iterator[LintWarning]:
    says = {
        "lab": "TPMs of class lab are software, whose keys root on the host can read",
        "virtual": "TPMs of class virtual are as trustworthy as who runs the hypervisor beneath the host",
    }
    for index, trust in enumerate(subject.profile.trust):
        if trust in says:
            yield subject.warning(("trust", index), "weak-trust", says[trust], "leave it out for hardware TPMs alone")


def _moving(subject: _Subject) -> Iterator[LintWarning]:
    if 10 in subject.profile.pcrs:
        yield subject.warning(
            ("pcrs",),
            "moves",
            "PCR 10 changes with every new file that Linux measures: the key is lost until the next boot",
            "leave PCR 10 out; with `lease`, ima.files is judged at each renewal",
        )


_RULES: Final[tuple[Callable[[_Subject], Iterator[LintWarning]], ...]] = (
    _root_not_bound,
    _one_host,
    _loads_unbound,
    _kernel_without_bootapps,
    _never_met,
    _open_options,
    _weak_trust,
    _moving,
)
