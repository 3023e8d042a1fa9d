"""One connection to one TPM: the typed adapter around tpm2_pytss.

Commands are run by their TCG name with keyword arguments only, since positional orders in tpm2_pytss differ from the
specification. A failed command is raised as a fault of the error tree. What a `with` block makes in the TPM (transient
objects, sessions) is flushed at its end: a TPM has three slots of each, and swtpm has no resource manager.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tpm2_pytss import ESAPI, TSS2_Exception

from sealvm.errors import InputError, StorageFault, TpmAwayFault
from sealvm.tpm.responses import AWAY_HINT, base_code, fault_of
from sealvm.tpm.structures import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_SE,
    TPMA_SESSION,
    no_session_cipher,
    session_cipher,
)

log = logging.getLogger(__name__)

LOCK_LIMIT_SECONDS = 30.0
HANDLES_AT_ONCE = 32
_TRANSIENT_FIRST = 0x80000000
_HMAC_SESSION_FIRST = 0x02000000  # TPM2_GetCapability's name for the sessions that are loaded
_SAVED_SESSION_FIRST = 0x03000000
_RC_HANDLE = 0x8B
_MANAGED = ("device:/dev/tpmrm", "tabrmd")
_KINDS = ("device", "swtpm", "mssim", "tabrmd")
"""Addresses that are dialled. tss2 knows others that run a command (`cmd:`) or load a library by its path."""


class Tpm:
    """An open connection. Not for use by two threads at once."""

    def __init__(self, esapi: ESAPI, *, managed: bool = False) -> None:
        self._esapi = esapi
        self.managed = managed
        """Whether a resource manager stands between: then what others left is its business."""
        self.counts: Counter[str] = Counter()
        """How often each command was run: benchmarks and tests read it."""

    def run(self, command: str, doing: str = "", /, **arguments: Any) -> Any:
        """Run an ESAPI command by name; `doing` says for people what it was for.

        Raises TpmAwayFault when nothing answers, TpmFault with the decoded response code otherwise. Whether a code
        means a policy refusal is in the fault's `policy` field; only the user of a profile key may say so.
        """
        self.counts[command] += 1
        try:
            return getattr(self._esapi, command)(**arguments)
        except TSS2_Exception as failure:
            raise fault_of(failure, command, doing or command) from failure

    @contextmanager
    def flushing(self, handle: Any) -> Iterator[Any]:
        """Flush `handle` at the end of the block, however it ends."""
        try:
            yield handle
        finally:
            self.flush(handle)

    def flush(self, handle: Any) -> None:
        """Flush a transient object or session. Never raises: a slot that stays is swept at the next connection."""
        try:
            self._esapi.flush_context(handle)
        except TSS2_Exception as failure:
            log.debug("flush of %s failed: %s", handle, failure)

    def persistent(self, handle: int) -> Any | None:
        """The object at a persistent TPM handle, or None if the TPM has none there."""
        try:
            return self._esapi.tr_from_tpmpublic(handle)
        except TSS2_Exception as failure:
            if base_code(failure) == _RC_HANDLE:
                return None
            raise fault_of(failure, "read_public", f"reading the public area at 0x{handle:08x}") from failure

    def name(self, handle: Any) -> bytes:
        """The Name of an object that this connection knows, 34 bytes for SHA-256."""
        return bytes(self._esapi.tr_get_name(handle))

    def nonce(self, session: Any) -> bytes:
        """The nonceTPM of a session that this connection started, 32 bytes for SHA-256."""
        return bytes(self._esapi.trsess_get_nonce_tpm(session))

    def salted_to(self, handle: Any) -> bytes:
        """The library's own record of an object, which holds the public key that a session salt is encrypted to."""
        return bytes(self._esapi.tr_serialize(handle))

    def tpm_handle(self, handle: Any) -> int:
        """The TPM's own handle of an object or session that this connection knows."""
        return int(self._esapi.tr_get_tpm_handle(handle))

    @property
    def transport(self) -> Any:
        """Where whole commands are sent and answers received, past the library (sealvm.tpm.raw)."""
        return self._esapi.tcti

    @contextmanager
    def policy_session(self, salt: Any | None = None, kind: Any = TPM2_SE.POLICY) -> Iterator[Any]:
        """A policy session (SHA-256). With `salt`, a loaded key whose Name the caller has checked, it is salted to that
        key and encrypts the first parameter of command and response (AES-128-CFB)."""
        session = self.run(
            "start_auth_session",
            "starting a policy session",
            tpm_key=ESYS_TR.NONE if salt is None else salt,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric=no_session_cipher() if salt is None else session_cipher(),
            auth_hash=TPM2_ALG.SHA256,
        )
        with self.flushing(session):
            attributes = TPMA_SESSION.CONTINUESESSION
            if salt is not None:
                attributes |= TPMA_SESSION.ENCRYPT | TPMA_SESSION.DECRYPT
            self._esapi.trsess_set_attributes(session=session, attributes=attributes)
            yield session

    def handles(self, first: int) -> list[int]:
        """TPM handles of one kind that are in use, from `first` on; at most HANDLES_AT_ONCE."""
        _more, capability = self.run(
            "get_capability",
            "listing handles",
            capability=TPM2_CAP.HANDLES,
            prop=first,
            property_count=HANDLES_AT_ONCE,
        )
        return [int(handle) for handle in capability.data.handles]

    def sweep(self) -> None:
        """Flush every transient object and loaded session: what a process that died left in a TPM without manager."""
        for handle in self.handles(_TRANSIENT_FIRST) + self.handles(_HMAC_SESSION_FIRST):
            self._flush_tpm_handle(handle)

    def sweep_saved(self) -> None:
        """Flush every saved session of a TPM without a manager."""
        if not self.managed:
            for handle in self.handles(_SAVED_SESSION_FIRST):
                self._flush_tpm_handle(handle)

    def _flush_tpm_handle(self, handle: int) -> None:
        try:
            self.flush(self._esapi.tr_from_tpmpublic(handle))
        except TSS2_Exception as failure:
            log.debug("sweep of 0x%08x failed: %s", handle, failure)


