"""The recipe of the measured host's system."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from sealvm.errors import EnvironmentFault
from sealvm.lab import measured_image
from sealvm.lab.measured_host import Start, write_payload
from sealvm.lab.measured_image import measured_system


def test_what_the_host_parts_need_is_copied_and_what_only_developers_need_is_not() -> None:
    names = {found.metadata["Name"].lower() for found in measured_image._distributions()}
    assert names >= {"tpm2-pytss", "cryptography", "cffi", "pydantic", "httpx", "click"}
    assert not names & {"sealvm", "pytest", "mypy", "fastapi", "sqlalchemy"}


def test_files_keep_their_place_and_scripts_stay_behind(tmp_path: Path) -> None:
    (click,) = (found for found in measured_image._distributions() if found.metadata["Name"] == "click")
    measured_image._copy_files(click, tmp_path / "target")
    assert (tmp_path / "target/click/core.py").read_text() == Path(str(click.locate_file("click/core.py"))).read_text()
    assert {entry.name.split("-")[0] for entry in (tmp_path / "target").iterdir()} == {"click"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def test_another_recipe_is_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    before = measured_image._recipe_digest()
    assert before == measured_image._recipe_digest()
    monkeypatch.setitem(measured_image._FILES, "etc/motd", "hello")
    assert measured_image._recipe_digest() != before


def test_only_root_installs_it_and_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EnvironmentFault, match="only root"):
        measured_system(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_the_second_disk_holds_code_agent_and_the_callers_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(b"in a folder")
    write_payload(tmp_path / "payload.tar", {"ticket": b"secret", "folder": tmp_path / "folder"})
    with tarfile.open(tmp_path / "payload.tar") as archive:
        assert {"code/sealvm/errors.py", "agent.py", "ticket", "folder/file"} <= set(archive.getnames())
        assert archive.getmember("ticket").mode == 0o600
    assert (tmp_path / "payload.tar").stat().st_size % 512 == 0  # QEMU serves whole sectors


def test_qemu_tells_the_kernel_which_initrd_it_has() -> None:
    assert Start(Path("k"), Path("i"), "ro quiet").cmdline == "ro quiet initrd=initrd"
