from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import MalformedError, NotFoundError
from sealvm.host.keyring import Anchor, HostIdentity, Keyring
from sealvm.tpm.identity import HostIdentityBlobs
from sealvm.tpm.profile_key import SealedKey

BLOBS = HostIdentityBlobs(0x01C00016, *(bytes([n]) * 100 for n in range(7)))
KEY = SealedKey("measured-kernel", 1, "", "standing", b"p" * 122, b"b" * 126)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "host")


def test_empty_directory_is_not_enrolled(keyring: Keyring) -> None:
    assert not keyring.enrolled
    assert keyring.keys() == ()
    for read in (keyring.identity, keyring.anchor, keyring.bundle):
        with pytest.raises(NotFoundError) as caught:
            read()
        assert "enroll" in caught.value.hint


def test_identity_and_anchor_are_kept(keyring: Keyring) -> None:
    identity = HostIdentity(BLOBS, b"\x00\x0b" + bytes(32), "host-1")
    anchor = Anchor(SoftwareSigner.generate().point, 7)
    keyring.save_identity(identity)
    keyring.save_anchor(anchor)
    keyring.save_bundle(b"envelope")
    assert keyring.enrolled
    assert (keyring.identity(), keyring.anchor(), keyring.bundle()) == (identity, anchor, b"envelope")


def test_keys_are_kept_apart_by_profile_epoch_and_cell(keyring: Keyring) -> None:
    keys = (KEY, replace(KEY, epoch=2), replace(KEY, cell="rack-1"), replace(KEY, profile="other"))
    for key in keys:
        keyring.save_key(key)
    assert set(keyring.keys()) == set(keys)
    assert keyring.key("measured-kernel", 1, "rack-1") == keys[2]
    keyring.remove_key("measured-kernel", 2, "")
    keyring.remove_key("measured-kernel", 2, "")
    assert not keyring.holds("measured-kernel", 2, "")
    assert keyring.holds("measured-kernel", 1, "")


def test_key_is_replaced_in_place(keyring: Keyring) -> None:
    keyring.save_key(KEY)
    keyring.save_key(replace(KEY, private=b"n" * 126))
    assert keyring.keys() == (replace(KEY, private=b"n" * 126),)


def test_files_are_readable_by_their_owner_only(keyring: Keyring) -> None:
    keyring.save_key(KEY)
    keyring.save_identity(HostIdentity(BLOBS, bytes(34)))
    keyring.save_bundle(b"envelope")
    for path in keyring.directory.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("name", ["../identity", "a/b", "a.b", "A", "a\0b"])
def test_names_do_not_leave_the_directory(keyring: Keyring, name: str) -> None:
    for ask in (lambda: keyring.holds(name, 1, ""), lambda: keyring.holds("p", 1, name)):
        with pytest.raises(NotFoundError):
            ask()


def test_key_that_is_not_there(keyring: Keyring) -> None:
    with pytest.raises(NotFoundError, match=r"measured-kernel\.3\.json"):
        keyring.key("measured-kernel", 3, "")


def test_key_under_another_keys_name_is_malformed(keyring: Keyring) -> None:
    keyring.save_key(KEY)
    file = keyring.directory / "keys" / "measured-kernel.1.json"
    file.rename(file.with_name("measured-kernel.2.json"))
    with pytest.raises(MalformedError, match=r"belongs into keys/measured-kernel\.1\.json"):
        keyring.key("measured-kernel", 2, "")


@pytest.mark.parametrize(
    "change",
    [{"private": ""}, {"private": "AAAA" * 1000}, {"private": "no base64!"}, {"epoch": 0}, {"epoch": "1"}, {"more": 1}],
)
def test_damaged_key_file_is_malformed(keyring: Keyring, change: dict[str, object]) -> None:
    keyring.save_key(KEY)
    file = keyring.directory / "keys" / "measured-kernel.1.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(MalformedError, match=r"measured-kernel\.1\.json"):
        keyring.key("measured-kernel", 1, "")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"x" * (64 * 1024 + 1)])
def test_damaged_identity_is_malformed(keyring: Keyring, data: bytes) -> None:
    keyring.save_identity(HostIdentity(BLOBS, bytes(34)))
    (keyring.directory / "identity.json").write_bytes(data)
    with pytest.raises(MalformedError, match=r"identity\.json"):
        keyring.identity()
