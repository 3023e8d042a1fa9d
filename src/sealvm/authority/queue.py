"""The queue: verified states that a profile accepts the TPMs of, and that no approval of it covers."""

from __future__ import annotations

from dataclasses import asdict

from sealvm.authority import audit, candidates, observed
from sealvm.authority.candidates import from_observed, requirement_view
from sealvm.authority.epochs import cells_of, newest, present
from sealvm.authority.observed import digest_in
from sealvm.authority.ports import Context, Transaction
from sealvm.authority.profiles import required_profile
from sealvm.authority.records import ObservedRecord, ProfileRecord
from sealvm.errors import NotFoundError, Refusal
from sealvm.protocol.enroll import quote_nonce
from sealvm.protocol.operator import DifferenceView
from sealvm.protocol.state import prove_state
from sealvm.protocol.trust import Evidence, EvidenceView, QueueEntry

ENTRIES_LIMIT = 256


def queue(ctx: Context, name: str | None) -> list[QueueEntry]:
    """The states waiting for a profile, or for all: the newest first, at most 256 a profile, each judged now."""
    with ctx.store.read() as tx:
        profiles = list(tx.profiles()) if name is None else [required_profile(tx, name)]
        return [entry for profile in profiles for entry in _entries(tx, profile)]


def add_evidence(ctx: Context, actor: str, evidence: Evidence) -> EvidenceView:
    """Take a host's saved evidence into the observed states, after these checks; EvidenceRefused names the one.

    1. The host is enrolled.
    2. The quote is its AK's, over the nonce in the file and the PCRs that hosts quote, and the log replays.

    It proves that this TPM was in that state at some time: the host's newest verified state stays what it was.
    """
    with ctx.store.read() as tx:
        host = tx.host(evidence.host)
    if host is None or host.enrolled is None:  # 1
        raise NotFoundError(f"host {evidence.host} is not enrolled", hint="`sealvm host list` shows those that are")
    nonce = quote_nonce("saved-evidence", evidence.nonce)
    state = prove_state(evidence, host.ak_public, nonce, evidence.pcrs)  # 2
    with ctx.store.write() as tx:
        record = observed.note(ctx, tx, host, state)
        events = len(state.measured.events)
        audit.record(ctx, tx, actor, audit.Action.EVIDENCE_STORED, host.name, events=events)
        digests: dict[str, bytes] = {}
        for profile in tx.profiles():
            selection = newest(present(tx, profile.name), "").selection
            digest = digest_in(record.pcr_values, selection)
            if digest is not None and record.trust_class in profile.trust:
                digests[profile.name] = digest
    return EvidenceView(host=host.name, events=events, profiles=digests)


def _entries(tx: Transaction, profile: ProfileRecord) -> list[QueueEntry]:
    epochs = present(tx, profile.name)
    heads = [newest(epochs, cell) for cell in cells_of(epochs)]
    approved = {(record.key, record.pcr_digest) for record in tx.approvals(profile.name)}
    waiting: dict[bytes, ObservedRecord] = {}
    for record in tx.observed_values():
        if record.trust_class not in profile.trust:
            continue
        for head in heads:
            digest = digest_in(record.pcr_values, head.selection)
            if digest is not None and (head.key, digest) not in approved:
                waiting.setdefault(digest, record)
    found = (_entry(tx, profile, digest, record) for digest, record in list(waiting.items())[:ENTRIES_LIMIT])
    return [entry for entry in found if entry is not None]


def _entry(tx: Transaction, profile: ProfileRecord, digest: bytes, light: ObservedRecord) -> QueueEntry | None:
    """One entry; None for a state whose evidence does not verify any more, or lacks a PCR of the profile."""
    record = tx.observed(light.state_id) or light
    try:
        candidate = from_observed(profile, record)
    except Refusal:
        return None
    head = newest(present(tx, profile.name), "")
    values = tx.pcr_values()
    before = [approval for approval in tx.approvals(profile.name) if approval.key == head.key]
    return QueueEntry(
        profile=profile.name,
        pcr_digest=digest,
        host=record.host,
        hosts_in_it=tuple(name for name, found in sorted(values.items()) if digest_in(found, head.selection) == digest),
        trust_class=record.trust_class,
        first_seen=record.first_seen,
        last_seen=record.last_seen,
        satisfied=candidate.evaluation.satisfied,
        withdrawn=any(withdrawal.pcr_digest == digest for withdrawal in tx.withdrawals(profile.name)),
        requirements=tuple(requirement_view(result) for result in candidate.evaluation.results),
        differences=tuple(DifferenceView(**asdict(d)) for d in candidates.differences(profile, before, candidate)),
    )
