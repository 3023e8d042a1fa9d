"""A storage parent in software: what an attacker wants a key duplicated to, since he can then read its private half."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from sealvm.crypto.ec import SoftwareSigner, load_point, private_key
from sealvm.errors import IntegrityRefused
from sealvm.secret import Secret
from sealvm.tcg import templates
from sealvm.tcg.kdf import KDFa, KDFe
from sealvm.tcg.marshal import Reader
from sealvm.tcg.public import coordinates, name_of
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import ESYS_TR, public_area

_SOFTWARE_STORAGE = 0x00030040  # userWithAuth restricted decrypt; nothing fixed, as LoadExternal wants it


class SoftwareParent:
    """A P-256 storage key whose private half is in this process."""

    def __init__(self) -> None:
        signer = SoftwareSigner.generate()
        self._scalar = signer.scalar()
        self._point = signer.point
        self.public = templates.public_of(replace(templates.SRK, attributes=_SOFTWARE_STORAGE), signer.point)

    @contextmanager
    def loaded(self, tpm: Tpm) -> Iterator[Any]:
        """The public half in the TPM, as new parent for Rewrap and Duplicate."""
        handle = tpm.run(
            "load_external",
            "loading a software parent",
            in_public=public_area(self.public, "software parent"),
            hierarchy=ESYS_TR.NULL,
        )
        with tpm.flushing(handle):
            yield handle

    def open(self, duplicate: bytes, in_sym_seed: bytes, object_public: bytes) -> Secret:
        """The private scalar of a P-256 key duplicated to this parent: TPM2_Import, done in software.

        IntegrityRefused when the blob is for another parent or object. Part 1, section 23.3 and annex C.6.3.
        """
        seed_reader = Reader(in_sym_seed, "duplication seed")
        qx, qy = (seed_reader.sized16().rjust(32, b"\0") for _coordinate in range(2))
        z = private_key(self._scalar).exchange(ec.ECDH(), load_point(b"\x04" + qx + qy))
        seed = KDFe("sha256", z, "DUPLICATE", qx, coordinates(self._point)[0], 256)
        name = name_of(object_public)
        blob = Reader(duplicate, "duplicate")
        integrity, encrypted = blob.sized16(), duplicate[34:]
        expected = hmac.digest(KDFa("sha256", seed, "INTEGRITY", b"", b"", 256), encrypted + name, "sha256")
        if not hmac.compare_digest(integrity, expected):
            raise IntegrityRefused("duplicate: not for this software parent")
        key = KDFa("sha256", seed, "STORAGE", name, b"", 128)
        decryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor()
        sensitive = Reader(
            Reader(decryptor.update(encrypted) + decryptor.finalize(), "sensitive").sized16(), "sensitive"
        )
        sensitive.u16()
        sensitive.sized16()
        sensitive.sized16()
        return Secret(sensitive.sized16())
