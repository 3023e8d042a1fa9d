"""References to packages as skopeo writes them: `oci:DIR[:TAG]`.

Pure: looks at no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sealvm.errors import InputError

DEFAULT_TAG = "latest"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """One package in one OCI image layout directory."""

    directory: Path
    tag: str

    def __str__(self) -> str:
        return f"oci:{self.directory}:{self.tag}"


def parse_reference(text: str) -> Reference:
    """The directory and tag that `oci:DIR[:TAG]` names; the tag is `latest` when none is given.

    Raises InputError for another transport, a missing directory, or a tag that OCI does not allow. Whether the
    directory exists is not looked at.
    """
    transport, colon, rest = text.partition(":")
    if transport == "docker" and colon:
        raise InputError(
            f"{text}: packages in registries are not supported by this version",
            hint="copy it to a directory first: skopeo copy docker://... oci:DIR:TAG",
        )
    if transport != "oci" or not colon:
        raise InputError(f"{text!r} is no package reference", hint="write oci:DIR or oci:DIR:TAG")
    directory, colon, tag = rest.partition(":")
    if not directory:
        raise InputError(f"{text!r} names no directory", hint="write oci:DIR or oci:DIR:TAG")
    if not colon:
        tag = DEFAULT_TAG
    check_tag(tag)
    return Reference(Path(directory), tag)


def check_tag(tag: str) -> None:
    """Raise InputError unless `tag` is one that OCI allows: at most 128 of letters, digits, `_`, `.` and `-`."""
    if not _TAG.fullmatch(tag):
        raise InputError(f"{tag!r} is no tag", hint="at most 128 letters, digits, '_', '.', '-'; not '.' or '-' first")
