"""A host's configuration: HOST/host.json, one small file that an operator may edit.

Paths in it are absolute, or relative to the host's directory, so that a host's directory can be moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from sealvm.crypto import canonical
from sealvm.host.files import read_limited
from sealvm.statements.encoding import ObjectName, parse_message
from sealvm.store.atomic import write_atomic
from sealvm.tpm.connection import Tpm, open_tpm

CONFIG_LIMIT_BYTES = 16 * 1024
SYSTEM_TCTI = "device:/dev/tpmrm0"
SYSTEM_EVENT_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"
SYSTEM_IMA_LOG = "/sys/kernel/security/ima/binary_runtime_measurements"

EkKind = Literal["", "ecc", "rsa"]
_Text = Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True, slots=True)
class _HostFile:
    """The form of host.json."""

    __pydantic_config__ = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: ObjectName
    tcti: _Text = SYSTEM_TCTI
    eventlog: _Text = SYSTEM_EVENT_LOG
    preimages: _Text = ""
    imalog: _Text = ""
    authority_url: _Text = ""
    ca_file: _Text = ""
    ek_chain: _Text = ""
    ek: EkKind = ""


_ADAPTER: TypeAdapter[_HostFile] = TypeAdapter(_HostFile)


@dataclass(frozen=True, slots=True)
class HostConfig:
    """Where a host finds its TPM, its boot event log and its authority.

    `tcti` is the TPM's address as tss2 writes it. `imalog` is the log of Linux's IMA; where host.json names none it is
    the system's beside the system's boot log, and none beside another one. `preimages` is a JSON file, a list of base64
    strings, `ca_file` the PEM by which the authority's TLS certificate is checked, `ek_chain` a PEM file with the
    intermediates of the EK certificate; each is None where there is none. `ek` is the kind of EK to enroll with where
    the TPM has certificates for both; "" takes what is there, ECC first.
    """

    directory: Path
    name: str
    tcti: str = SYSTEM_TCTI
    eventlog: Path = Path(SYSTEM_EVENT_LOG)
    preimages: Path | None = None
    imalog: Path | None = None
    authority_url: str = ""
    ca_file: Path | None = None
    ek_chain: Path | None = None
    ek: EkKind = ""

    @property
    def of_this_system(self) -> bool:
        """Whether the boot log is the one of the running system, not a file that stands for it."""
        return self.eventlog == Path(SYSTEM_EVENT_LOG)

    @property
    def ima_log(self) -> Path | None:
        """Where IMA's log would be; None for a host that has no such place."""
        return self.imalog or (Path(SYSTEM_IMA_LOG) if self.of_this_system else None)

    @property
    def tpm_lock(self) -> Path:
        """The lock that makes this host's processes take turns at the TPM."""
        return self.directory / "tpm.lock"

    @contextmanager
    def open_tpm(self) -> Iterator[Tpm]:
        """A connection to this host's TPM, in its turn. Raises TpmAwayFault."""
        with open_tpm(self.tcti, self.tpm_lock) as tpm:
            yield tpm


def load_host(directory: Path) -> HostConfig:
    """The configuration in `directory`. NotFoundError when there is none, MalformedError when it is no such file."""
    path = directory / "host.json"
    data = read_limited(path, CONFIG_LIMIT_BYTES, hint="make the host's directory with: sealvm host init")
    file = parse_message(_ADAPTER, canonical.loads(data, str(path), CONFIG_LIMIT_BYTES), str(path))

    def optional(text: str) -> Path | None:
        return directory / text if text else None

    return HostConfig(
        directory=directory,
        name=file.name,
        tcti=file.tcti,
        eventlog=directory / file.eventlog,
        preimages=optional(file.preimages),
        imalog=optional(file.imalog),
        authority_url=file.authority_url,
        ca_file=optional(file.ca_file),
        ek_chain=optional(file.ek_chain),
        ek=file.ek,
    )


def save_host(config: HostConfig) -> None:
    """Write host.json (mode 0600), whole or not at all; makes the directory (mode 0700)."""
    config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        "name": config.name,
        "tcti": config.tcti,
        "authority_url": config.authority_url,
        "ek": config.ek,
    }
    for name in ("eventlog", "preimages", "imalog", "ca_file", "ek_chain"):
        path: Path | None = getattr(config, name)
        inside = path is not None and path.is_relative_to(config.directory)
        fields[name] = "" if path is None else str(path.relative_to(config.directory) if inside else path.absolute())
    write_atomic(config.directory / "host.json", canonical.dumps(fields), 0o600)
