"""States that hosts were seen in, kept with the evidence that proves them: each can be judged and approved later.

Every verified state of an enrolled host is noted, at enrollment, at synchronisation and from a saved evidence file,
once for each trust class and set of PCR values. Those that no approval covers are the queue (`authority.queue`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sealvm.attest.state import MeasuredState
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.records import HostRecord, ObservedRecord, StateRecord
from sealvm.crypto.labels import label_digest
from sealvm.errors import EvidenceRefused
from sealvm.protocol.messages import QuotedState
from sealvm.protocol.state import ProvedState, prove_state
from sealvm.tcg.imalog import IMA_PCR
from sealvm.tcg.pcr import pcr_digest

STATES_PER_HOST = 64
"""So many unapproved states are kept of one host; the oldest go first. A host can extend PCRs as it likes."""


def note(ctx: Context, tx: Transaction, host: HostRecord, state: ProvedState) -> ObservedRecord:
    """Keep the state `host` has just proved, in place of older evidence of the same state."""
    trust_class, values = host.trust_class or "", dict(state.measured.pcr_values)
    state_id = state_id_of(trust_class, values)
    known = tx.observed(state_id)
    record = ObservedRecord(
        state_id=state_id,
        host=host.name,
        trust_class=trust_class,
        ak_public=host.ak_public,
        qualifying_data=state.qualifying_data,
        quote=state.quoted.attest,
        signature=state.quoted.signature,
        event_log=state.quoted.event_log,
        preimages=state.quoted.preimages,
        pcr_values=values,
        first_seen=known.first_seen if known is not None else ctx.now(),
        last_seen=ctx.now(),
    )
    tx.put_observed(record)
    if known is None:
        _forget_oldest(tx, host.name)
    return record


def of_host(host: HostRecord, record: StateRecord) -> ObservedRecord:
    """A host's newest verified state in the form of an observed one."""
    return ObservedRecord(
        state_id=state_id_of(host.trust_class or "", record.pcr_values),
        host=host.name,
        trust_class=host.trust_class or "",
        ak_public=host.ak_public,
        qualifying_data=record.qualifying_data,
        quote=record.quote,
        signature=record.signature,
        event_log=record.event_log,
        preimages=record.preimages,
        pcr_values=record.pcr_values,
        first_seen=record.verified,
        last_seen=record.verified,
    )


def proved(record: ObservedRecord) -> MeasuredState:
    """The state, verified again: the database is not what vouches for it. EvidenceRefused.

    Without PCR 10: it moves, is part of no state that can be approved, and IMA's log is not kept.
    """
    quoted = QuotedState(
        attest=record.quote,
        signature=record.signature,
        event_log=record.event_log,
        preimages=record.preimages,
        pcr_values=record.pcr_values,
    )
    state = prove_state(quoted, record.ak_public, record.qualifying_data, tuple(record.pcr_values)).measured
    if dict(state.pcr_values) != record.pcr_values:
        raise EvidenceRefused("stored state: its PCR values are not the quoted ones", check="stored-state")
    values = {index: value for index, value in state.pcr_values.items() if index != IMA_PCR}
    return dataclasses.replace(state, pcr_values=values, ima=())


def state_id_of(trust_class: str, values: dict[int, bytes]) -> bytes:
    """The digest that names a state, 32 bytes: L("observed-state", class, index and value of each PCR ascending).

    PCR 10 is left out: it moves while the host stays in its state.
    """
    parts = [bytes([index]) + value for index, value in sorted(values.items()) if index != IMA_PCR]
    return label_digest("observed-state", trust_class.encode(), *parts)


def digest_in(values: Mapping[int, bytes], selection: tuple[int, ...]) -> bytes | None:
    """The digest of the selected PCRs, which is what approvals name; None when one of them was not quoted."""
    return pcr_digest(values, selection) if all(index in values for index in selection) else None


def _forget_oldest(tx: Transaction, host: str) -> None:
    approved = {approval.pcr_digest for approval in tx.approvals()}
    selections = {tuple(record.selection) for record in tx.epochs()}
    unapproved = [
        record
        for record in tx.observed_values(host)
        if not any(digest_in(record.pcr_values, selection) in approved for selection in selections)
    ]
    for record in unapproved[STATES_PER_HOST:]:
        tx.remove_observed(record.state_id)
