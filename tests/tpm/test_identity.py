from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealvm.crypto.ec import keyid_of, verify_digest
from sealvm.errors import ConflictError, EvidenceRefused, NotFoundError, TpmFault
from sealvm.lab.swtpm import LabCa, Swtpm
from sealvm.tcg import templates
from sealvm.tcg.attest import verify_certify, verify_quote
from sealvm.tcg.credential import make_credential
from sealvm.tcg.ekcert import TrustRoot, ek_matches, verify_ek_certificate
from sealvm.tcg.pcr import pcr_digest
from sealvm.tcg.public import name_of
from sealvm.tpm import identity, keys, pcr
from sealvm.tpm.connection import Tpm, open_tpm
from sealvm.tpm.structures import ESYS_TR
from tests.tpm.rig import SELECTION, Host, Owner, make_host

pytestmark = pytest.mark.tpm

EK_INDICES = [0x01C00016, 0x01C00002]


@pytest.fixture
def tpm(host: Host) -> Iterator[Tpm]:
    with open_tpm(host.swtpm.tcti, host.swtpm.lock) as opened:
        yield opened


def test_publics_follow_their_templates(host: Host) -> None:
    blobs = host.blobs
    templates.check_template(blobs.srk_public, templates.SRK, "srk")
    templates.check_template(blobs.import_parent_public, templates.IMPORT_PARENT, "import-parent")
    templates.check_template(blobs.ak_public, templates.AK, "ak")
    templates.check_template(blobs.request_key_public, templates.REQUEST_KEY, "request-key")
    templates.check_template(blobs.ek_public, templates.EK_ECC_P384, "ek")


@pytest.mark.parametrize("index", EK_INDICES)
def test_ek_certificate_is_of_the_ek_and_chains_to_the_lab_root(tpm: Tpm, ca: LabCa, index: int) -> None:
    def der(path: object) -> bytes:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)  # type: ignore[attr-defined]

    found, certificate = identity.read_ek_certificate(tpm, [index])
    roots = [TrustRoot(der(ca.root), "lab")]
    verified = verify_ek_certificate(certificate, [der(ca.intermediate)], roots, datetime.now(UTC))
    ek_matches(verified.public_key, identity.create_ek(tpm, found))
    assert (found, verified.trust_class, verified.model) == (index, "lab", "swtpm")


def test_no_ek_certificate(tpm: Tpm) -> None:
    with pytest.raises(NotFoundError, match="01c0000a"):
        identity.read_ek_certificate(tpm, [0x01C0000A])


def test_unknown_ek_index(tpm: Tpm) -> None:
    with pytest.raises(NotFoundError, match="no EK template"):
        identity.create_ek(tpm, 0x01C00012)


@pytest.mark.parametrize("index", EK_INDICES)
def test_credential_activates(tpm: Tpm, host: Host, index: int) -> None:
    ek = identity.create_ek(tpm, index)
    credential, secret = make_credential(ek, name_of(host.blobs.ak_public), b"s" * 32)
    assert identity.activate(tpm, credential, secret, index).reveal() == b"s" * 32


def test_credential_for_another_ak_is_a_fault(tpm: Tpm, host: Host) -> None:
    credential, secret = make_credential(host.blobs.ek_public, name_of(host.blobs.srk_public), b"s" * 32)
    with pytest.raises(TpmFault, match="activating"):
        identity.activate(tpm, credential, secret)


def test_credential_for_another_ek_is_a_fault(tpm: Tpm, host: Host) -> None:
    rsa_ek = identity.create_ek(tpm, 0x01C00002)
    credential, secret = make_credential(rsa_ek, name_of(host.blobs.ak_public), b"s" * 32)
    with pytest.raises(TpmFault, match="activating"):
        identity.activate(tpm, credential, secret)


CERTIFIED: list[tuple[identity.Certified, str]] = [
    ("srk", "srk_public"),
    ("import-parent", "import_parent_public"),
    ("request-key", "request_key_public"),
]


@pytest.mark.parametrize(("which", "field"), CERTIFIED)
def test_ak_certifies(tpm: Tpm, host: Host, which: identity.Certified, field: str) -> None:
    attest, signature = identity.certify(tpm, host.blobs, which, b"n" * 32)
    above = () if which == "srk" else (host.blobs.srk_public,)
    certified = getattr(host.blobs, field)
    verify_certify(attest, signature, host.blobs.ak_public, certified, b"n" * 32, which, ancestors=above)


