"""This host's quoted state as a file, for an operator who approves it, or predicts from it, without the network."""

from __future__ import annotations

import secrets

from sealvm.host.bundles import disk_bundle
from sealvm.host.config import HostConfig
from sealvm.host.keyring import Keyring
from sealvm.host.sync import quoted_state
from sealvm.host.unlock import stored_bundle
from sealvm.protocol.enroll import quote_nonce, quoted_pcrs
from sealvm.protocol.messages import NONCE_BYTES
from sealvm.protocol.trust import EVIDENCE_FORMAT, Evidence


def saved_evidence(config: HostConfig) -> Evidence:
    """Quote the PCRs that this host's profiles select, with its boot log. It names a fresh nonce, and holds no secret.

    NotFoundError before enrollment, TpmAwayFault, TpmFault.
    """
    keyring = Keyring(config.directory)
    bundle = disk_bundle(keyring, stored_bundle(keyring))
    selected = {pcr for profile in bundle.profiles for epoch in profile.epochs for pcr in epoch.selection}
    pcrs = quoted_pcrs(selected)
    nonce = secrets.token_bytes(NONCE_BYTES)
    with config.open_tpm() as tpm:
        state = quoted_state(tpm, config, pcrs, quote_nonce("saved-evidence", nonce))
    fields = dict(state)
    return Evidence(format=EVIDENCE_FORMAT, host=config.name, nonce=nonce, pcrs=pcrs, **fields)
