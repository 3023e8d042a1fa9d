"""Writes LUKS1 headers: the on-disk format of cryptsetup and QEMU, version 1 (LUKS On-Disk Format Specification 1.2.3).

Why not by QEMU: its `blockdev-create` measures PBKDF2 for about 2 s whatever iteration time it is asked for, longer
than the rest of a launch. Here the passphrase is a random 256-bit key, which no iteration count makes stronger; the
specified minimum of 1000 is used. QEMU opens the result and does all encryption of data.
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sealvm.secret import Secret

SECTOR_BYTES = 512
SLOTS = 8
STRIPES = 4000
MASTER_KEY_BYTES = 64  # AES-256 in XTS mode
ITERATIONS = 1000
SLOT_ALIGN_SECTORS = 8
SLOT_SECTORS = 504  # 64 * 4000 bytes are 500 sectors, aligned to 4 KiB
FIRST_SLOT_SECTOR = 8
PAYLOAD_SECTOR = FIRST_SLOT_SECTOR + SLOTS * SLOT_SECTORS
HEADER_BYTES = PAYLOAD_SECTOR * SECTOR_BYTES
"""The whole header with its key slots; the payload begins here."""

_MAGIC = b"LUKS\xba\xbe"
_ENABLED, _DISABLED = 0x00AC71F3, 0x0000DEAD
_PREFIX = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT = struct.Struct(">II32sII")


def passphrase_of(key: Secret) -> bytes:
    """The passphrase under which `key` opens a container: its lower-case hex, because QEMU wants UTF-8."""
    return key.reveal().hex().encode()


def new_header(key: Secret) -> bytes:
    """A fresh HEADER_BYTES long header with a random master key in slot 0, opened by `passphrase_of(key)`.

    aes-xts-plain64 with 512 key bits, sha256. `key` must be 32 random bytes: ITERATIONS protects no weaker one.
    """
    if len(key) != 32:
        raise ValueError(f"overlay key: {len(key)} bytes, expected 32")
    master = os.urandom(MASTER_KEY_BYTES)
    digest_salt, slot_salt = os.urandom(32), os.urandom(32)
    digest = hashlib.pbkdf2_hmac("sha256", master, digest_salt, ITERATIONS, 20)
    slot_key = hashlib.pbkdf2_hmac("sha256", passphrase_of(key), slot_salt, ITERATIONS, MASTER_KEY_BYTES)
    cipher_name, cipher_mode, hash_name = b"aes", b"xts-plain64", b"sha256"
    prefix = _PREFIX.pack(
        *(_MAGIC, 1, cipher_name, cipher_mode, hash_name, PAYLOAD_SECTOR, MASTER_KEY_BYTES),
        *(digest, digest_salt, ITERATIONS, str(uuid.uuid4()).encode()),
    )
    slots = [_SLOT.pack(_ENABLED, ITERATIONS, slot_salt, FIRST_SLOT_SECTOR, STRIPES)]
    slots += [
        _SLOT.pack(_DISABLED, 0, bytes(32), FIRST_SLOT_SECTOR + number * SLOT_SECTORS, STRIPES)
        for number in range(1, SLOTS)
    ]
    material = _encrypt_sectors(slot_key, _split(master))
    header = (prefix + b"".join(slots)).ljust(FIRST_SLOT_SECTOR * SECTOR_BYTES, b"\0") + material
    return header.ljust(HEADER_BYTES, b"\0")


def _split(master: bytes) -> bytes:
    """The anti-forensic splitter (section 2.4): STRIPES blocks whose diffused sum is the key."""
    stripes = os.urandom(len(master) * (STRIPES - 1))
    state = bytes(len(master))
    for start in range(0, len(stripes), len(master)):
        state = _diffuse(_xor(state, stripes[start : start + len(master)]))
    return stripes + _xor(state, master)


def _diffuse(block: bytes) -> bytes:
    size = hashlib.sha256().digest_size
    parts = [block[start : start + size] for start in range(0, len(block), size)]
    return b"".join(hashlib.sha256(struct.pack(">I", number) + part).digest() for number, part in enumerate(parts))


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


def _encrypt_sectors(key: bytes, data: bytes) -> bytes:
    sectors = []
    for number, start in enumerate(range(0, len(data), SECTOR_BYTES)):
        tweak = struct.pack("<QQ", number, 0)
        encryptor = Cipher(algorithms.AES(key), modes.XTS(tweak)).encryptor()
        sectors.append(encryptor.update(data[start : start + SECTOR_BYTES]) + encryptor.finalize())
    return b"".join(sectors)
