"""Which PCRs hosts are asked to quote: always the boot's, and those that the profiles of this authority need."""

from __future__ import annotations

from functools import lru_cache

from sealvm.attest.facts import FACTS
from sealvm.attest.profile import load_profile
from sealvm.authority.ports import Transaction
from sealvm.protocol.enroll import quoted_pcrs
from sealvm.tcg.imalog import IMA_PCR

PARSED_PROFILES = 256


def pcrs_to_quote(tx: Transaction) -> tuple[int, ...]:
    """PCR 0 to 9, all that profiles select, and PCR 10 when a profile asks about what IMA measured."""
    profiles = tx.profiles()
    ima = any(_asks_about_files(profile.document, profile.name) for profile in profiles)
    return quoted_pcrs((index for profile in profiles for index in profile.pcrs), ima=ima)


@lru_cache(maxsize=PARSED_PROFILES)
def _asks_about_files(document: str, name: str) -> bool:
    return any(FACTS[one.fact].pcr == IMA_PCR for one in load_profile(document, name).requirements)
