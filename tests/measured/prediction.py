"""A start that no host has made yet, as the authority takes it: computed by `sealvm.attest.predict`."""

from __future__ import annotations

from pathlib import Path

from sealvm.attest.artefacts import DirectKernel, load_options
from sealvm.attest.state import MeasuredState
from sealvm.authority.approve import approve_predicted
from sealvm.authority.local import open_context
from sealvm.lab.measured_host import MEMORY_BYTES, Start
from sealvm.protocol.operator import ApprovalView, ApproveRequest
from sealvm.protocol.trust import Prediction
from tests.attest.logs import encode_event, header


def artefacts_of(start: Start) -> DirectKernel:
    """What QEMU hands to the firmware."""
    return DirectKernel(start.kernel.read_bytes(), start.options, start.initrd.read_bytes(), MEMORY_BYTES)


def prediction_of(state: MeasuredState, start: Start) -> Prediction:
    """A predicted state with a log as a host would record it."""
    events = (encode_event(event.pcr, event.event_type, event.digest, event.data) for event in state.events)
    return Prediction(
        format="sealvm-predicted-state-v1",
        label="Debian with lockdown",
        pcr_values=dict(state.pcr_values),
        event_log=header() + b"".join(events),
        preimages=(load_options(start.cmdline),),
    )


def approve(authority_dir: Path, profile: str, prediction: Prediction) -> list[ApprovalView]:
    """Approve it at the authority, beside the process that serves it; both work on the same database."""
    context = open_context(authority_dir, "https://127.0.0.1", ())
    return approve_predicted(context, "operator test", profile, ApproveRequest(), prediction)
