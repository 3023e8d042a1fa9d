"""`sealvm package rewrap`: the same package, wrapped to the present epochs."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit


@click.command()
@click.argument("reference")
@authority_option
@json_option
def rewrap(reference: str, authority_dir: Path) -> None:
    """Wrap the package REFERENCE to the present epochs of its profiles. Header, index and packs are not touched.

    The authority does it with the keys in its custody and answers wraps only; no VM is stopped.
    """
    from sealvm.client import trust
    from sealvm.client.operator import operator_client
    from sealvm.package.header import MAX_ENVELOPE_BYTES, header_in_envelope
    from sealvm.package.manifest import build_manifest, parse_manifest
    from sealvm.package.ports import Descriptor
    from sealvm.package.recipients import MAX_RECIPIENTS_BYTES, check_recipients
    from sealvm.protocol.trust import RewrapRequest
    from sealvm.store.layout import OciLayout
    from sealvm.store.reference import parse_reference

    place = parse_reference(reference)
    with OciLayout.open(place.directory) as layout:
        manifest = parse_manifest(layout.resolve(place.tag).data)
        envelope = layout.get_blob(manifest.header.digest, MAX_ENVELOPE_BYTES)
        recipients = layout.get_blob(manifest.recipients.digest, MAX_RECIPIENTS_BYTES)
        with operator_client(authority_dir) as client:
            view = trust.rewrap(client, RewrapRequest(envelope=envelope, recipients=recipients))
        header = header_in_envelope(envelope, view.package.hex())
        check_recipients(view.recipients, header)
        with layout.transaction() as blobs:
            stored = blobs.put_blob(view.recipients)
            head = Descriptor(manifest.header.digest, manifest.header.size)
            layout.put_manifest(place.tag, build_manifest(header, head, stored))
            blobs.keep()
    data = {"package": view.package.hex(), "before": list(view.before), "after": list(view.after)}
    emit(
        data,
        [
            f"package {view.package.hex()} wrapped anew",
            f"  before: {', '.join(view.before)}",
            f"  now:    {', '.join(view.after)}",
        ],
    )
