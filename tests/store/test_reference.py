"""References are read as skopeo reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealvm.errors import InputError
from sealvm.store.reference import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "directory", "tag"),
    [("oci:demo", "demo", "latest"), ("oci:/a/b:v1.2", "/a/b", "v1.2"), ("oci:.:_x", ".", "_x")],
)
def test_good(text: str, directory: str, tag: str) -> None:
    reference = parse_reference(text)
    assert reference == Reference(Path(directory), tag)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text", ["", "demo", "oci:", "oci::v1", "oci:a:", "oci:a:b:c", "oci:a:-x", "oci:a:" + "x" * 129, "docker://h/n:t"]
)
def test_bad(text: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_reference(text)
    assert refusal.value.hint
