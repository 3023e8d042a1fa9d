"""The provisioner's key lies encrypted in a file only its owner reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealvm.crypto.ec import point_from_pem
from sealvm.errors import ConflictError, MalformedError, NotFoundError, StorageFault
from sealvm.provisioner.keys import create_provisioner_key, load_provisioner_key


def test_round_trip(tmp_path: Path) -> None:
    made = create_provisioner_key(tmp_path / "p")
    assert load_provisioner_key(tmp_path / "p").point == made.point
    assert point_from_pem((tmp_path / "p" / "provisioner.pub").read_bytes()) == made.point
    for name in ("provisioner.pem", "credential"):
        assert (tmp_path / "p" / name).stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in (tmp_path / "p" / "provisioner.pem").read_bytes()


def test_an_existing_key_is_not_replaced(tmp_path: Path) -> None:
    made = create_provisioner_key(tmp_path)
    with pytest.raises(ConflictError):
        create_provisioner_key(tmp_path)
    assert load_provisioner_key(tmp_path).point == made.point


def test_credential_of_ones_own(tmp_path: Path) -> None:
    credential = tmp_path / "credential-elsewhere"
    with pytest.raises(NotFoundError):
        create_provisioner_key(tmp_path / "p", credential)
    credential.write_text("a long passphrase\n")
    made = create_provisioner_key(tmp_path / "p", credential)
    assert load_provisioner_key(tmp_path / "p", credential).point == made.point
    assert not (tmp_path / "p" / "credential").exists()
    credential.write_text("another")
    with pytest.raises(MalformedError):
        load_provisioner_key(tmp_path / "p", credential)
    credential.write_text("\n")
    with pytest.raises(MalformedError, match="empty"):
        load_provisioner_key(tmp_path / "p", credential)


def test_missing_and_unusable(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as refusal:
        load_provisioner_key(tmp_path)
    assert "provisioner init" in refusal.value.hint
    (tmp_path / "provisioner.pem").write_bytes(b"x" * 20000)
    with pytest.raises(MalformedError):
        load_provisioner_key(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFault):
        create_provisioner_key(tmp_path / "file" / "below")
