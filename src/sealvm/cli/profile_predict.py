"""`sealvm profile predict`: the state of a host after an update, before any host boots it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealvm.cli.artefacts import artefact_options, read_artefacts
from sealvm.cli.options import json_option
from sealvm.cli.output import emit

if TYPE_CHECKING:
    from sealvm.attest.state import MeasuredState


@click.command()
@click.argument("profile_file", metavar="[PROFILE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--evidence", required=True, type=click.Path(path_type=Path), help="The saved evidence of the host that is updated."
)
@artefact_options
@click.option("--out", type=click.Path(path_type=Path), help="Write the state to a file for `profile approve`.")
@json_option
def predict(profile_file: Path | None, evidence: Path, out: Path | None, **booted: Any) -> None:
    """Compute the PCR values of a host's next boot, from its saved evidence and what it will boot.

    Give --uki, or --kernel with --cmdline. With PROFILE (a YAML file) it says which requirements the new state meets.
    Signs nothing. Firmware, its settings and the partition table are assumed to stay; docs/pcrs.md says what else is.
    """
    from sealvm.attest.evaluate import evaluate, render_evaluation
    from sealvm.attest.predict import predict as predicted_state
    from sealvm.attest.profile import load_profile
    from sealvm.attest.reference import reference_of
    from sealvm.attest.saved import SAVED_BYTES_MAX, load_saved_state
    from sealvm.cli.files import read_limited_file, read_text

    artefacts = read_artefacts(**booted)
    judged = None if profile_file is None else load_profile(read_text(profile_file, "profile"), str(profile_file))
    observed = load_saved_state(read_limited_file(evidence, SAVED_BYTES_MAX, "saved evidence"), str(evidence))
    state = predicted_state(observed, artefacts)
    if out is not None:
        _save(out, state, evidence, booted)
    changed = [pcr for pcr, value in state.pcr_values.items() if observed.pcr_values.get(pcr, value) != value]
    data: dict[str, Any] = {**reference_of(state), "changed": changed}
    lines = [
        f"PCR {pcr:<2}  {value.hex()}{'  changed' if pcr in changed else ''}" for pcr, value in state.pcr_values.items()
    ]
    if judged is not None:
        evaluation = evaluate(judged, state.evidence)
        data["satisfied"] = evaluation.satisfied
        data["requirements"] = [
            {"name": one.name, "says": one.says, "met": one.met, "expected": one.expected, "detail": one.detail}
            for one in evaluation.results
        ]
        lines += ["", *render_evaluation(evaluation)]
    emit(data, lines)


def _save(out: Path, state: MeasuredState, evidence: Path, booted: dict[str, Any]) -> None:
    """The state as `sealvm profile approve --predicted` takes it: its log replays to its PCR values."""
    from sealvm.attest.replayable import replayable
    from sealvm.protocol.trust import PREDICTION_FORMAT, Prediction
    from sealvm.store.atomic import write_atomic

    log, preimages = replayable(state)
    what = booted.get("uki") or booted.get("kernel") or evidence
    prediction = Prediction(
        format=PREDICTION_FORMAT,
        label=f"{Path(what).name} on the firmware of {evidence.name}"[:128],
        pcr_values=dict(state.pcr_values),
        event_log=log,
        preimages=preimages,
    )
    write_atomic(out, prediction.model_dump_json().encode())