@contextmanager
def open_tpm(tcti: str, lock: Path | None = None, lock_seconds: float = LOCK_LIMIT_SECONDS) -> Iterator[Tpm]:
    """A connection to the TPM at `tcti` ("swtpm:path=/abs/socket", "device:/dev/tpmrm0"), in its turn by `lock`.

    Raises TpmAwayFault when no TPM answers there, or when another holder keeps the lock longer than `lock_seconds`.
    InputError for an address of another kind: it comes from a file that whoever holds the disk can edit, and must not
    make this process run something.
    """
    if tcti.partition(":")[0] not in _KINDS:
        raise InputError(
            f"TPM address {tcti[:80]!r}: expected one of {', '.join(kind + ':...' for kind in _KINDS)}",
            hint="for the machine's own TPM write device:/dev/tpmrm0",
        )
    os.environ.setdefault("TSS2_LOG", "all+none")  # the library logs raw TPM errors to stderr; ours are decoded
    with _locked(lock, tcti, lock_seconds):
        try:
            esapi = ESAPI(tcti)
        except (TSS2_Exception, RuntimeError) as failure:
            raise TpmAwayFault(f"no TPM answers at {tcti}", hint=AWAY_HINT) from failure
        try:
            tpm = Tpm(esapi, managed=tcti.startswith(_MANAGED))
            if not tpm.managed:
                tpm.sweep()
            tpm.counts.clear()
            yield tpm
        finally:
            esapi.close()


@contextmanager
def _locked(lock: Path | None, tcti: str, limit_seconds: float) -> Iterator[None]:
    """Hold an flock on `lock` (made with mode 0600), waiting no longer than the limit."""
    if lock is None:
        yield
        return
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        raise StorageFault(f"{lock}: the TPM's lock file cannot be opened: {failure.strerror}") from failure
    try:
        deadline = time.monotonic() + limit_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as busy:
                if time.monotonic() > deadline:
                    raise TpmAwayFault(
                        f"the TPM at {tcti} is in use: {lock} was held for more than {limit_seconds:g} s",
                        hint="wait for the other sealvm process to finish, then run the command again",
                    ) from busy
                time.sleep(0.002)
        yield
    finally:
        os.close(descriptor)
