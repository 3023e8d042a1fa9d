"""The standing keys of a host's TPM: where they lie, how they are made again, how they are authorized.

    SRK            TCG template P-256, primary of the owner hierarchy, persistent at 81000001
    import parent  child of the SRK, persistent at 8100F5EA; usable by policy only: Import, Load, Certify
    AK             restricted signing primary of the endorsement hierarchy, made again from its template for each use
    EK             made again from the template that belongs to the NV index of its certificate

Owner and endorsement hierarchy are expected to have no password. Specification: docs/spec/tpm-policy-v1.md "Objects".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sealvm.errors import ConflictError, TpmFault
from sealvm.tcg import templates
from sealvm.tcg.marshal import b2
from sealvm.tcg.policy import IMPORT_PARENT_BRANCHES
from sealvm.tcg.public import name_of
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import (
    ESYS_TR,
    digest_list,
    no_sensitive,
    private_area,
    public_area,
    public_bytes,
)

SRK_HANDLE = 0x81000001
IMPORT_PARENT_HANDLE = 0x8100F5EA


def read_public(tpm: Tpm, handle: Any, what: str) -> bytes:
    """The TPMT_PUBLIC of a loaded object."""
    public, _name, _qualified = tpm.run("read_public", f"reading the public area of {what}", object_handle=handle)
    return public_bytes(public)


def ensure_srk(tpm: Tpm) -> bytes:
    """The SRK's TPMT_PUBLIC; makes the key and its persistent handle where there is none.

    The caller must still check the public area against the template: the handle may hold another program's key.
    """
    handle = tpm.persistent(SRK_HANDLE)
    if handle is not None:
        return read_public(tpm, handle, "the SRK")
    with primary(tpm, templates.SRK, ESYS_TR.OWNER, "the SRK") as (made, public):
        persist(tpm, made, SRK_HANDLE, "the SRK")
    return public


def srk(tpm: Tpm) -> Any:
    """The SRK's handle. ConflictError when the TPM has none, as after TPM2_Clear."""
    handle = tpm.persistent(SRK_HANDLE)
    if handle is None:
        raise ConflictError(
            f"this TPM has no SRK at 0x{SRK_HANDLE:08x}",
            hint="the TPM was cleared or replaced: enroll the host again",
        )
    return handle


def pinned_srk(tpm: Tpm, srk_public: bytes, pinned_name: bytes) -> Any:
    """The SRK's handle, if it is the key pinned at enrollment; session salts are then encrypted to exactly that key.

    Compares what the library will encrypt to, not only what a second reading of the TPM says, since whoever sits on
    the bus answers readings. Raises TpmFault when it is another key, ConflictError when there is none.
    """
    handle = srk(tpm)
    found = tpm.name(handle)
    if found != pinned_name or name_of(srk_public) != pinned_name or b2(srk_public) not in tpm.salted_to(handle):
        raise TpmFault(
            f"the SRK at 0x{SRK_HANDLE:08x} has Name {found.hex()}, pinned at enrollment is {pinned_name.hex()}",
            hint="the TPM was cleared or replaced, or something answers in its place: enroll the host again",
        )
    return handle


@contextmanager
def primary(tpm: Tpm, template: templates.Template, hierarchy: Any, what: str) -> Iterator[tuple[Any, bytes]]:
    """A primary key made from its template for the length of a block: handle and TPMT_PUBLIC."""
    handle, public, *_creation = tpm.run(
        "create_primary",
        f"making {what}",
        in_sensitive=no_sensitive(),
        in_public=public_area(templates.public_of(template), what),
        primary_handle=hierarchy,
        session1=ESYS_TR.PASSWORD,
    )
    with tpm.flushing(handle):
        yield handle, public_bytes(public)


def create_child(tpm: Tpm, template: bytes, what: str) -> tuple[bytes, bytes]:
    """A new key under the SRK from a template's TPMT_PUBLIC: its TPMT_PUBLIC and its wrapped blob."""
    private, public, *_creation = tpm.run(
        "create",
        f"making {what}",
        parent_handle=srk(tpm),
        in_sensitive=no_sensitive(),
        in_public=public_area(template, what),
        session1=ESYS_TR.PASSWORD,
    )
    return public_bytes(public), bytes(private.buffer)


@contextmanager
def child(tpm: Tpm, public: bytes, private: bytes, what: str) -> Iterator[Any]:
    """A key of the SRK, loaded from its blob for the length of a block. TpmFault if the blob is not of this TPM."""
    handle = tpm.run(
        "load",
        f"loading {what}",
        parent_handle=srk(tpm),
        in_private=private_area(private),
        in_public=public_area(public, what),
        session1=ESYS_TR.PASSWORD,
    )
    with tpm.flushing(handle):
        yield handle


def persist(tpm: Tpm, handle: Any, at: int, what: str) -> None:
    """Give a loaded object the persistent TPM handle `at`, in place of what lies there."""
    occupant = tpm.persistent(at)
    if occupant is not None:
        evict(tpm, occupant, at, f"what lies at 0x{at:08x}")
    evict(tpm, handle, at, what)


def evict(tpm: Tpm, handle: Any, at: int, what: str) -> None:
    """TPM2_EvictControl by the owner: persist a transient object, or remove a persistent one."""
    tpm.run(
        "evict_control",
        f"storing {what} at 0x{at:08x}",
        auth=ESYS_TR.OWNER,
        object_handle=handle,
        persistent_handle=at,
        session1=ESYS_TR.PASSWORD,
    )


@contextmanager
def import_parent(tpm: Tpm, public: bytes, private: bytes) -> Iterator[Any]:
    """The import parent with this Name: the persistent one, or loaded from its blob where that is another."""
    handle = tpm.persistent(IMPORT_PARENT_HANDLE)
    if handle is not None and tpm.name(handle) == name_of(public):
        yield handle
        return
    with child(tpm, public, private, "the import parent") as loaded:
        yield loaded


@contextmanager
def import_parent_session(tpm: Tpm, command_code: Any) -> Iterator[Any]:
    """A policy session that authorizes one use of the import parent: Import, Load or Certify."""
    with tpm.policy_session() as session:
        tpm.run("policy_command_code", "limiting a session", policy_session=session, code=command_code)
        tpm.run(
            "policy_or", "limiting a session", policy_session=session, p_hash_list=digest_list(IMPORT_PARENT_BRANCHES)
        )
        yield session
