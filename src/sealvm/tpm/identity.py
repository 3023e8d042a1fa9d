"""A host's identity in its TPM: making the keys, proving them to the authority, signing requests.

The host's half of enrollment (DESIGN section 4). Nothing here is trusted by anybody until the authority has checked the
EK certificate, the credential activation, every certification and every attribute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from sealvm.crypto.ec import keyid_of
from sealvm.errors import NotFoundError
from sealvm.secret import Secret
from sealvm.tcg import templates
from sealvm.tcg.public import name_of, parse_public
from sealvm.tpm import keys
from sealvm.tpm.connection import Tpm
from sealvm.tpm.structures import (
    ESYS_TR,
    TPM2_CC,
    ecdsa_scheme,
    encrypted_secret,
    id_object,
    no_hash_ticket,
    nonce_data,
    pcr_selection,
    signature_der,
)

EK_TEMPLATES = {
    0x01C00016: templates.EK_ECC_P384,
    0x01C0000A: templates.EK_ECC_P256,
    0x01C00002: templates.EK_RSA2048,
}
"""NV indices of EK certificates and the templates of their keys, preferred first: ECC primaries are made faster."""
EK_ORDERS = {
    "": tuple(EK_TEMPLATES),
    "ecc": tuple(EK_TEMPLATES),
    "rsa": (0x01C00002, 0x01C00016, 0x01C0000A),
}
"""In which order EK certificates are looked for, by the kind of EK that a host prefers ("": no preference)."""
EK_CHAIN_INDICES = range(0x01C00100, 0x01C00110)
"""Where makers lay the certificates between EK certificate and root (TCG EK Credential Profile, section 2.2)."""
EK_CERTIFICATE_LIMIT_BYTES = 8192
_NV_CHUNK_BYTES = 512
_USER_WITH_AUTH = 0x00000040

Certified = Literal["srk", "import-parent", "request-key"]


@dataclass(frozen=True, slots=True)
class HostIdentityBlobs:
    """The public areas (TPMT_PUBLIC) of a host's keys, and the blobs (TPM2B_PRIVATE contents) of two of them."""

    ek_nv_index: int
    ek_public: bytes
    ak_public: bytes
    srk_public: bytes
    import_parent_public: bytes
    import_parent_private: bytes
    request_key_public: bytes
    request_key_private: bytes

    @property
    def srk_name(self) -> bytes:
        """The SRK's Name, 34 bytes: what a host pins when its enrollment is done."""
        return name_of(self.srk_public)


def read_ek_certificate(tpm: Tpm, indices: Iterable[int] = tuple(EK_TEMPLATES)) -> tuple[int, bytes]:
    """NV index and contents of the first EK certificate there is, as the maker wrote it (DER, padding included).

    Raises NotFoundError when the TPM has none at `indices`. Checks nothing of the certificate.
    """
    wanted = tuple(indices)
    for index in wanted:
        handle = tpm.persistent(index)
        if handle is None:
            continue
        return index, _nv_contents(tpm, handle, "reading the EK certificate")
    raise NotFoundError(
        "this TPM holds no EK certificate at NV " + " or ".join(f"{index:08x}" for index in wanted),
        hint="its maker did not store one; a host cannot enroll without",
    )


def read_ek_chain(tpm: Tpm) -> bytes:
    """The certificates that the maker laid beside the EK certificate, one after the other; empty where it laid none.

    Untrusted, as everything from outside: `tcg.ekcert.split_certificates` takes them apart.
    """
    data = b""
    for index in EK_CHAIN_INDICES:
        handle = tpm.persistent(index)
        if handle is None:
            break
        data += _nv_contents(tpm, handle, "reading the EK certificate chain")
    return data


def _nv_contents(tpm: Tpm, handle: Any, doing: str) -> bytes:
    public, _name = tpm.run("nv_read_public", doing, nv_index=handle)
    size = min(int(public.nvPublic.dataSize), EK_CERTIFICATE_LIMIT_BYTES)
    data = b""
    while len(data) < size:
        part = tpm.run(
            "nv_read",
            doing,
            nv_index=handle,
            size=min(_NV_CHUNK_BYTES, size - len(data)),
            offset=len(data),
            session1=ESYS_TR.PASSWORD,
        )
        data += bytes(part)
    return data


@contextmanager
def _ek(tpm: Tpm, nv_index: int) -> Iterator[tuple[Any, bytes]]:
    """The EK that belongs to the certificate at this NV index."""
    if nv_index not in EK_TEMPLATES:
        raise NotFoundError(f"NV {nv_index:08x}: no EK template is known for this index")
    with keys.primary(tpm, EK_TEMPLATES[nv_index], ESYS_TR.ENDORSEMENT, "the EK") as made:
        yield made


@contextmanager
def _ak(tpm: Tpm) -> Iterator[tuple[Any, bytes]]:
    with keys.primary(tpm, templates.AK, ESYS_TR.ENDORSEMENT, "the AK") as made:
        yield made


def create_ek(tpm: Tpm, nv_index: int) -> bytes:
    """TPMT_PUBLIC of the EK that belongs to the certificate at `nv_index`. NotFoundError for an unknown index."""
    with _ek(tpm, nv_index) as (_handle, public):
        return public


