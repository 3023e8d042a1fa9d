"""`sealvm package`: build, inspect and verify launch packages."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealvm.cli.options import authority_option, json_option, provisioner_option
from sealvm.cli.output import emit, progress
from sealvm.cli.package_rewrap import rewrap

if TYPE_CHECKING:
    from sealvm.package.chunks import Compression


@click.group()
def package() -> None:
    """Build, inspect and verify launch packages."""


package.add_command(rewrap)


@package.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("reference")
@click.option("--profile", "profiles", multiple=True, required=True, help="A profile that may open it; any of several.")
@click.option("--lineage", help="Lineage (hex) that this continues. [default: a new one]")
@click.option(
    "--version", "version", type=click.IntRange(1), default=1, show_default=True, help="Version in its lineage."
)
@click.option("--chunk-size", "chunk_kib", type=click.IntRange(4), help="KiB, a power of two. [default: 128]")
@click.option("--compression", default="zstd", show_default=True, help="zstd[:LEVEL] or none.")
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), default="bios", show_default=True)
@click.option("--memory", "memory_mib", type=click.IntRange(16), default=512, show_default=True, help="MiB it needs.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A trust bundle file instead of the authority's.")
@provisioner_option
@authority_option
@json_option
def build(
    *,
    image: Path,
    reference: str,
    profiles: tuple[str, ...],
    lineage: str | None,
    version: int,
    chunk_kib: int | None,
    compression: str,
    firmware: str,
    memory_mib: int,
    bundle: Path | None,
    provisioner_dir: Path,
    authority_dir: Path,
) -> None:
    """Encrypt the disk IMAGE for profiles into the launch package REFERENCE (oci:DIR[:TAG]). No host is named."""
    from sealvm.cli.files import read_bundle
    from sealvm.client.operator import trusted_bundle
    from sealvm.package.expression import any_of
    from sealvm.package.settings import parse_settings
    from sealvm.provisioner.build import DEFAULT_CHUNK_BYTES, BuildOptions, build_package
    from sealvm.provisioner.keys import load_provisioner_key
    from sealvm.provisioner.recipients import profile_key_refs
    from sealvm.store.reference import parse_reference

    signer = load_provisioner_key(provisioner_dir)
    settings = {"firmware": firmware, "architecture": "x86_64", "min_memory_mib": memory_mib}
    options = BuildOptions(
        lineage=_lineage(lineage),
        version=version,
        chunk_bytes=chunk_kib * 1024 if chunk_kib else DEFAULT_CHUNK_BYTES,
        compression=_compression(compression),
        settings=parse_settings(settings),
    )
    with progress(f"encrypting {image.name}") as report:
        built = build_package(
            image,
            parse_reference(reference),
            expression=any_of(list(profiles)),
            profile_keys=profile_key_refs(trusted_bundle(authority_dir, read_bundle(bundle)), profiles),
            signer=signer,
            options=options,
            progress=report,
        )
    emit(asdict(built), build_lines(built))


@package.command()
@click.argument("reference")
@json_option
def inspect(reference: str) -> None:
    """Everything public about the package REFERENCE. Needs no key, and checks no signature."""
    from sealvm.package.inspect import inspect_package
    from sealvm.store.layout import OciLayout
    from sealvm.store.reference import parse_reference

    place = parse_reference(reference)
    with OciLayout.open(place.directory) as layout:
        found = inspect_package(layout, place.tag)
    emit(found, lambda: _inspect_lines(found))


@package.command()
@click.argument("reference")
@click.option("--deep/--shallow", default=True, show_default=True, help="Read all ciphertext, or only what is signed.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A trust bundle file instead of the authority's.")
@authority_option
@json_option
def verify(reference: str, deep: bool, bundle: Path | None, authority_dir: Path) -> None:
    """Check signature, digests and structure of the package REFERENCE. Needs no key."""
    from sealvm.cli.files import read_bundle
    from sealvm.client.operator import trusted_bundle
    from sealvm.host.unlock import accepted_provisioners
    from sealvm.package.inspect import verify_package
    from sealvm.store.layout import OciLayout
    from sealvm.store.reference import parse_reference

    place = parse_reference(reference)
    accepted = accepted_provisioners(trusted_bundle(authority_dir, read_bundle(bundle)))
    with OciLayout.open(place.directory) as layout, progress(f"verifying {place}") as report:
        verified = verify_package(layout, place.tag, accepted, deep=deep, progress=report)
    emit(
        {"package": verified.header_digest, "provisioner": verified.provisioner_keyid, "deep": deep, "ok": True},
        [
            f"package {verified.header_digest}",
            f"  signed by {verified.provisioner_keyid[:16]}…, accepted for {', '.join(sorted(verified.profiles))}",
            "  every stored byte of the disk is the one that was signed"
            if deep
            else "  signature and structure are good",
        ],
    )


def build_lines(built: Any) -> list[str]:
    """A build's outcome for people."""
    used = f"{mib(built.disk_bytes)} disk, {mib(built.used_bytes)} used"
    return [
        f"{used} -> {mib(built.stored_bytes)} stored in {built.seconds:.1f} s",
        f"package {built.header_digest} version {built.version}, recipients {built.recipients_bytes} bytes",
        f"  {built.reference}",
    ]


def mib(count: int) -> str:
    """A size for people: MiB below 10 GiB, GiB above."""
    return f"{count / 2**30:.1f} GiB" if count >= 10 * 2**30 else f"{count / 2**20:.0f} MiB"


def _compression(text: str) -> Compression:
    from sealvm.errors import InputError
    from sealvm.package.chunks import Compression

    name, _, level = text.partition(":")
    if text == "none":
        return Compression(0)
    if name == "zstd" and (not level or (level.isdigit() and 1 <= int(level) <= 19)):
        return Compression(int(level)) if level else Compression()
    raise InputError(f"--compression: {text[:40]!r} is neither none nor zstd[:1..19]")


def _lineage(text: str | None) -> bytes | None:
    from sealvm.errors import InputError

    if text is None:
        return None
    try:
        lineage = bytes.fromhex(text)
    except ValueError:
        lineage = b""
    if len(lineage) != 16:
        raise InputError(f"--lineage: {text[:40]!r} is not 32 hexadecimal digits")
    return lineage


def _inspect_lines(found: dict[str, Any]) -> list[str]:
    packs = f"{len(found['packs'])} pack{'s' if len(found['packs']) != 1 else ''}"
    lines = [
        f"package     {found['package']}",
        f"lineage     {found['lineage']} version {found['version']}, {found['created']}",
        f"signed by   {', '.join(found['signed_by'])} (not checked; see `package verify`)",
        f"disk        {mib(found['disk_bytes'])}, {found['chunk_bytes'] // 1024} KiB chunks",
        f"stored      {mib(found['stored_bytes'])} in {packs}, index {found['index']['size']} bytes",
        f"opens for   {found['profiles']}",
        f"recipients  {len(found['recipients'])}, {found['recipients_bytes']} bytes",
    ]
    lines += [
        f"  {r['profile']} epoch {r['epoch']}{' cell ' + r['cell'] if r['cell'] else ''}" for r in found["recipients"]
    ]
    settings = ", ".join(f"{key} {value}" for key, value in sorted(found["settings"].items()))
    return [*lines, f"settings    {settings}"]