def test_quote_is_over_the_pcrs_and_nonce(tpm: Tpm, host: Host) -> None:
    attest, signature = identity.quote(tpm, SELECTION, b"n" * 32)
    verified = verify_quote(attest, signature, host.blobs.ak_public, b"n" * 32)
    assert verified.pcr_digest == pcr_digest(pcr.read(tpm, SELECTION), SELECTION)
    with pytest.raises(EvidenceRefused):
        verify_quote(attest, signature, host.blobs.ak_public, b"o" * 32)


def test_request_key_signs(tpm: Tpm, host: Host) -> None:
    signer = identity.request_signer(tpm, host.blobs)
    digest = hashlib.sha256(b"request").digest()
    verify_digest(signer.point, digest, signer.sign_digest(digest))
    assert signer.keyid == keyid_of(signer.point)


def test_import_parent_without_its_handle_is_loaded_from_its_blob(own_swtpm: Swtpm) -> None:
    host = make_host(own_swtpm, Owner())
    with open_tpm(own_swtpm.tcti) as tpm:
        keys.evict(tpm, tpm.persistent(keys.IMPORT_PARENT_HANDLE), keys.IMPORT_PARENT_HANDLE, "the import parent")
        assert identity.certify(tpm, host.blobs, "import-parent", b"n" * 32)
        assert host.owner.seal(tpm, host.blobs)
        assert tpm.handles(0x80000000) == []


def test_provisioning_again_keeps_the_srk_and_makes_a_new_parent(own_swtpm: Swtpm) -> None:
    with open_tpm(own_swtpm.tcti) as tpm:
        first, second = identity.provision(tpm), identity.provision(tpm)
        assert first.srk_public == second.srk_public
        assert first.ak_public == second.ak_public
        assert first.import_parent_public != second.import_parent_public
        assert tpm.name(tpm.persistent(keys.IMPORT_PARENT_HANDLE)) == name_of(second.import_parent_public)


def test_identity_survives_a_power_cut(own_swtpm: Swtpm) -> None:
    host = make_host(own_swtpm, Owner())
    own_swtpm.power_cycle()
    with open_tpm(own_swtpm.tcti) as tpm:
        assert keys.pinned_srk(tpm, host.blobs.srk_public, host.blobs.srk_name)
        attest, signature = identity.quote(tpm, SELECTION, b"n" * 32)
        verify_quote(attest, signature, host.blobs.ak_public, b"n" * 32)


def test_pinned_srk_refuses_another_name(tpm: Tpm, host: Host) -> None:
    with pytest.raises(TpmFault, match="pinned at enrollment"):
        keys.pinned_srk(tpm, host.blobs.srk_public, name_of(host.blobs.ak_public))


def test_pinned_srk_refuses_another_public_area(tpm: Tpm, host: Host) -> None:
    with pytest.raises(TpmFault, match="pinned at enrollment"):
        keys.pinned_srk(tpm, host.blobs.request_key_public, host.blobs.srk_name)


def test_cleared_tpm_has_no_srk(own_swtpm: Swtpm) -> None:
    host = make_host(own_swtpm, Owner())
    with open_tpm(own_swtpm.tcti) as tpm:
        tpm.run("clear", auth_handle=ESYS_TR.LOCKOUT, session1=ESYS_TR.PASSWORD)
        with pytest.raises(ConflictError, match="no SRK"):
            keys.pinned_srk(tpm, host.blobs.srk_public, host.blobs.srk_name)
        keys.ensure_srk(tpm)
        with pytest.raises(TpmFault, match="pinned at enrollment"):
            keys.pinned_srk(tpm, host.blobs.srk_public, host.blobs.srk_name)


def test_damaged_blob_is_a_fault_with_a_hint(tpm: Tpm, host: Host) -> None:
    blob = host.blobs.request_key_private
    damaged = replace(host.blobs, request_key_private=blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(TpmFault, match="TPM_RC_INTEGRITY") as caught:
        identity.request_signer(tpm, damaged).sign_digest(bytes(32))
    assert "another TPM" in caught.value.hint
