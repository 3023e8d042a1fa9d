"""What an operator's folder must hold, and what is said when it does not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealvm.client.operator import operator_client, trusted_bundle
from sealvm.crypto.ec import SoftwareSigner, spki_pem
from sealvm.errors import (
    AuthorityAwayFault,
    IntegrityRefused,
    MalformedError,
    NotFoundError,
    RollbackRefused,
    SignatureRefused,
    StorageFault,
    UntrustedRefused,
)
from sealvm.statements.bundle import TrustBundle, sign_bundle

ANCHOR = SoftwareSigner.generate()
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All that an operator needs, of an authority that is not there."""
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "endpoint.json").write_text('{"url": "https://127.0.0.1:1"}')
    (tmp_path / "operator-token").write_text("t" * 43 + "\n")
    (tmp_path / "anchor.pub").write_text(spki_pem(ANCHOR.point))
    return tmp_path


def bundle(signer: SoftwareSigner = ANCHOR, expires: datetime = NOW + timedelta(days=1)) -> bytes:
    return sign_bundle(TrustBundle(3, NOW - timedelta(days=2), expires, (), ()), signer)


def test_no_folder_is_not_found_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no authority is known") as refused:
        operator_client(tmp_path / "nowhere")
    assert "authority init" in refused.value.hint


def test_an_authority_that_is_not_served_is_away(folder: Path) -> None:
    (folder / "endpoint.json").unlink()
    with pytest.raises(AuthorityAwayFault, match="not being served"):
        operator_client(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": 5}', '{"url": "a", "url": "b"}', "x" * 70_000])
def test_an_endpoint_of_another_form_is_malformed(folder: Path, content: str) -> None:
    (folder / "endpoint.json").write_text(content)
    with pytest.raises(MalformedError):
        operator_client(folder)


def test_a_missing_token_is_not_found(folder: Path) -> None:
    (folder / "operator-token").unlink()
    with pytest.raises(NotFoundError, match="operator-token"):
        operator_client(folder)


def test_a_token_that_cannot_be_read_is_a_storage_fault(folder: Path) -> None:
    (folder / "operator-token").unlink()
    (folder / "operator-token").mkdir()
    with pytest.raises(StorageFault, match="operator-token"):
        operator_client(folder)


def test_a_bundle_in_a_file_is_verified_without_the_authority(folder: Path) -> None:
    assert trusted_bundle(folder, bundle()).version == 3


@pytest.mark.parametrize(
    ("envelope", "refusal"),
    [
        (bundle(SoftwareSigner.generate()), UntrustedRefused),
        (bundle(expires=NOW - timedelta(days=1)), RollbackRefused),
        (json.dumps(json.loads(bundle()) | {"signatures": []}).encode(), (MalformedError, SignatureRefused)),
        (b"{}", (MalformedError, IntegrityRefused)),
    ],
    ids=["another signer", "expired", "unsigned", "no envelope"],
)
def test_a_bundle_that_does_not_verify_is_refused(
    folder: Path, envelope: bytes, refusal: type[Exception] | tuple[type[Exception], ...]
) -> None:
    with pytest.raises(refusal):
        trusted_bundle(folder, envelope)


def test_an_anchor_that_is_no_key_is_malformed(folder: Path) -> None:
    (folder / "anchor.pub").write_text("nonsense")
    with pytest.raises(MalformedError):
        trusted_bundle(folder, bundle())
