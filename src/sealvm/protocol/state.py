"""A host's quoted state: from the bytes it sends to PCR values and events that its TPM vouches for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sealvm.attest.state import MeasuredState, verify_measured_state
from sealvm.errors import EvidenceRefused
from sealvm.protocol.messages import QuotedState
from sealvm.tcg.attest import verify_quote


@dataclass(frozen=True, slots=True)
class ProvedState:
    """A measured state whose log replays to a quote that verified. `quoted` and `qualifying_data` let it be verified
    again later, with the same AK."""

    measured: MeasuredState
    quoted: QuotedState
    qualifying_data: bytes


def prove_state(quoted: QuotedState, ak_public: bytes, qualifying_data: bytes, pcrs: Sequence[int]) -> ProvedState:
    """The state behind `quoted`, after these checks; EvidenceRefused names the one that failed, with PCR and event.

    1. the quote is the AK's, of TPM origin, over exactly `qualifying_data`;
    2. it covers exactly `pcrs` of the SHA-256 bank;
    3. the event log, and for PCR 10 a beginning of IMA's log, parse and replay to the quoted digest.
    """
    quote = verify_quote(quoted.attest, quoted.signature, ak_public, qualifying_data)  # 1
    if tuple(sorted(quote.selection)) != tuple(sorted(pcrs)):  # 2
        raise EvidenceRefused(
            f"quote covers PCRs {_listed(quote.selection)}, expected {_listed(pcrs)}", check="quote-selection"
        )
    measured = verify_measured_state(  # 3
        quote, quoted.event_log, quoted.preimages, quoted.pcr_values or None, quoted.ima_log
    )
    return ProvedState(measured=measured, quoted=quoted, qualifying_data=qualifying_data)


def _listed(pcrs: Sequence[int] | frozenset[int]) -> str:
    return " ".join(str(index) for index in sorted(pcrs)) or "none"
