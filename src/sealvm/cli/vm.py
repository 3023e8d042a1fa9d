"""`sealvm vm`: launch sealed VMs on this host and look after them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealvm.cli.options import host_option, json_option
from sealvm.cli.output import emit, note, table

if TYPE_CHECKING:
    from sealvm.host.config import HostConfig
    from sealvm.host.hypervisor.qemu import Qemu
    from sealvm.host.instances import Instance
    from sealvm.host.keyring import StoredLease
    from sealvm.host.launch import LaunchReport

WAIT_SECONDS = 120


@click.group()
def vm() -> None:
    """Launch sealed VMs on this host and look after them."""


@vm.command()
@click.argument("reference")
@click.option("--name", help="What to call the instance. [default: vm- and random digits]")
@click.option("--memory", "memory_mib", type=click.IntRange(16), help="MiB. [default: what the package needs]")
@click.option("--cpus", type=click.IntRange(1, 255), default=1, show_default=True)
@click.option(
    "--disk-size", "disk_mib", type=click.IntRange(1), help="MiB, at least the image's. [default: the image's]"
)
@click.option("--wait", "wait_text", help="Wait until the guest's console shows this text.")
@click.option("--timeout", type=click.FloatRange(1), default=WAIT_SECONDS, show_default=True, help="Seconds to wait.")
@click.option("--report", is_flag=True, help="Show how long each step took.")
@host_option
@json_option
def launch(
    *,
    reference: str,
    name: str | None,
    memory_mib: int | None,
    cpus: int,
    disk_mib: int | None,
    wait_text: str | None,
    timeout: float,
    report: bool,
    host_dir: Path,
) -> None:
    """Start a VM from the launch package REFERENCE (oci:DIR[:TAG]), if this host's state satisfies its profiles.

    Asks nobody. A refusal says which PCR and which boot event differ, and exits with 20.
    """
    from sealvm.host import launch as pipeline
    from sealvm.host.config import load_host
    from sealvm.store.reference import parse_reference

    config = load_host(host_dir)
    options = pipeline.LaunchOptions(name, memory_mib, cpus, disk_mib * 2**20 if disk_mib else None)
    began = time.monotonic()
    hypervisor = _hypervisor(host_dir)
    started = pipeline.launch(config, parse_reference(reference), options, hypervisor, _renewed)
    _finish(started, hypervisor, began, wait_text, timeout, report=report)


@vm.command()
@click.argument("name")
@click.option("--wait", "wait_text", help="Wait until the guest's console shows this text.")
@click.option("--timeout", type=click.FloatRange(1), default=WAIT_SECONDS, show_default=True, help="Seconds to wait.")
@host_option
@json_option
def start(name: str, wait_text: str | None, timeout: float, host_dir: Path) -> None:
    """Start the stopped instance NAME again, with its own disk, if the host's state still satisfies its profiles."""
    from sealvm.host import launch as pipeline
    from sealvm.host.config import load_host

    began = time.monotonic()
    hypervisor = _hypervisor(host_dir)
    started = pipeline.start(load_host(host_dir), name, hypervisor, _renewed)
    _finish(started, hypervisor, began, wait_text, timeout, report=False)


@vm.command("list")
@host_option
@json_option
def list_vms(host_dir: Path) -> None:
    """The instances of this host."""
    from sealvm.host.instances import list_instances

    rows = [_view(instance) for instance in list_instances(host_dir, _hypervisor(host_dir))]
    emit(rows, table(rows, ["name", "state", "memory_mib", "cpus", "started", "reference"], "no instances"))


@vm.command()
@click.argument("name")
@host_option
@json_option
def show(name: str, host_dir: Path) -> None:
    """One instance, with what its block server refused to serve."""
    from sealvm.host.instances import show_instance

    view = _view(show_instance(host_dir, name, _hypervisor(host_dir)))
    emit(
        view, [f"{key.replace('_', '-'):12} {value}" for key, value in view.items() if key != "events"] + view["events"]
    )


@vm.command()
@click.argument("name")
@host_option
def console(name: str, host_dir: Path) -> None:
    """Join the serial console of the instance NAME; Ctrl-] leaves it."""
    from sealvm.host.instances import open_console

    with open_console(host_dir, name, _hypervisor(host_dir)) as joined:
        if sys.stdin.isatty():
            note(f"console of {name}; Ctrl-] leaves it")
        joined.attach(sys.stdin.fileno(), sys.stdout.fileno())


@vm.command()
@click.argument("name")
@click.option("--grace", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds to let it shut down.")
@host_option
@json_option
def stop(name: str, grace: float, host_dir: Path) -> None:
    """Stop the instance NAME: its power button, and after the grace time its plug."""
    from sealvm.host.instances import stop_instance

    stop_instance(host_dir, name, _hypervisor(host_dir), grace)
    emit({"name": name, "state": "stopped"}, [f"{name} is stopped"])


@vm.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when it runs.")
@host_option
@json_option
def rm(name: str, force: bool, host_dir: Path) -> None:
    """Remove the instance NAME: its keys are erased, and its disk with them."""
    from sealvm.host.instances import remove_instance

    remove_instance(host_dir, name, _hypervisor(host_dir), force=force)
    emit({"name": name, "removed": True}, [f"{name} is removed"])


def _renewed(config: HostConfig, profile: str, epoch: int, cell: str) -> StoredLease:
    """Ask the authority for a lease; loads what speaks to it only where a launch lacks one."""
    from sealvm.host.lease import renew

    return renew(config, profile, epoch, cell)


def _hypervisor(host_dir: Path) -> Qemu:
    from sealvm.host.hypervisor.probe import working_accelerator
    from sealvm.host.hypervisor.qemu import Qemu

    return Qemu(working_accelerator(host_dir))


def _finish(
    started: LaunchReport, hypervisor: Qemu, began: float, wait_text: str | None, timeout: float, *, report: bool
) -> None:
    """Wait for the guest if that was asked for, then say what was started."""
    from sealvm.host.instances import wait_console

    record = started.launched.record
    data: dict[str, Any] = {
        "name": record.id,
        "package": record.header_digest,
        "version": started.package.header.version,
        "accelerator": hypervisor.accelerator,
        "tpm_ms": started.tpm_seconds * 1000,
        "tpm_uses": started.tpm_uses,
        "steps": {name: round(seconds, 4) for name, seconds in started.steps.seconds.items()},
        "warnings": list(started.warnings),
    }
    for warning in started.warnings:
        note(f"warning: {warning}")
    lines = [f"{record.id} runs ({hypervisor.accelerator}); unwrapped in TPM {data['tpm_ms']:.0f} ms"]
    with started.launched.console:
        if wait_text:
            seen = wait_console(started.launched, wait_text, timeout, hypervisor)
            data |= {"guest_seconds": time.monotonic() - began, "line": seen.lines[-1].strip()}
            lines += [f"  guest in {data['guest_seconds']:.1f} s", f"  guest> {data['line']}"]
    if report:
        lines += [f"  {name:8} {seconds * 1000:8.1f} ms" for name, seconds in started.steps.seconds.items()]
    emit(data, lines)


def _view(instance: Instance) -> dict[str, Any]:
    record = instance.record
    return {
        "name": record.id,
        "state": instance.state.value,
        "package": record.header_digest,
        "reference": record.labels.get("reference", ""),
        "memory_mib": record.memory_mib,
        "cpus": record.cpus,
        "disk_bytes": record.disk_bytes,
        "created": record.created.isoformat(),
        "started": record.started.isoformat() if record.started else "",
        "events": list(instance.events),
    }