def provision(tpm: Tpm, ek_indices: Iterable[int] = tuple(EK_TEMPLATES)) -> HostIdentityBlobs:
    """Make a host's keys: the SRK where there is none, a new import parent (persisted), a new request key.

    The EK is the one of the first certificate that the TPM has at `ek_indices`.

    Profile keys imported under an earlier import parent load only with that one's blob. Raises NotFoundError when the
    TPM has no EK certificate, TpmFault when a hierarchy wants a password.
    """
    nv_index, _certificate = read_ek_certificate(tpm, ek_indices)
    ek_public = create_ek(tpm, nv_index)
    with _ak(tpm) as (_handle, ak_public):
        pass
    srk_public = keys.ensure_srk(tpm)
    template = templates.public_of(templates.IMPORT_PARENT)
    parent_public, parent_private = keys.create_child(tpm, template, "the import parent")
    with keys.child(tpm, parent_public, parent_private, "the import parent") as parent:
        keys.persist(tpm, parent, keys.IMPORT_PARENT_HANDLE, "the import parent")
    request = keys.create_child(tpm, templates.public_of(templates.REQUEST_KEY), "the request key")
    return HostIdentityBlobs(nv_index, ek_public, ak_public, srk_public, parent_public, parent_private, *request)


def activate(tpm: Tpm, credential: bytes, secret: bytes, ek_nv_index: int | None = None) -> Secret:
    """TPM2_ActivateCredential of a credential made for this TPM's EK and AK: proof that both lie in one TPM.

    `credential` and `secret` are the contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET. Raises TpmFault when the
    credential was made for another EK or AK.
    """
    nv_index = read_ek_certificate(tpm)[0] if ek_nv_index is None else ek_nv_index
    with _ak(tpm) as (ak, _ak_public), _ek(tpm, nv_index) as (ek, _ek_public), _ek_auth(tpm, nv_index) as ek_auth:
        activated = tpm.run(
            "activate_credential",
            "activating the credential",
            activate_handle=ak,
            key_handle=ek,
            credential_blob=id_object(credential),
            secret=encrypted_secret(secret),
            session1=ESYS_TR.PASSWORD,
            session2=ek_auth,
        )
        return Secret(bytes(activated))


@contextmanager
def _ek_auth(tpm: Tpm, nv_index: int) -> Iterator[Any]:
    """EKs of templates L want PolicySecret(ENDORSEMENT), those of templates H an empty password (TCG EK profile)."""
    if EK_TEMPLATES[nv_index].attributes & _USER_WITH_AUTH:
        yield ESYS_TR.PASSWORD
        return
    with tpm.policy_session() as session:
        tpm.run(
            "policy_secret",
            "authorizing the EK",
            auth_handle=ESYS_TR.ENDORSEMENT,
            policy_session=session,
            nonce_tpm=b"",
            cp_hash_a=b"",
            policy_ref=b"",
            expiration=0,
            session1=ESYS_TR.PASSWORD,
        )
        yield session


def certify(tpm: Tpm, blobs: HostIdentityBlobs, which: Certified, nonce: bytes) -> tuple[bytes, bytes]:
    """TPM2_Certify of one key by the AK, over `nonce` (at most 32 bytes): TPMS_ATTEST and DER signature."""
    with _ak(tpm) as (ak, _public), _certified(tpm, blobs, which) as (handle, session):
        attest, signature = tpm.run(
            "certify",
            f"certifying the {which}",
            object_handle=handle,
            sign_handle=ak,
            qualifying_data=nonce_data(nonce),
            in_scheme=ecdsa_scheme(),
            session1=session,
            session2=ESYS_TR.PASSWORD,
        )
    return bytes(attest.attestationData), signature_der(signature)


@contextmanager
def _certified(tpm: Tpm, blobs: HostIdentityBlobs, which: Certified) -> Iterator[tuple[Any, Any]]:
    """The object to certify, and the session that authorizes it."""
    if which == "srk":
        yield keys.srk(tpm), ESYS_TR.PASSWORD
    elif which == "request-key":
        with keys.child(tpm, blobs.request_key_public, blobs.request_key_private, "the request key") as handle:
            yield handle, ESYS_TR.PASSWORD
    else:
        with (
            keys.import_parent(tpm, blobs.import_parent_public, blobs.import_parent_private) as handle,
            keys.import_parent_session(tpm, TPM2_CC.Certify) as session,
        ):
            yield handle, session


def quote(tpm: Tpm, selection: Iterable[int], nonce: bytes) -> tuple[bytes, bytes]:
    """TPM2_Quote by the AK of the selected PCRs (SHA-256 bank) over `nonce`: TPMS_ATTEST and DER signature."""
    with _ak(tpm) as (ak, _public):
        attest, signature = tpm.run(
            "quote",
            "quoting PCRs",
            sign_handle=ak,
            pcr_select=pcr_selection(selection),
            qualifying_data=nonce_data(nonce),
            in_scheme=ecdsa_scheme(),
            session1=ESYS_TR.PASSWORD,
        )
    return bytes(attest.attestationData), signature_der(signature)


class RequestSigner:
    """The host's request key as a Signer: each signature is one TPM command on the open connection."""

    def __init__(self, tpm: Tpm, blobs: HostIdentityBlobs) -> None:
        self._tpm = tpm
        self._public = blobs.request_key_public
        self._private = blobs.request_key_private
        self._point = parse_public(self._public, "request key").point

    @property
    def point(self) -> bytes:
        return self._point

    @property
    def keyid(self) -> str:
        return keyid_of(self._point)

    def sign_digest(self, digest: bytes) -> bytes:
        with keys.child(self._tpm, self._public, self._private, "the request key") as handle:
            signature = self._tpm.run(
                "sign",
                "signing a request",
                key_handle=handle,
                digest=digest,
                in_scheme=ecdsa_scheme(),
                validation=no_hash_ticket(),
                session1=ESYS_TR.PASSWORD,
            )
        return signature_der(signature)


def request_signer(tpm: Tpm, blobs: HostIdentityBlobs) -> RequestSigner:
    """The signer of a host's requests to the authority; usable while the connection is open."""
    return RequestSigner(tpm, blobs)
