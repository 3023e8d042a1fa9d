"""`sealvm host lease`: renew this host's leases, list them, and keep them renewed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sealvm.cli.options import authority_option, host_argument, json_option
from sealvm.cli.output import emit, note, table


@click.group("lease")
def lease() -> None:
    """Leases: what lets this host use the keys of leased profiles, for one term at a time."""


@lease.command()
@host_argument
@click.option("--profile", "profiles", multiple=True, help="Only this profile; repeatable. [default: all leased ones]")
@click.option("--due", "only_due", is_flag=True, help="Only leases of which half of the term is over.")
@json_option
def renew(host_dir: Path, profiles: tuple[str, ...], only_due: bool) -> None:
    """Prove this host's present state to the authority and get a lease for each leased profile key.

    Renews all it can; exits with the first error's code when one fails, and the others' leases are stored all the same.
    """
    from sealvm.errors import NotFoundError, SealvmError
    from sealvm.host import lease as leasing
    from sealvm.host.config import load_host
    from sealvm.host.leases import lease_statuses

    config, now = load_host(host_dir), datetime.now(UTC)
    statuses = [s for s in lease_statuses(config, now) if not profiles or s.key.profile in profiles]
    if unknown := set(profiles) - {status.key.profile for status in statuses}:
        raise NotFoundError(
            f"this host holds no leased key of profile {min(unknown)!r}", hint="fetch new keys with: sealvm host sync"
        )
    failed: SealvmError | None = None
    for status in statuses:
        if only_due and not status.due(now):
            continue
        try:
            leasing.renew(config, status.key.profile, status.key.epoch, status.key.cell)
        except SealvmError as error:
            note(f"{status.key.what}: {error.message}")
            failed = failed or error
    if failed is not None:
        raise failed
    after = lease_statuses(config, datetime.now(UTC))
    _show(config.name, [status for status in after if not profiles or status.key.profile in profiles])


@lease.command("list")
@host_argument
@json_option
def list_leases(host_dir: Path) -> None:
    """This host's leases and when they end, from its own files and TPM. Needs no network."""
    from sealvm.host.config import load_host
    from sealvm.host.leases import lease_statuses

    config = load_host(host_dir)
    _show(config.name, lease_statuses(config, datetime.now(UTC)))


@lease.command("granted")
@authority_option
@json_option
def granted(authority_dir: Path) -> None:
    """As an operator: the newest lease that the authority granted to each host, and when each ends."""
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        rows = [view.model_dump(mode="json") for view in client.leases()]
    emit(rows, table(rows, ["host", "profile", "epoch", "cell", "ends", "ended", "renewals"], "no leases"))


@lease.command()
@host_argument
@json_option
def run(host_dir: Path) -> None:
    """Keep the leases: renew each at half of its term, and pause or stop running VMs as their profiles say at its end.

    Stays in the foreground until it is interrupted; prints a line for whatever happens, with --json one object each.
    """
    import json
    import signal
    import threading

    from sealvm.host.config import load_host
    from sealvm.host.hypervisor.probe import working_accelerator
    from sealvm.host.hypervisor.qemu import Qemu
    from sealvm.host.lease_keeper import Happening, LeaseKeeper
    from sealvm.statements.times import format_time

    as_json = bool(click.get_current_context().meta.get("sealvm.json"))

    def tell(happening: Happening) -> None:
        row = {"time": format_time(happening.time), "what": happening.what}
        row |= {"subject": happening.subject, "says": happening.says}
        line = json.dumps(row) if as_json else f"{row['time']} {row['what']:8} {happening.says}"
        click.echo(line)
        sys.stdout.flush()

    over = threading.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: over.set())
    keeper = LeaseKeeper(load_host(host_dir), Qemu(working_accelerator(host_dir)), tell, lambda: datetime.now(UTC))
    while not over.wait(keeper.step().total_seconds()):
        pass


def _show(name: str, statuses: list[Any]) -> None:
    lines = [f"  {status.key.what}: {status.line()}" for status in statuses]
    emit(
        [status.to_json() for status in statuses],
        [f"host '{name}'", *lines] if lines else [f"host '{name}' holds no leased profile keys"],
    )
