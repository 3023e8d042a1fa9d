"""The provisioner's signing key in a file, encrypted under a credential file.

    DIR/provisioner.pem   PKCS #8, encrypted, 0600
    DIR/provisioner.pub   public key, PEM; what an authority is asked to trust
    DIR/credential        the passphrase, 32 random bytes in hex, 0600; may be kept elsewhere

May import crypto, store.atomic and errors. The key is never written in the clear.
"""

from __future__ import annotations

import os
from pathlib import Path

from sealvm.crypto.ec import SoftwareSigner, spki_pem
from sealvm.errors import ConflictError, MalformedError, NotFoundError, StorageFault
from sealvm.secret import Secret
from sealvm.store.atomic import write_atomic

KEY_FILE = "provisioner.pem"
PUBLIC_FILE = "provisioner.pub"
CREDENTIAL_FILE = "credential"
_MAX_FILE_BYTES = 16 * 1024


def create_provisioner_key(directory: Path, credential: Path | None = None) -> SoftwareSigner:
    """Make a signing key in `directory`, under a credential that is made too unless `credential` names one.

    Raises ConflictError when the directory holds a key already (it is not touched), NotFoundError for a credential
    that does not exist, StorageFault.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise StorageFault(f"cannot make {directory}: {problem.strerror}") from problem
    if (directory / KEY_FILE).exists():
        raise ConflictError(f"{directory} holds a provisioner key already", hint="use it, or name another directory")
    if credential is None:
        credential = directory / CREDENTIAL_FILE
        if not credential.exists():
            write_atomic(credential, os.urandom(32).hex().encode("ascii") + b"\n", 0o600)
    passphrase = _passphrase(credential)
    signer = SoftwareSigner.generate()
    write_atomic(directory / PUBLIC_FILE, spki_pem(signer.point).encode("ascii"))
    write_atomic(directory / KEY_FILE, signer.to_pem(passphrase), 0o600)
    return signer


def load_provisioner_key(directory: Path, credential: Path | None = None) -> SoftwareSigner:
    """The signing key in `directory`.

    Raises NotFoundError, MalformedError when the credential does not open it, StorageFault.
    """
    pem = _read(directory / KEY_FILE, "provisioner key", "make one: sealvm provisioner init")
    return SoftwareSigner.from_pem(pem, _passphrase(credential or directory / CREDENTIAL_FILE))


def _passphrase(path: Path) -> Secret:
    value = _read(path, "credential", "name the file with the passphrase").strip()
    if not value:
        raise MalformedError(f"credential {path} is empty")
    return Secret(value)


def _read(path: Path, what: str, hint: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError as problem:
        raise NotFoundError(f"{what} {path} does not exist", hint=hint) from problem
    except OSError as problem:
        raise StorageFault(f"cannot read {what} {path}: {problem.strerror}") from problem
    if len(data) > _MAX_FILE_BYTES:
        raise MalformedError(f"{what} {path}: more than {_MAX_FILE_BYTES} bytes")
    return data
