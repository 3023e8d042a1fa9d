"""Objects, duplication, approvals in use, credentials and attestations against swtpm through tpm2-tools."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealvm.crypto.ec import SoftwareSigner
from sealvm.crypto.hpke import open_with_dh, seal
from sealvm.errors import EnrollmentRefused, EvidenceRefused, IntegrityRefused
from sealvm.secret import Secret
from sealvm.statements.approval import Approval, sign_approval
from sealvm.tcg import ekcert, policy, templates
from sealvm.tcg.algorithms import CC_IMPORT, CC_LOAD
from sealvm.tcg.attest import VerifiedQuote, verify_certify, verify_quote
from sealvm.tcg.credential import make_credential
from sealvm.tcg.duplicate import DuplicateBlob, duplicate, duplicate_to_any_parent
from sealvm.tcg.marshal import Reader, b2
from sealvm.tcg.pcr import PcrSelection, pcr_digest
from sealvm.tcg.public import coordinates, name_of, qualified_name
from sealvm.tcg.templates import check_template, profile_key_public, public_of, verifier_public
from tests.tcg.tpm2tools import (
    EK_ECC_CERTIFICATE,
    EK_ECC_HANDLE,
    EK_RSA_CERTIFICATE,
    EK_RSA_HANDLE,
    Tools,
)

pytestmark = pytest.mark.tpm

STORAGE = "fixedtpm|fixedparent|sensitivedataorigin|noda|restricted|decrypt"
SELECTION = PcrSelection.of(0, 2, 4, 7)
TOOLS_QUALIFYING_DATA = bytes.fromhex("00ff55aa")  # what tpm2_certify puts into extraData


@dataclass
class Host:
    """The keys of one enrolled host, made with tpm2-tools; contexts srk.ctx, ip.ctx, ak.ctx."""

    tools: Tools
    srk: bytes
    import_parent: bytes
    ak: bytes

    def import_parent_session(self, command_code: int, name: str) -> str:
        branches = []
        for n, branch in enumerate(policy.IMPORT_PARENT_BRANCHES):
            branches.append(self.tools.put(f"branch{n}", branch))
        session = self.tools.start_session()
        self.tools.run("policycommandcode", "-S", session, name)
        self.tools.run("policyor", "-S", session, "sha256:" + ",".join(branches))
        assert policy.cmd(policy.ZERO, command_code) in policy.IMPORT_PARENT_BRANCHES
        return f"session:{session}"

    def import_blob(self, blob: DuplicateBlob) -> None:
        """TPM2_Import, then TPM2_Load as key.ctx."""
        tools = self.tools
        tools.put("dup.pub", b2(blob.public))
        tools.put("dup.priv", b2(blob.duplicate))
        tools.put("dup.seed", b2(blob.in_sym_seed))
        session = self.import_parent_session(CC_IMPORT, "TPM2_CC_Import")
        tools.run(
            "import", "-C", "ip.ctx", "-P", session, "-u", "dup.pub", "-i", "dup.priv", "-s", "dup.seed",
            "-r", "key.priv",
        )  # fmt: skip
        tools.end_session()
        session = self.import_parent_session(CC_LOAD, "TPM2_CC_Load")
        tools.run("load", "-C", "ip.ctx", "-P", session, "-u", "dup.pub", "-r", "key.priv", "-c", "key.ctx")
        tools.end_session()


@pytest.fixture(scope="module")
def host(tools: Tools) -> Iterator[Host]:
    unique = (b"\x20\x00" + bytes(32)) * 2  # tpm2-tools takes sizes in host order
    tools.put("unique", unique)
    tools.run(
        "createprimary", "-C", "o", "-G", "ecc256:aes128cfb", "-a", STORAGE + "|userwithauth", "-u", "unique",
        "-c", "srk.ctx",
    )  # fmt: skip
    tools.put("ip.policy", policy.IMPORT_PARENT_POLICY)
    tools.run(
        "create", "-C", "srk.ctx", "-G", "ecc256:aes128cfb", "-a", STORAGE + "|adminwithpolicy",
        "-L", "ip.policy", "-u", "ip.pub", "-r", "ip.priv",
    )  # fmt: skip
    tools.run("load", "-C", "srk.ctx", "-u", "ip.pub", "-r", "ip.priv", "-c", "ip.ctx")
    tools.run(
        "createprimary", "-C", "e", "-G", "ecc256:ecdsa-sha256:null",
        "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign", "-c", "ak.ctx",
    )  # fmt: skip
    yield Host(tools, tools.public_of("srk.ctx"), tools.public_of("ip.ctx"), tools.public_of("ak.ctx"))


class TestTemplates:
    def test_keys_made_by_a_tpm_fit(self, host: Host) -> None:
        for raw, template in (
            (host.srk, templates.SRK),
            (host.import_parent, templates.IMPORT_PARENT),
            (host.ak, templates.AK),
        ):
            public = check_template(raw, template, template.name)
            assert public_of(template, public.point) == raw

    def test_eks_of_swtpm_fit(self, host: Host) -> None:
        for handle in (EK_RSA_HANDLE, EK_ECC_HANDLE):
            raw = host.tools.public_of(handle)
            template = templates.ek_template_of(raw)
            public = check_template(raw, template, "ek")
            assert public_of(template, public.point or public.modulus) == raw

    def test_ek_p256_of_tpm2_tools_fits_and_activates(self, host: Host) -> None:
        tools = host.tools
        tools.run("createek", "-G", "ecc", "-c", "ek-p256.ctx", "-u", "ek-p256.pub")
        raw = tools.public_of("ek-p256.ctx")
        assert templates.ek_template_of(raw) is templates.EK_ECC_P256
        id_object, encrypted = make_credential(raw, name_of(host.ak), b"secret")
        tools.put("cred", bytes.fromhex("badcc0de00000001") + b2(id_object) + b2(encrypted))
        tools.start_session()
        tools.run("policysecret", "-S", "s.ctx", "-c", "e")
        tools.run(
            "activatecredential", "-c", "ak.ctx", "-C", "ek-p256.ctx", "-i", "cred", "-o", "cred.out",
            "-P", "session:s.ctx",
        )  # fmt: skip
        assert tools.get("cred.out") == b"secret"

    def test_weaker_import_parent_is_refused_by_field(self, host: Host) -> None:
        with pytest.raises(EnrollmentRefused) as refused:
            check_template(host.srk, templates.IMPORT_PARENT, "import-parent")
        assert refused.value.fields["check"] == "import-parent.attributes"
        assert "userWithAuth" in refused.value.message


class TestProfileKey:
    """A key duplicated in software, imported, and used under an approval."""

    def make(self, host: Host) -> tuple[SoftwareSigner, SoftwareSigner, bytes]:
        approver, key = SoftwareSigner.generate(), SoftwareSigner.generate()
        name = name_of(verifier_public(approver.point))
        ref = policy.profile_ref("web", 1, "", policy.MODE_STANDING)
        public = profile_key_public(key.point, policy.profile_key_policy(name, ref))
        host.import_blob(duplicate(key.scalar(), public, host.import_parent))
        assert host.tools.public_of("key.ctx") == public
        return approver, key, name

    def dh(self, host: Host, approver: SoftwareSigner, approval: Approval) -> Callable[[bytes], bytes]:
        """The Diffie-Hellman step in the TPM, under this approval."""
        tools = host.tools
        approved, ref = approval.approved_policy, approval.policy_ref

        def run(enc: bytes) -> bytes:
            x, y = coordinates(enc)
            tools.put("point", b2(b2(x) + b2(y)))
            tools.put("approver.pub", b2(verifier_public(approver.point)))
            tools.run("loadexternal", "-C", "o", "-u", "approver.pub", "-c", "approver.ctx")
            tools.put("approved-and-ref", approved + ref)
            tools.put("asig", approval.signature_der)
            tools.run(
                "verifysignature", "-c", "approver.ctx", "-g", "sha256", "-m", "approved-and-ref", "-f", "ecdsa",
                "-s", "asig", "-t", "ticket",
            )  # fmt: skip
            tools.start_session()
            try:
                tools.run("policypcr", "-S", "s.ctx", "-l", "sha256:0,2,4,7")
                tools.put("approved", approved)
                tools.put("ref", ref)
                tools.put("approver.name", name_of(verifier_public(approver.point)))
                tools.run(
                    "policyauthorize", "-S", "s.ctx", "-i", "approved", "-q", "ref", "-n", "approver.name",
                    "-t", "ticket",
                )  # fmt: skip
                tools.run("policycommandcode", "-S", "s.ctx", "TPM2_CC_ECDH_ZGen")
                tools.run("ecdhzgen", "-c", "key.ctx", "-p", "session:s.ctx", "-u", "point", "-o", "z")
            finally:
                tools.end_session()
            z = Reader(tools.get("z"), "TPM2B_ECC_POINT")
            z.u16()
            return z.sized16()

        return run

    def pcr_values(self, host: Host) -> dict[int, bytes]:
        host.tools.run("pcrread", "sha256:0,2,4,7", "-o", "pcrs")
        raw = host.tools.get("pcrs")
        return {index: raw[32 * n : 32 * n + 32] for n, index in enumerate((0, 2, 4, 7))}

    def test_opens_a_wrap_in_the_approved_state(self, host: Host) -> None:
        approver, key, _ = self.make(host)
        approval = sign_approval(
            approver, profile="web", epoch=1, cell="", selection=SELECTION, pcr_values=self.pcr_values(host)
        )
        dh = self.dh(host, approver, approval)
        secret = os.urandom(32)
        wrap = seal(key.point, b"info", secret)
        assert open_with_dh(wrap, b"info", key.point, dh) == Secret(secret)
        with pytest.raises(IntegrityRefused):
            open_with_dh(wrap, b"other info", key.point, dh)

    def test_approval_of_another_state_or_epoch_does_nothing(self, host: Host) -> None:
        approver, key, _ = self.make(host)
        values = self.pcr_values(host)
        wrap = seal(key.point, b"", b"secret")
        other_state = {**values, 4: bytes(31) + b"\1"}
        for refused_by, profile, epoch, state in (
            ("tpm2_ecdhzgen", "web", 2, values),
            ("tpm2_ecdhzgen", "db", 1, values),
            ("tpm2_policyauthorize", "web", 1, other_state),
        ):
            approval = sign_approval(
                approver, profile=profile, epoch=epoch, cell="", selection=SELECTION, pcr_values=state
            )
            with pytest.raises(AssertionError, match=refused_by):
                open_with_dh(wrap, b"", key.point, self.dh(host, approver, approval))

    def test_password_does_nothing(self, host: Host) -> None:
        _, key, _ = self.make(host)
        x, y = coordinates(key.point)
        host.tools.put("point", b2(b2(x) + b2(y)))
        assert host.tools.try_run("ecdhzgen", "-c", "key.ctx", "-u", "point", "-o", "z").returncode != 0

    def test_altered_blob_is_refused_by_the_tpm(self, host: Host) -> None:
        key = SoftwareSigner.generate()
        blob = duplicate(key.scalar(), profile_key_public(key.point, bytes(32)), host.import_parent)
        altered = blob.duplicate[:-1] + bytes([blob.duplicate[-1] ^ 1])
        with pytest.raises(AssertionError, match="tpm2_import"):
            host.import_blob(DuplicateBlob(blob.public, altered, blob.in_sym_seed))
        host.tools.end_session()

    def test_duplicate_refuses_an_srk_as_parent(self, host: Host) -> None:
        key = SoftwareSigner.generate()
        public = profile_key_public(key.point, bytes(32))
        with pytest.raises(EnrollmentRefused):
            duplicate(key.scalar(), public, host.srk)
        assert duplicate_to_any_parent(key.scalar(), public, host.srk).public == public


class TestCredential:
    def activate(self, host: Host, handle: str, id_object: bytes, encrypted: bytes) -> tuple[int, bytes]:
        tools = host.tools
        tools.put("cred", bytes.fromhex("badcc0de00000001") + b2(id_object) + b2(encrypted))
        arguments = ["-c", "ak.ctx", "-C", handle, "-i", "cred", "-o", "cred.out"]
        if handle == EK_RSA_HANDLE:
            tools.start_session()
            tools.run("policysecret", "-S", "s.ctx", "-c", "e")
            arguments += ["-P", "session:s.ctx"]
        result = tools.try_run("activatecredential", *arguments)
        if handle == EK_RSA_HANDLE:
            tools.end_session()
        return result.returncode, tools.get("cred.out") if result.returncode == 0 else b""

    @pytest.mark.parametrize("handle", [EK_RSA_HANDLE, EK_ECC_HANDLE])
    @pytest.mark.parametrize("size", [1, 16, 32])
    def test_activates(self, host: Host, handle: str, size: int) -> None:
        secret = os.urandom(size)
        blobs = make_credential(host.tools.public_of(handle), name_of(host.ak), secret)
        assert self.activate(host, handle, *blobs) == (0, secret)

    @pytest.mark.parametrize("handle", [EK_RSA_HANDLE, EK_ECC_HANDLE])
    def test_another_object_cannot_activate(self, host: Host, handle: str) -> None:
        blobs = make_credential(host.tools.public_of(handle), name_of(host.srk), b"secret")
        code, _ = self.activate(host, handle, *blobs)
        assert code != 0


class TestAttest:
    def quote(self, host: Host, nonce: bytes) -> tuple[bytes, bytes]:
        host.tools.run(
            "quote", "-c", "ak.ctx", "-l", "sha256:0,2,4,7", "-q", nonce.hex(), "-m", "quote.msg", "-s", "quote.sig",
            "-f", "plain", "-g", "sha256",
        )  # fmt: skip
        return host.tools.get("quote.msg"), host.tools.get("quote.sig")

    def test_quote(self, host: Host) -> None:
        nonce = os.urandom(32)
        raw, signature = self.quote(host, nonce)
        quote = verify_quote(raw, signature, host.ak, nonce)
        assert isinstance(quote, VerifiedQuote)
        assert quote.selection == SELECTION
        assert quote.pcr_digest == pcr_digest(TestProfileKey().pcr_values(host), SELECTION)
        assert quote.clock_info.clock > 0

    def test_quote_refusals_name_the_check(self, host: Host) -> None:
        nonce = os.urandom(32)
        raw, signature = self.quote(host, nonce)
        other = SoftwareSigner.generate()
        cases = [
            ("quote-nonce", (raw, signature, host.ak, os.urandom(32))),
            ("quote-signature", (raw[:-1] + bytes([raw[-1] ^ 1]), signature, host.ak, nonce)),
            ("quote-signature", (raw, signature, public_of(templates.AK, other.point), nonce)),
            ("quote-signature", (raw, b"not DER", host.ak, nonce)),
            ("quote-ak", (raw, signature, host.srk, nonce)),
        ]
        for check, arguments in cases:
            with pytest.raises(EvidenceRefused) as refused:
                verify_quote(*arguments)
            assert refused.value.fields["check"] == check

    def certify(self, host: Host, context: str, *auth: str) -> tuple[bytes, bytes]:
        host.tools.run(
            "certify", "-c", context, "-C", "ak.ctx", "-g", "sha256", "-o", "certify.msg", "-s", "certify.sig",
            "-f", "plain", *auth,
        )  # fmt: skip
        return host.tools.get("certify.msg"), host.tools.get("certify.sig")

    def test_certify(self, host: Host) -> None:
        raw, signature = self.certify(host, "srk.ctx")
        verify_certify(raw, signature, host.ak, host.srk, TOOLS_QUALIFYING_DATA, "srk", ancestors=())
        with pytest.raises(EnrollmentRefused) as refused:
            verify_certify(raw, signature, host.ak, host.import_parent, TOOLS_QUALIFYING_DATA, "import-parent")
        assert refused.value.fields["check"] == "import-parent.certify-name"
        with pytest.raises(EnrollmentRefused) as refused:
            verify_certify(raw, signature, host.ak, host.srk, TOOLS_QUALIFYING_DATA, "srk", ancestors=(host.srk,))
        assert refused.value.fields["check"] == "srk.certify-qualified-name"
        with pytest.raises(EnrollmentRefused) as refused:
            verify_certify(raw, signature, host.ak, host.srk, b"nonce", "srk")
        assert refused.value.fields["check"] == "srk.certify-nonce"
        with pytest.raises(EvidenceRefused) as evidence:
            verify_quote(raw, signature, host.ak, TOOLS_QUALIFYING_DATA)
        assert evidence.value.fields["check"] == "quote-type"

    def test_certify_import_parent_under_its_policy(self, host: Host) -> None:
        session = host.import_parent_session(0x148, "TPM2_CC_Certify")
        raw, signature = self.certify(host, "ip.ctx", "-P", session)
        host.tools.end_session()
        verify_certify(
            raw, signature, host.ak, host.import_parent, TOOLS_QUALIFYING_DATA, "import-parent", ancestors=(host.srk,)
        )

    def test_an_ak_of_the_owner_hierarchy_is_refused(self, host: Host) -> None:
        tools = host.tools
        tools.run(
            "createprimary", "-C", "o", "-G", "ecc256:ecdsa-sha256:null",
            "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign", "-c", "owner-ak.ctx",
        )  # fmt: skip
        tools.run(
            "quote", "-c", "owner-ak.ctx", "-l", "sha256:0", "-q", "aabb", "-m", "q", "-s", "qs", "-f", "plain",
            "-g", "sha256",
        )  # fmt: skip
        with pytest.raises(EvidenceRefused) as refused:
            verify_quote(tools.get("q"), tools.get("qs"), tools.public_of("owner-ak.ctx"), bytes.fromhex("aabb"))
        assert refused.value.fields["check"] == "quote-signer"

    def test_qualified_names(self, host: Host) -> None:
        host.tools.run("readpublic", "-c", "ip.ctx", "-q", "qualified.out")
        assert host.tools.get("qualified.out") == qualified_name(0x40000001, host.srk, host.import_parent)
        host.tools.run("readpublic", "-c", EK_ECC_HANDLE, "-q", "qualified.out")
        assert host.tools.get("qualified.out") == qualified_name(0x4000000B, host.tools.public_of(EK_ECC_HANDLE))


class TestEkCertificate:
    def der(self, path: Path) -> bytes:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)

    @pytest.mark.parametrize(
        ("index", "handle"), [(EK_RSA_CERTIFICATE, EK_RSA_HANDLE), (EK_ECC_CERTIFICATE, EK_ECC_HANDLE)]
    )
    def test_swtpm_certificate_verifies_and_matches(self, tools: Tools, index: str, handle: str) -> None:
        certificate = tools.run("nvread", index, "-C", "o")
        root = ekcert.TrustRoot(self.der(tools.root_pem), "lab")
        verified = ekcert.verify_ek_certificate(
            certificate + b"\xff" * 100, [self.der(tools.issuer_pem)], [root], datetime.now(UTC)
        )
        assert verified.trust_class == "lab"
        assert (verified.manufacturer, verified.model) == ("id:00001014", "swtpm")
        ekcert.ek_matches(verified.public_key, tools.public_of(handle))
        other = EK_ECC_HANDLE if handle == EK_RSA_HANDLE else EK_RSA_HANDLE
        with pytest.raises(EnrollmentRefused) as refused:
            ekcert.ek_matches(verified.public_key, tools.public_of(other))
        assert refused.value.fields["check"] == "ek.certificate-key"
