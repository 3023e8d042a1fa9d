"""Custody in a directory of files, each key wrapped under a credential file (the default).

One JSON file a key, `NAME.key`, mode 0600:

    {"format": "sealvm-custody-v1", "name": ..., "kind": "signer" | "scalar", "point": hex, "nonce": hex, "wrapped":
    hex}

`wrapped` is AES-256-GCM of the 32-byte scalar under HKDF(credential, "custody-file", name, kind), nonce 12 random
bytes, AAD the label of format, name, kind and point. So a file cannot be renamed, change kind or show another public
point. The credential file holds 32 random bytes, mode 0600; systemd can deliver it (`LoadCredential=`). It and the
directory together are the keys: keep their backups apart.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealvm.crypto import canonical
from sealvm.crypto.ec import Signer, SoftwareSigner
from sealvm.crypto.kdf import hkdf
from sealvm.crypto.labels import label_bytes
from sealvm.custody.base import checked_key_name
from sealvm.errors import (
    ConflictError,
    EnvironmentFault,
    IntegrityRefused,
    MalformedError,
    NotFoundError,
    StorageFault,
)
from sealvm.secret import Secret

FORMAT = "sealvm-custody-v1"
CREDENTIAL_BYTES = 32
KEY_FILE_LIMIT = 4096
NONCE_BYTES = 12
FIELDS = {"format", "name", "kind", "point", "nonce", "wrapped"}

Kind = Literal["signer", "scalar"]


class FileCustody:
    """Keys in `directory`, wrapped under the credential in `credential_file`. Implements custody.base.Custody."""

    def __init__(self, directory: Path, credential_file: Path) -> None:
        self._directory = directory
        self._credential = _read_credential(credential_file)

    @classmethod
    def initialise(cls, directory: Path, credential_file: Path) -> FileCustody:
        """Make the directory (0700) and a fresh credential (0600) unless they exist, and open them."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFault(f"custody directory {directory} cannot be made: {error.strerror}") from error
        if not credential_file.exists():
            _write_new(credential_file, secrets.token_bytes(CREDENTIAL_BYTES))
        return cls(directory, credential_file)

    def create_signer(self, name: str) -> Signer:
        """See Custody."""
        signer = SoftwareSigner.generate()
        self._write(name, "signer", signer)
        return signer

    def signer(self, name: str) -> Signer:
        """See Custody."""
        return SoftwareSigner.from_scalar(self._read(name, "signer"))

    def create_scalar(self, name: str) -> bytes:
        """See Custody."""
        key = SoftwareSigner.generate()
        self._write(name, "scalar", key)
        return key.point

    def scalar(self, name: str) -> Secret:
        """See Custody."""
        return self._read(name, "scalar")

    def _path(self, name: str) -> Path:
        return self._directory / f"{checked_key_name(name)}.key"

    def _wrapping(self, name: str, kind: Kind) -> AESGCM:
        return AESGCM(hkdf(self._credential, "custody-file", name.encode(), kind.encode()).reveal())

    def _write(self, name: str, kind: Kind, key: SoftwareSigner) -> None:
        path = self._path(name)
        nonce = secrets.token_bytes(NONCE_BYTES)
        wrapped = self._wrapping(name, kind).encrypt(nonce, key.scalar().reveal(), _aad(name, kind, key.point))
        body = {
            "format": FORMAT,
            "name": name,
            "kind": kind,
            "point": key.point.hex(),
            "nonce": nonce.hex(),
            "wrapped": wrapped.hex(),
        }
        _write_new(path, json.dumps(body, indent=1).encode())

    def _read(self, name: str, kind: Kind) -> Secret:
        path = self._path(name)
        body = _parse_key_file(_read_limited(path, f"custody key {name}"), name)
        if (body["format"], body["name"], body["kind"]) != (FORMAT, name, kind):
            raise IntegrityRefused(
                f"custody key {name}: expected {FORMAT} {kind} {name}, "
                f"found {body['format']} {body['kind']} {body['name']}"
            )
        try:
            point, nonce, wrapped = (bytes.fromhex(body[field]) for field in ("point", "nonce", "wrapped"))
            scalar = Secret(self._wrapping(name, kind).decrypt(nonce, wrapped, _aad(name, kind, point)))
        except InvalidTag as error:
            raise IntegrityRefused(
                f"custody key {name} does not open: its file was changed, or it was made under another credential",
                hint="restore the key file and the credential from the same backup",
            ) from error
        except ValueError as error:
            raise MalformedError(f"custody key {name}: fields are not hex of the right length") from error
        return scalar


def _aad(name: str, kind: Kind, point: bytes) -> bytes:
    return label_bytes("custody-file-aad", FORMAT.encode(), name.encode(), kind.encode(), point)


def _parse_key_file(data: bytes, name: str) -> dict[str, str]:
    body = canonical.loads(data, f"custody key {name}", KEY_FILE_LIMIT)
    if not isinstance(body, dict) or set(body) != FIELDS or not all(isinstance(value, str) for value in body.values()):
        raise MalformedError(f"custody key {name}: expected the text fields {', '.join(sorted(FIELDS))}")
    return body


def _read_credential(path: Path) -> Secret:
    data = _read_limited(path, f"custody credential {path}")
    if len(data) != CREDENTIAL_BYTES:
        raise MalformedError(f"custody credential {path} has {len(data)} bytes, expected {CREDENTIAL_BYTES}")
    if path.stat().st_mode & 0o077:
        raise EnvironmentFault(
            f"custody credential {path} can be read by others (mode {path.stat().st_mode & 0o777:04o}, expected 0600)",
            hint=f"chmod 600 {path}, and consider the keys it protects as known to those others",
        )
    return Secret(data)


def _read_limited(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(KEY_FILE_LIMIT + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{what} does not exist") from error
    except OSError as error:
        raise StorageFault(f"{what} cannot be read: {error.strerror}") from error
    if len(data) > KEY_FILE_LIMIT:
        raise MalformedError(f"{what} is longer than {KEY_FILE_LIMIT} bytes")
    return data


def _write_new(path: Path, data: bytes) -> None:
    """Create `path` with `data`, whole and durable or not at all; ConflictError when it exists."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            temporary.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise ConflictError(f"{path} exists already") from error
    except OSError as error:
        raise StorageFault(f"{path} cannot be written: {error.strerror}") from error
