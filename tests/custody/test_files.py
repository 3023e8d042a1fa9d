"""Keys in files: they come back, do not mix kinds, and every altered file or credential is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sealvm.crypto.ec import SoftwareSigner, verify_digest
from sealvm.custody.files import FileCustody
from sealvm.errors import (
    ConflictError,
    EnvironmentFault,
    InputError,
    IntegrityRefused,
    MalformedError,
    NotFoundError,
    SealvmError,
    StorageFault,
)

DIGEST = hashlib.sha256(b"x").digest()


@pytest.fixture
def custody(tmp_path: Path) -> FileCustody:
    return FileCustody.initialise(tmp_path / "keys", tmp_path / "credential")


def test_signer_survives_reopening(custody: FileCustody, tmp_path: Path) -> None:
    made = custody.create_signer("approver")
    again = FileCustody(tmp_path / "keys", tmp_path / "credential").signer("approver")
    assert again.point == made.point
    verify_digest(made.point, DIGEST, again.sign_digest(DIGEST))


def test_scalar_is_the_private_half_of_its_point(custody: FileCustody) -> None:
    point = custody.create_scalar("profile.web.1")
    assert SoftwareSigner.from_scalar(custody.scalar("profile.web.1")).point == point


def test_files_are_private_and_hold_no_scalar(custody: FileCustody, tmp_path: Path) -> None:
    custody.create_scalar("a")
    scalar = custody.scalar("a").reveal()
    for path in (tmp_path / "credential", tmp_path / "keys" / "a.key"):
        assert path.stat().st_mode & 0o077 == 0
        assert scalar not in path.read_bytes()
        assert scalar.hex() not in path.read_text(errors="replace")
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    assert not list((tmp_path / "keys").glob(".*"))


def test_kinds_do_not_mix(custody: FileCustody) -> None:
    custody.create_signer("approver")
    custody.create_scalar("profile")
    with pytest.raises(IntegrityRefused, match="expected sealvm-custody-v1 scalar"):
        custody.scalar("approver")
    with pytest.raises(IntegrityRefused, match="expected sealvm-custody-v1 signer"):
        custody.signer("profile")


def test_an_existing_name_is_kept(custody: FileCustody) -> None:
    point = custody.create_scalar("a")
    with pytest.raises(ConflictError):
        custody.create_scalar("a")
    assert SoftwareSigner.from_scalar(custody.scalar("a")).point == point


def test_a_missing_name(custody: FileCustody) -> None:
    with pytest.raises(NotFoundError, match="custody key nobody"):
        custody.signer("nobody")


@pytest.mark.parametrize("name", ["", "A", "../a", "a/b", "a..b", ".a", "a" * 129, "a\n", "ä"])
def test_names_that_are_none(custody: FileCustody, name: str) -> None:
    with pytest.raises(InputError):
        custody.create_scalar(name)


def _flip(field: str) -> Callable[[dict[str, str]], dict[str, str]]:
    def change(body: dict[str, str]) -> dict[str, str]:
        value = bytearray.fromhex(body[field])
        value[-1] ^= 1
        return body | {field: value.hex()}

    return change


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (_flip("wrapped"), IntegrityRefused),
        (_flip("nonce"), IntegrityRefused),
        (_flip("point"), IntegrityRefused),
        (lambda body: body | {"kind": "signer"}, IntegrityRefused),
        (lambda body: body | {"name": "b"}, IntegrityRefused),
        (lambda body: body | {"nonce": "zz"}, MalformedError),
        (lambda body: body | {"nonce": ""}, MalformedError),
        (lambda body: body | {"more": "x"}, MalformedError),
        (lambda body: body | {"point": 7}, MalformedError),
        (lambda body: [body], MalformedError),
        (lambda body: body | {"wrapped": "00" * 4096}, MalformedError),
    ],
)
def test_an_altered_file(
    custody: FileCustody, tmp_path: Path, change: Callable[[dict[str, str]], object], refusal: type[SealvmError]
) -> None:
    custody.create_scalar("a")
    path = tmp_path / "keys" / "a.key"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(refusal, match="custody key a"):
        custody.scalar("a")


def test_a_renamed_file(custody: FileCustody, tmp_path: Path) -> None:
    custody.create_scalar("a")
    (tmp_path / "keys" / "a.key").rename(tmp_path / "keys" / "b.key")
    with pytest.raises(IntegrityRefused):
        custody.scalar("b")


def test_another_credential(custody: FileCustody, tmp_path: Path) -> None:
    custody.create_scalar("a")
    (tmp_path / "credential").write_bytes(bytes(32))
    with pytest.raises(IntegrityRefused, match="another credential"):
        FileCustody(tmp_path / "keys", tmp_path / "credential").scalar("a")


def test_bad_credentials(custody: FileCustody, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        FileCustody(tmp_path / "keys", tmp_path / "nothing")
    (tmp_path / "credential").write_bytes(bytes(31))
    with pytest.raises(MalformedError, match="31 bytes"):
        FileCustody(tmp_path / "keys", tmp_path / "credential")
    (tmp_path / "credential").write_bytes(bytes(32))
    (tmp_path / "credential").chmod(0o640)
    with pytest.raises(EnvironmentFault, match="0640"):
        FileCustody(tmp_path / "keys", tmp_path / "credential")


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFault):
        FileCustody.initialise(tmp_path / "file" / "keys", tmp_path / "credential")


def test_initialise_keeps_what_is_there(custody: FileCustody, tmp_path: Path) -> None:
    point = custody.create_scalar("a")
    again = FileCustody.initialise(tmp_path / "keys", tmp_path / "credential")
    assert SoftwareSigner.from_scalar(again.scalar("a")).point == point
