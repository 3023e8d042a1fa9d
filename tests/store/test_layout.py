"""Blobs and tags appear whole or not at all, also under interruption and several writers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sealvm.errors import IntegrityRefused, MalformedError, NotFoundError, SealvmError, StorageFault
from sealvm.store.atomic import write_atomic
from sealvm.store.layout import OciLayout

DIGEST = "sha256:" + hashlib.sha256(b"data").hexdigest()


@pytest.fixture
def layout(tmp_path: Path) -> OciLayout:
    return OciLayout.create(tmp_path / "oci")


def files(layout: OciLayout) -> set[str]:
    return {path.name for path in (layout.path / "blobs" / "sha256").iterdir()}


def test_blob_round_trip(layout: OciLayout) -> None:
    stored = layout.put_blob([b"da", b"ta"])
    assert (stored.digest, stored.size) == (DIGEST, 4)
    assert layout.get_blob(DIGEST, 4) == b"data"
    assert layout.read_at(DIGEST, 1, 2) == b"at"
    assert layout.size(DIGEST) == 4


def test_an_unfinished_blob_leaves_nothing(layout: OciLayout) -> None:
    with pytest.raises(KeyboardInterrupt), layout.new_blob() as blob:
        blob.write(b"half")
        raise KeyboardInterrupt
    assert files(layout) == set()


def test_a_transaction_that_fails_forgets_what_it_committed(layout: OciLayout) -> None:
    layout.put_blob(b"data")
    with pytest.raises(KeyboardInterrupt), layout.transaction() as blobs:
        blobs.put_blob(b"new")
        blobs.put_blob(b"data")
        raise KeyboardInterrupt
    assert files(layout) == {DIGEST.removeprefix("sha256:")}


def test_a_killed_writer_is_swept_and_a_living_one_is_not(layout: OciLayout) -> None:
    code = "import os, sys; from pathlib import Path; from sealvm.store.layout import OciLayout;" + (
        "blob = OciLayout.open(Path(sys.argv[1])).new_blob(); blob.write(b'half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(layout.path)], check=False)
    assert len(files(layout)) == 1
    with layout.new_blob() as blob:
        blob.write(b"alive")
        OciLayout.create(layout.path)
        assert len(files(layout)) == 1
        blob.commit()
    assert files(layout) == {hashlib.sha256(b"alive").hexdigest()}


def test_altered_blob_is_refused(layout: OciLayout) -> None:
    layout.put_blob(b"data")
    (layout.path / "blobs" / "sha256" / DIGEST.removeprefix("sha256:")).write_bytes(b"fake")
    with pytest.raises(IntegrityRefused):
        layout.get_blob(DIGEST, 100)


def test_truncated_and_missing_blobs(layout: OciLayout) -> None:
    layout.put_blob(b"data")
    with pytest.raises(IntegrityRefused, match="truncated"):
        layout.read_at(DIGEST, 2, 3)
    with pytest.raises(MalformedError):
        layout.get_blob(DIGEST, 3)
    with pytest.raises(NotFoundError):
        layout.get_blob("sha256:" + "0" * 64, 3)
    for name in ("../../index.json", "sha256:../../../index.json", "sha512:00"):
        with pytest.raises(MalformedError):
            layout.read_at(name, 0, 1)


def test_a_symlink_is_no_blob(layout: OciLayout, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"data")
    (layout.path / "blobs" / "sha256" / DIGEST.removeprefix("sha256:")).symlink_to(tmp_path / "secret")
    with pytest.raises(SealvmError):
        layout.get_blob(DIGEST, 100)


def test_tag_moves_and_the_old_manifest_stays_without_it(layout: OciLayout) -> None:
    first = layout.put_manifest("v1", {"n": 1})
    second = layout.put_manifest("v1", {"n": 2})
    third = layout.put_manifest("v2", {"n": 3})
    assert layout.resolve("v1").digest == second.digest
    assert layout.resolve(first.digest).data == b'{"n":1}'
    assert [manifest.digest for manifest in layout.manifests()] == [third.digest, second.digest, first.digest]
    layout.put_manifest("v1", {"n": 1})
    assert layout.resolve("v1").digest == first.digest
    assert len(list(layout.manifests())) == 3


def test_unknown_tag_names_those_there(layout: OciLayout) -> None:
    layout.put_manifest("v1", {})
    with pytest.raises(NotFoundError) as refusal:
        layout.resolve("v2")
    assert refusal.value.hint == "tags there: v1"


def test_several_writers_do_not_lose_tags(layout: OciLayout) -> None:
    threads = [
        threading.Thread(target=OciLayout.open(layout.path).put_manifest, args=(f"t{number}", {"n": number}))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(layout.manifests())) == 16


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"manifests":1}', b'{"manifests":[1]}', b'{"manifests":[{"digest":"x"}]}',
     b'{"manifests":[{"digest":"sha256:' + b"0" * 64 + b'","annotations":1}]}'],
)  # fmt: skip
def test_malformed_index(layout: OciLayout, content: bytes) -> None:
    (layout.path / "index.json").write_bytes(content)
    with pytest.raises(MalformedError):
        layout.resolve("v1")


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        OciLayout.open(tmp_path / "none")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MalformedError, match="not empty"):
        OciLayout.create(tmp_path)
    with pytest.raises(StorageFault):
        OciLayout.create(tmp_path / "file" / "below")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(MalformedError):
        OciLayout.open(tmp_path / "odd")


def test_it_is_an_oci_image_layout(layout: OciLayout) -> None:
    layout.put_manifest("v1", {"artifactType": "application/x"})
    index = json.loads((layout.path / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    assert index["manifests"][0]["annotations"] == {"org.opencontainers.image.ref.name": "v1"}
    assert json.loads((layout.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


def test_write_atomic(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomic(target, b"one", 0o600)
    write_atomic(target, b"two", 0o600)
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "directory").mkdir()
    with pytest.raises(StorageFault):
        write_atomic(tmp_path / "directory", b"x")
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]
    with pytest.raises(StorageFault):
        write_atomic(tmp_path / "none" / "file", b"x")


def test_a_name_that_looks_like_a_digest_is_not_taken_for_one(layout: OciLayout) -> None:
    old, new = (layout.put_manifest(tag, {"schemaVersion": 2, "config": tag}) for tag in ("old", "new"))
    index = layout.path / "index.json"
    index.write_text(index.read_text().replace('"old"', f'"{new.digest}"'))
    assert layout.resolve(new.digest).digest == new.digest
    assert layout.resolve(old.digest).digest == old.digest


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_blob_that_is_no_file_is_a_fault_at_once(layout: OciLayout, make: Callable[[Path], None]) -> None:
    make(layout.path / "blobs" / "sha256" / DIGEST.removeprefix("sha256:"))
    with pytest.raises(StorageFault, match="not a regular file"):
        layout.get_blob(DIGEST, 4)
