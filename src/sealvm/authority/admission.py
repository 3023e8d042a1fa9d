"""Whether a host that enrolled may still speak to the authority: asked at every request that it signs.

A host whose TPM was barred since, or whose EK root is no longer accepted, gets nothing more: no key, no lease, no
token. What its TPM holds already stays there (docs/threat-model.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from sealvm.authority.ports import Transaction
from sealvm.authority.records import BarRecord, HostRecord, RootRecord
from sealvm.errors import EnrollmentRefused
from sealvm.protocol.tpm_model import Bar, TpmModel, check_not_barred


def check_admitted(tx: Transaction, host: HostRecord) -> None:
    """Return only if the enrolled `host` may take part; EnrollmentRefused.

    1. `tpm-barred`: no bar covers its TPM;
    2. `ek-root`: the root that vouched for its EK is accepted, and as the class that the host has.
    """
    if host.enrolled is None:
        return
    check_not_barred(model_of(host), (bar_of(record) for record in tx.bars()))  # 1
    if not _has_root(host, tx.roots()):  # 2
        raise EnrollmentRefused(
            f"host {host.name}: the root of its EK certificate is no longer accepted as class {host.trust_class}",
            hint="an operator may accept it again with `sealvm authority root add`; then enroll this host again",
            check="ek-root",
        )


def is_admitted(host: HostRecord, bars: Iterable[BarRecord], roots: Iterable[RootRecord]) -> bool:
    """The same without a refusal, for lists; true for a host that is not enrolled."""
    if host.enrolled is None:
        return True
    return not any(bar_of(record).covers(model_of(host)) for record in bars) and _has_root(host, roots)


def model_of(host: HostRecord) -> TpmModel:
    """What the EK certificate of an enrolled host said of its TPM."""
    manufacturer, model, version = host.tpm_model
    return TpmModel(manufacturer, model, version)


def bar_of(record: BarRecord) -> Bar:
    """The bar that a record keeps."""
    return Bar(record.bar_id, record.manufacturer, record.model, record.version, record.before)


def _has_root(host: HostRecord, roots: Iterable[RootRecord]) -> bool:
    return any(root.sha256 == host.ek_root and root.trust_class == host.trust_class for root in roots)
