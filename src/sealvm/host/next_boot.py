"""Would this host come back usable after it boots an update? Asked before the reboot; needs no network.

The next state is predicted from this boot's (`sealvm.attest.predict`, docs/pcrs.md says what is assumed to stay), and
compared with the states approved in the stored trust bundle. It proves nothing and decides nothing: the TPM will.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sealvm.attest.artefacts import Artefacts
from sealvm.attest.explain import BrokenRequirement, Explanation, render
from sealvm.attest.facts import FACTS
from sealvm.attest.predict import next_boot
from sealvm.attest.profile import Profile
from sealvm.host.config import HostConfig
from sealvm.host.explain import measured_state, profiles_here
from sealvm.host.keyring import Keyring
from sealvm.host.unlock import stored_bundle
from sealvm.tcg.imalog import IMA_PCR


@dataclass(frozen=True, slots=True)
class NextBootAnswer:
    """One profile after the next boot. `explanation` is of the predicted state.

    `unmet`: for a leased profile, requirements for which the authority would refuse the lease, although the state is
    approved: the profile was changed since. What IMA measures is not predicted, and not among them.
    """

    profile: str
    holds_key: bool
    leased: bool
    explanation: Explanation
    unmet: tuple[BrokenRequirement, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the profile's key could be used then, a leased one after a renewal."""
        return self.holds_key and self.explanation.satisfied and not self.unmet

    def lines(self) -> list[str]:
        """For people."""
        if not self.holds_key:
            return ["this host does not have the profile's key", "to do: sealvm host sync"]
        if not self.explanation.satisfied:
            return [*_advised(render(self.explanation), self.profile)]
        lines = [f"the state after the next boot is approved for profile '{self.profile}'"]
        lines += [f'no lease: {broken.name} "{broken.says}": {broken.detail}' for broken in self.unmet]
        if self.leased:
            lines.append("a reboot ends its lease: the host needs the authority in reach for a new one")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Stable JSON."""
        unmet = [broken.name for broken in self.unmet]
        own = {"usable": self.usable, "holds_key": self.holds_key, "leased": self.leased, "lease_refused_for": unmet}
        return {**own, **self.explanation.to_json()}


def explain_next_boot(
    config: HostConfig, artefacts: Artefacts, profiles: Collection[str] | None = None
) -> list[NextBootAnswer]:
    """An answer for each profile of the stored trust bundle, or for those of `profiles` that it lists.

    Raises as `measured_state`, and as `sealvm.attest.predict.predict` when this state or these artefacts do not allow a
    prediction: no answer is not the answer no.
    """
    keyring = Keyring(config.directory)
    bundle = stored_bundle(keyring)
    state = measured_state(config, ima=False)
    answers = []
    for here in profiles_here(keyring, bundle, profiles):
        explanation = next_boot(here.document, here.references, state, artefacts)
        unmet = _unmet(here.document, explanation) if here.leased else ()
        answers.append(NextBootAnswer(here.document.name, here.holds_key, here.leased, explanation, unmet))
    return answers


def _unmet(document: Profile, explanation: Explanation) -> tuple[BrokenRequirement, ...]:
    predictable = {one.name for one in document.requirements if FACTS[one.fact].pcr != IMA_PCR}
    return tuple(broken for broken in explanation.breaks if broken.name in predictable)


def _advised(lines: list[str], profile: str) -> list[str]:
    """What was rendered for a state that a host is in, with what to do about one that it will be in."""
    advice = [
        "to do: do not boot this yet; have the predicted state approved first:",
        f"  sealvm host evidence, then sealvm profile predict --out, then sealvm profile approve {profile} --predicted",
    ]
    return [line for line in lines if not line.startswith("to do: ")] + advice
