"""The verification order: each step refuses by its own error, before the next one looks at anything."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealvm.crypto.dsse import sign_envelope
from sealvm.crypto.ec import SoftwareSigner
from sealvm.errors import (
    IntegrityRefused,
    MalformedError,
    NotFoundError,
    SealvmError,
    SignatureRefused,
    UntrustedRefused,
)
from sealvm.package.expression import AnyOf, ProfileLeaf
from sealvm.package.header import PAYLOAD_TYPE
from sealvm.package.inspect import inspect_package, verify_package
from sealvm.package.locate import header_of, locate
from sealvm.package.open import open_package

from .builder import CHUNK, Built, build


@pytest.fixture
def built() -> Built:
    return build(os.urandom(3 * CHUNK))


def manifest_of(built: Built) -> Any:
    return json.loads(built.store.blobs[built.store.tags["v1"]])


def replace_layer(built: Built, number: int, data: bytes) -> None:
    manifest = manifest_of(built)
    stored = built.store.put_blob(data)
    manifest["layers"][number] |= {"digest": stored.digest, "size": stored.size}
    built.store.put_manifest("v1", manifest)


def test_a_good_package_opens(built: Built) -> None:
    package = built.open()
    assert package.header == built.header
    assert package.header_digest == built.header.digest
    assert package.provisioner_keyid == built.signer.keyid
    assert package.unwrap(built.keys) == built.key


def test_1_manifest_of_something_else(built: Built) -> None:
    built.store.put_manifest("v1", manifest_of(built) | {"artifactType": "application/x"})
    with pytest.raises(MalformedError, match="artifact type"):
        built.open()


def test_1_manifest_with_layers_in_another_order(built: Built) -> None:
    manifest = manifest_of(built)
    manifest["layers"].reverse()
    built.store.put_manifest("v1", manifest)
    with pytest.raises(MalformedError, match="layer of type"):
        built.open()


def test_2_envelope_with_another_digest(built: Built) -> None:
    digest = manifest_of(built)["layers"][0]["digest"]
    built.store.blobs[digest] = built.store.blobs[digest].replace(b"e", b"f", 1)
    with pytest.raises(IntegrityRefused):
        built.open()


def test_2_envelope_with_another_size(built: Built) -> None:
    manifest = manifest_of(built)
    manifest["layers"][0]["size"] += 1
    built.store.put_manifest("v1", manifest)
    with pytest.raises(IntegrityRefused, match="header"):
        built.open()


def test_3_unknown_provisioner(built: Built) -> None:
    with pytest.raises(UntrustedRefused):
        open_package(built.store, "v1", {SoftwareSigner.generate().point: None})


def test_3_bad_signature(built: Built) -> None:
    digest = manifest_of(built)["layers"][0]["digest"]
    envelope = json.loads(built.store.blobs[digest])
    other = json.loads(sign_envelope(PAYLOAD_TYPE, b"{}", built.signer))
    replace_layer(built, 0, json.dumps(envelope | {"signatures": other["signatures"]}).encode())
    with pytest.raises(SignatureRefused):
        built.open()


def test_3_another_statement_of_the_same_signer(built: Built) -> None:
    replace_layer(built, 0, sign_envelope("application/vnd.sealvm.other", built.header.encode(), built.signer))
    with pytest.raises(SignatureRefused, match="payload type"):
        built.open()


def test_4_malformed_header_though_signed(built: Built) -> None:
    replace_layer(built, 0, sign_envelope(PAYLOAD_TYPE, b"{}", built.signer))
    with pytest.raises(MalformedError, match="package header"):
        built.open()


def test_5_provisioner_of_another_profile(built: Built) -> None:
    with pytest.raises(UntrustedRefused, match="not accepted for any"):
        open_package(built.store, "v1", {built.signer.point: ["other"]})


def test_5_only_profiles_of_the_signer_are_tried() -> None:
    built = build(os.urandom(CHUNK), expression=AnyOf((ProfileLeaf("a"), ProfileLeaf("b"))))
    package = open_package(built.store, "v1", {built.signer.point: ["b", "c"]})
    assert package.profiles == {"b"}
    assert package.unwrap(built.keys) == built.key
    assert {name for name, _, _ in built.keys.uses} == {"b"}


@pytest.mark.parametrize("layer", [2, 3])
def test_6_index_or_pack_of_another_package(built: Built, layer: int) -> None:
    replace_layer(built, layer, b"something else")
    with pytest.raises(IntegrityRefused, match="not those that the header signs"):
        built.open()


def test_7_recipients_of_another_package(built: Built) -> None:
    other = build(os.urandom(CHUNK))
    replace_layer(built, 1, other.store.blobs[other.open().manifest.recipients.digest])
    with pytest.raises(IntegrityRefused, match="recipients belong to package"):
        built.open()


def test_8_missing_or_truncated_pack(built: Built) -> None:
    pack = built.header.packs[0].digest
    whole = built.store.blobs[pack]
    built.store.blobs[pack] = whole[:-1]
    with pytest.raises(IntegrityRefused, match="bytes stored"):
        built.open()
    del built.store.blobs[pack]
    with pytest.raises(NotFoundError):
        built.open()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_flipped_byte_in_any_part_is_noticed(data: st.DataObject) -> None:
    built = build(os.urandom(2 * CHUNK))
    manifest = built.store.tags["v1"]
    layers = [layer["digest"] for layer in manifest_of(built)["layers"]]
    digest = [manifest, *layers][data.draw(st.integers(0, len(layers)))]
    raw = bytearray(built.store.blobs[digest])
    raw[data.draw(st.integers(0, 2**32)) % len(raw)] ^= data.draw(st.integers(1, 255))
    built.store.blobs[digest] = bytes(raw)
    with pytest.raises(SealvmError) as refusal:
        verify_package(built.store, "v1", {built.signer.point: None})
    assert isinstance(refusal.value, IntegrityRefused)


def test_verify_reports_progress_and_quick_verify_reads_no_pack(built: Built) -> None:
    seen: list[tuple[int, int]] = []
    verify_package(
        built.store, "v1", {built.signer.point: None}, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1] == built.header.index.blob.size + built.header.packs[0].size
    pack = built.header.packs[0].digest
    built.store.blobs[pack] = bytes(len(built.store.blobs[pack]))
    verify_package(built.store, "v1", {built.signer.point: None}, deep=False)
    with pytest.raises(IntegrityRefused):
        verify_package(built.store, "v1", {built.signer.point: None})


def test_inspect_says_what_is_public_and_needs_no_key(built: Built) -> None:
    seen = inspect_package(built.store, "v1")
    assert seen["package"] == built.header.digest
    assert seen["recipients"] == [{"profile": "p", "epoch": 1, "cell": ""}]
    assert built.key.reveal().hex() not in json.dumps(seen)


def test_locate_by_identity(built: Built) -> None:
    assert locate(built.store, built.header.digest) == built.store.tags["v1"]
    assert header_of(built.store, built.header.digest) == built.header
    with pytest.raises(NotFoundError):
        locate(built.store, "0" * 64)


def test_locate_does_not_believe_the_annotation(built: Built) -> None:
    manifest = manifest_of(built)
    manifest["annotations"]["dev.sealvm.package"] = "1" * 64
    built.store.put_manifest("v1", manifest)
    with pytest.raises(MalformedError, match="holds package"):
        header_of(built.store, "1" * 64)
