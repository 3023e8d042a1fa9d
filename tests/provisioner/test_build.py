"""A build makes one whole, tagged package, or none; what it makes reads back as the image."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import ImageError, InputError, MalformedError, NotFoundError, SealvmError
from sealvm.package.chunks import Compression
from sealvm.package.expression import any_of
from sealvm.package.open import open_package
from sealvm.package.reader import PackageReader
from sealvm.package.settings import Settings
from sealvm.provisioner.build import BuildOptions, BuildReport, build_package
from sealvm.store.layout import OciLayout
from sealvm.store.reference import Reference
from tests.package.memory import SoftwareKeys

MIB = 1 << 20
SIGNER = SoftwareSigner.generate()
KEYS = SoftwareKeys()
LEAF = KEYS.add("p")


def build(image: Path, directory: Path, tag: str = "v1", **changes: object) -> BuildReport:
    options = BuildOptions(**changes)  # type: ignore[arg-type]
    return build_package(
        image, Reference(directory, tag), expression=any_of(["p"]), profile_keys=[LEAF], signer=SIGNER, options=options
    )


def read_back(directory: Path, tag: str = "v1") -> PackageReader:
    layout = OciLayout.open(directory)
    package = open_package(layout, tag, {SIGNER.point: None})
    return PackageReader(package.header, package.unwrap(KEYS), layout)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """5 MiB and a bit: noise, a hole, text, explicit zeros, and a last chunk that is not whole."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.write(os.urandom(MIB))
        file.seek(3 * MIB)
        file.write(b"TENANT-SECRET-7f3a" * 10000)
        file.seek(4 * MIB)
        file.write(bytes(MIB))
        file.write(os.urandom(MIB + 1536))
        file.truncate(-(-file.tell() // 512) * 512)
    return path


@pytest.mark.parametrize("compression", [Compression(0), Compression(3)])
@pytest.mark.parametrize("chunk_bytes", [4096, 128 * 1024, MIB])
def test_reads_back_as_the_image(image: Path, tmp_path: Path, chunk_bytes: int, compression: Compression) -> None:
    report = build(image, tmp_path / "oci", chunk_bytes=chunk_bytes, compression=compression)
    content = image.read_bytes()
    read = read_back(tmp_path / "oci")
    assert report.disk_bytes == read.disk_bytes == len(content)
    assert read.read_at(0, len(content)) == content
    assert report.used_bytes < len(content)


def test_nothing_of_the_guest_is_in_the_clear(image: Path, tmp_path: Path) -> None:
    build(image, tmp_path / "oci", compression=Compression(0))
    for path in (tmp_path / "oci").rglob("*"):
        assert not path.is_file() or b"TENANT-SECRET" not in path.read_bytes()


def test_two_builds_share_no_key_and_no_byte(image: Path, tmp_path: Path) -> None:
    first, second = build(image, tmp_path / "oci", "a"), build(image, tmp_path / "oci", "b")
    assert first.lineage != second.lineage
    layout = OciLayout.open(tmp_path / "oci")
    packs = [open_package(layout, tag, {SIGNER.point: None}).header.packs[0].digest for tag in "ab"]
    assert packs[0] != packs[1]


def test_report_settings_and_lineage(image: Path, tmp_path: Path) -> None:
    settings = Settings(firmware="uefi", min_memory_mib=1024)
    report = build(image, tmp_path / "oci", lineage=bytes(range(16)), version=7, settings=settings)
    package = open_package(OciLayout.open(tmp_path / "oci"), "v1", {SIGNER.point: None})
    assert package.header.settings == settings
    assert (package.header.version, package.header.lineage) == (7, bytes(range(16)))
    assert report.header_digest == package.header_digest
    assert report.recipients_bytes == len(package.recipients) < 400


def test_progress_ascends_to_the_end(image: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_package(
        image,
        Reference(tmp_path / "oci", "v1"),
        expression=any_of(["p"]),
        profile_keys=[LEAF],
        signer=SIGNER,
        progress=lambda done, total: seen.append((done, total)),
    )
    size = image.stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


def test_a_large_sparse_image_costs_little(tmp_path: Path) -> None:
    image = tmp_path / "sparse.raw"
    with image.open("wb") as file:
        file.truncate(64 << 30)
        file.seek(40 << 30)
        file.write(b"here")
    report = build(image, tmp_path / "oci")
    assert report.stored_bytes < 64 * 1024
    read = read_back(tmp_path / "oci")
    assert read.read_at(40 << 30, 4) == b"here"
    assert sum(length for _, length, zero in read.extents(0, read.disk_bytes) if not zero) == report.used_bytes


def bad_images(tmp_path: Path) -> dict[str, Path]:
    for name, content in {"empty": b"", "odd": b"x" * 513, "qcow2": b"QFI\xfb" + bytes(508)}.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in ("empty", "odd", "qcow2", "missing")} | {
        "directory": tmp_path,
        "device": Path("/dev/null"),
    }


@pytest.mark.parametrize("kind", ["empty", "odd", "qcow2", "missing", "directory", "device"])
def test_unusable_images(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ImageError, match=kind if kind != "device" else "null"):
        build(bad_images(tmp_path)[kind], tmp_path / "oci")
    assert not (tmp_path / "oci").exists()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vhdx", "vdi", "qed"])
def test_what_qemu_img_makes_is_recognized(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"disk.{kind}"
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, path, "1M"], check=True)
    with pytest.raises(ImageError, match=f"is {kind}") as refusal:
        build(path, tmp_path / "oci")
    assert "qemu-img convert" in refusal.value.hint


def test_an_image_that_changes_is_refused(image: Path, tmp_path: Path) -> None:
    def touch(done: int, total: int) -> None:
        os.utime(image)

    with pytest.raises(ImageError, match="changed"):
        build_package(
            image,
            Reference(tmp_path / "oci", "v1"),
            expression=any_of(["p"]),
            profile_keys=[LEAF],
            signer=SIGNER,
            progress=touch,
        )
    assert leftovers(tmp_path / "oci") == []


def test_refusals_before_any_work(image: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'q'"):
        build_package(
            image, Reference(tmp_path / "oci", "v1"), expression=any_of(["q"]), profile_keys=[LEAF], signer=SIGNER
        )
    for chunk_bytes in (1000, 2048, 2 * MIB, 3 * 4096):
        with pytest.raises(MalformedError, match="chunk size"):
            build(image, tmp_path / "oci", chunk_bytes=chunk_bytes)
    assert not (tmp_path / "oci").exists()


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in (directory / "blobs" / "sha256").iterdir()]


def test_interrupted_in_the_middle_leaves_nothing(image: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_package(
            image,
            Reference(tmp_path / "oci", "v1"),
            expression=any_of(["p"]),
            profile_keys=[LEAF],
            signer=SIGNER,
            progress=interrupt,
        )
    assert leftovers(tmp_path / "oci") == []
    with pytest.raises(NotFoundError):
        OciLayout.open(tmp_path / "oci").resolve("v1")
    build(image, tmp_path / "oci")
    read_back(tmp_path / "oci")


def test_a_signer_that_fails_leaves_nothing(image: Path, tmp_path: Path) -> None:
    class Failing(SoftwareSigner):
        def sign_digest(self, digest: bytes) -> bytes:
            raise SealvmError("the token was pulled out")

    with pytest.raises(SealvmError, match="pulled out"):
        build_package(
            image,
            Reference(tmp_path / "oci", "v1"),
            expression=any_of(["p"]),
            profile_keys=[LEAF],
            signer=Failing.generate(),
        )
    assert leftovers(tmp_path / "oci") in ([], ["44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"])


KILLED = """
import sys
from pathlib import Path
from sealvm.crypto.ec import SoftwareSigner
from sealvm.package.expression import any_of
from sealvm.package.recipients import ProfileKeyRef
from sealvm.provisioner.build import build_package
from sealvm.store.reference import Reference
signer = SoftwareSigner.generate()
build_package(Path(sys.argv[1]), Reference(Path(sys.argv[2]), "v1"), expression=any_of(["p"]),
    profile_keys=[ProfileKeyRef("p", 1, "", signer.point)], signer=signer,
    progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_killed_at_any_moment_never_tags_a_half_package(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(os.urandom(48 * MIB))
    chance = random.Random(1)
    for round_number in range(6):
        directory = tmp_path / f"oci{round_number}"
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(image), str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        layout = OciLayout.open(directory)
        for manifest in layout.manifests():  # it was quicker than the signal: then it is whole
            assert manifest.data
            return
        build(image, directory)
        assert not [name for name in leftovers(directory) if name.startswith(".partial")]
        read_back(directory)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
def test_skopeo_copies_it_unchanged(image: Path, tmp_path: Path) -> None:
    report = build(image, tmp_path / "oci")
    source, target = f"oci:{tmp_path}/oci:v1", f"oci:{tmp_path}/copy:moved"
    subprocess.run(["skopeo", "copy", "-q", source, target], check=True)
    package = open_package(OciLayout.open(tmp_path / "copy"), "moved", {SIGNER.point: None})
    assert package.manifest_digest == report.manifest_digest
    assert package.header_digest == report.header_digest
    content = image.read_bytes()
    assert read_back(tmp_path / "copy", "moved").read_at(0, len(content)) == content
    inspected = subprocess.run(["skopeo", "inspect", "--raw", target], check=True, capture_output=True).stdout
    assert inspected == OciLayout.open(tmp_path / "oci").resolve("v1").data
