"""What every custody offers, whatever holds the keys (DESIGN section 3, Custody)."""

from __future__ import annotations

import re
from typing import Protocol

from sealvm.crypto.ec import Signer
from sealvm.errors import InputError
from sealvm.secret import Secret

KEY_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")


class Custody(Protocol):
    """Named EC P-256 private keys of two kinds that never mix.

    A *signer* signs and its scalar cannot be asked for. A *scalar* can be asked for, because duplicating a profile key
    to a host needs it, and is never used to sign. Creating a name that exists raises ConflictError and changes nothing;
    asking for one that does not raises NotFoundError; a key that does not open raises IntegrityRefused.
    """

    def create_signer(self, name: str) -> Signer:
        """A fresh signing key under `name`, durable before this returns."""
        ...

    def signer(self, name: str) -> Signer:
        """The signing key `name`."""
        ...

    def create_scalar(self, name: str) -> bytes:
        """A fresh key under `name`, durable before this returns; its public point (65 bytes)."""
        ...

    def scalar(self, name: str) -> Secret:
        """The 32-byte private scalar of `name`. The caller drops it as soon as it is used."""
        ...


def checked_key_name(name: str) -> str:
    """`name` if a key may be called that (lower case, digits, `.`, `_`, `-`; at most 128), else InputError."""
    if not KEY_NAME.fullmatch(name) or ".." in name:
        raise InputError(f"key name {name!r} is not lower-case letters, digits, '.', '_' and '-', at most 128 of them")
    return name
