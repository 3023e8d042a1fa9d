"""Reads a few bytes of an NBD export (NBD protocol, fixed newstyle negotiation with NBD_OPT_GO).

Only what checking a disk's header before use takes; data goes through QEMU.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from sealvm.errors import HypervisorFault

READ_LIMIT_BYTES = 1 << 20
TIMEOUT_SECONDS = 20.0

_GREETING = struct.Struct(">QQH")
_OPTION = struct.Struct(">QII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_INIT_MAGIC, _OPTION_MAGIC, _OPTION_REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_GO, _REP_ACK, _REP_INFO = 7, 1, 3
_CMD_READ, _CMD_DISCONNECT = 0, 2


def read_export(path: Path, export: str, offset: int, length: int) -> bytes:
    """`length` bytes (at most 1 MiB) at `offset` of `export`, served on the Unix socket `path`.

    Raises HypervisorFault when the server refuses, answers with an error, or breaks the protocol.
    """
    if not 0 < length <= READ_LIMIT_BYTES:
        raise ValueError(f"nbd read: {length} bytes, expected 1 to {READ_LIMIT_BYTES}")
    what = f"nbd export {export!r}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(str(path))
            _open_export(connection, export.encode(), what)
            connection.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _CMD_READ, 1, offset, length))
            magic, error, _cookie = _REPLY.unpack(_receive(connection, _REPLY.size, what))
            if magic != _REPLY_MAGIC or error:
                raise HypervisorFault(f"{what}: reading {length} bytes at {offset}: error {error}")
            data = _receive(connection, length, what)
            connection.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _CMD_DISCONNECT, 2, 0, 0))
    except OSError as error:
        raise HypervisorFault(f"{what}: {error.strerror or 'no answer in time'}") from error
    return data


def _open_export(connection: socket.socket, name: bytes, what: str) -> None:
    magic, option_magic, flags = _GREETING.unpack(_receive(connection, _GREETING.size, what))
    if (magic, option_magic) != (_INIT_MAGIC, _OPTION_MAGIC) or not flags & _FIXED_NEWSTYLE:
        raise HypervisorFault(f"{what}: the server does not speak fixed newstyle NBD")
    payload = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    chosen = struct.pack(">I", flags & (_FIXED_NEWSTYLE | _NO_ZEROES))
    connection.sendall(chosen + _OPTION.pack(_OPTION_MAGIC, _OPT_GO, len(payload)) + payload)
    while True:
        magic, option, kind, length = _OPTION_REPLY.unpack(_receive(connection, _OPTION_REPLY.size, what))
        if magic != _OPTION_REPLY_MAGIC or option != _OPT_GO or length > READ_LIMIT_BYTES:
            raise HypervisorFault(f"{what}: the server breaks the negotiation")
        body = _receive(connection, length, what)
        if kind == _REP_ACK:
            return
        if kind != _REP_INFO:
            raise HypervisorFault(f"{what}: the server refuses: {body.decode(errors='replace') or hex(kind)}")


def _receive(connection: socket.socket, length: int, what: str) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise HypervisorFault(f"{what}: the server closed the connection")
        data += part
    return bytes(data)
