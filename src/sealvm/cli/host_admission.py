"""`sealvm host register|pending|approve|replace|remove`: an operator lets hosts in and out."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.options import authority_option, json_option
from sealvm.cli.output import emit, table

HOUR_SECONDS = 3600
valid_option = click.option(
    "--valid-hours",
    type=click.IntRange(1, 720),
    default=24,
    show_default=True,
    help="How long the join ticket may be used.",
)
ticket_option = click.option(
    "--ticket", type=click.Path(path_type=Path), help="Where to write the ticket. [default: NAME.ticket]"
)


@click.command()
@click.argument("name", required=False)
@click.option("--ek", "ek_digest", help="Digest of the host's EK, from `sealvm host ek`. Without it: see --pending.")
@click.option("--pending", "expected", is_flag=True, help="The EK is not known yet; approve it when the host shows it.")
@click.option("--again", is_flag=True, help="Another ticket for a host that is registered already.")
@ticket_option
@click.option(
    "--file", "file", type=click.Path(path_type=Path), help="Register many: CSV or JSON lines, name,ek_digest."
)
@click.option("--tickets", type=click.Path(path_type=Path), help="With --file: the folder for the tickets.")
@valid_option
@authority_option
@json_option
def register(
    *,
    name: str | None,
    ek_digest: str | None,
    expected: bool,
    again: bool,
    ticket: Path | None,
    file: Path | None,
    tickets: Path | None,
    valid_hours: int,
    authority_dir: Path,
) -> None:
    """Let the host NAME join, once; writes its join ticket, which is secret until it is used.

    With --file all hosts in FILE, whose tickets go to a folder. A file can be given again: hosts that have not enrolled
    get another ticket, hosts that have are left alone.
    """
    seconds = valid_hours * HOUR_SECONDS
    if file is not None:
        if name or ek_digest or expected or again or ticket:
            raise click.UsageError("--file goes with --tickets, and with no NAME, --ek, --pending, --again or --ticket")
        _register_file(authority_dir, file, tickets or Path("tickets"), seconds)
        return
    if name is None or tickets is not None:
        raise click.UsageError("give the host's NAME, or --file with --tickets")
    if again + expected + (ek_digest is not None and not again) != 1:
        raise click.UsageError("give one of --ek DIGEST, --pending and --again")
    _register_one(authority_dir, name, None if again or expected else ek_digest, ticket, seconds, again=again)


@click.command()
@authority_option
@json_option
def pending(authority_dir: Path) -> None:
    """Hosts that presented a certified EK which nobody registered, and wait for approval."""
    from sealvm.client.hosts import pending_hosts
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        rows = [view.model_dump(mode="json") for view in pending_hosts(client)]
    emit(rows, table(rows, ["name", "trust_class", "tpm", "last_seen", "ek_digest"], "no host waits"))


@click.command()
@click.argument("name")
@click.option(
    "--ek", "ek_digest", required=True, help="Digest of its EK, from a trusted source: `sealvm host ek` there."
)
@authority_option
@json_option
def approve(name: str, ek_digest: str, authority_dir: Path) -> None:
    """Let the pending host NAME enroll, with exactly the EK that DIGEST names.

    Compare with what the host itself says (`sealvm host ek`), not with `sealvm host pending`: that shows whoever came
    with its ticket first.
    """
    from sealvm.client.hosts import approve_host
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        view = approve_host(client, name, ek_digest)
    emit(
        view.model_dump(mode="json"),
        [f"host '{name}' ({view.tpm}, class {view.trust_class}) may enroll with the ticket it has"],
    )


@click.command()
@click.argument("name")
@click.option("--ek", "ek_digest", required=True, help="Digest of the new TPM's EK, from `sealvm host ek`.")
@ticket_option
@valid_option
@authority_option
@json_option
def replace(name: str, ek_digest: str, ticket: Path | None, valid_hours: int, authority_dir: Path) -> None:
    """Give the host NAME another TPM, as after a motherboard swap.

    All that the old TPM was known for is void. The host keeps its name and its disks, which reopen by their profiles
    once it has enrolled with the new ticket and is in an approved state.
    """
    from sealvm.client.hosts import replace_host
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        view = replace_host(client, name, ek_digest, valid_hours * HOUR_SECONDS)
    data = view.model_dump(mode="json", exclude={"ticket"})
    lines = [f"host '{name}' has another TPM now", *(f"  {line}" for line in view.says)]
    if view.ticket is not None:
        path = _write_ticket(ticket or Path(f"{name}.ticket"), view.ticket.model_dump_json())
        data["ticket"] = str(path)
        lines.append(f"enroll it with {path}, until {view.ticket.expires:%Y-%m-%d %H:%M} UTC")
    emit(data, lines)


@click.command()
@click.argument("name")
@click.option(
    "--rotate", is_flag=True, help="Start new epochs, without it, of the standing profiles whose keys it has."
)
@click.option("--dry-run", is_flag=True, help="Only say what it would take, and what it cannot take.")
@authority_option
@json_option
def remove(name: str, rotate: bool, dry_run: bool, authority_dir: Path) -> None:
    """Remove the host NAME: it gets nothing more from the authority.

    Nothing reaches into its TPM: standing keys there keep opening, while its state is approved, everything that is
    wrapped to their epochs. A rotation protects only new packages, and re-wrapped ones whose old wraps it cannot
    obtain.
    """
    from sealvm.client.hosts import remove_host
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        view = remove_host(client, name, rotate=rotate, dry_run=dry_run)
    headline = f"host '{name}' would be removed" if dry_run else f"host '{name}' is removed"
    emit(
        view.model_dump(mode="json", exclude={"ticket"}),
        [f"{headline} (dry run)" if dry_run else headline, *(f"  {line}" for line in view.says)],
    )


def _register_one(
    authority_dir: Path, name: str, ek_digest: str | None, ticket: Path | None, seconds: int, *, again: bool
) -> None:
    from sealvm.client.hosts import expect_host
    from sealvm.client.operator import operator_client

    with operator_client(authority_dir) as client:
        if again:
            issued = client.issue_ticket(name, seconds)
        elif ek_digest is None:
            issued = expect_host(client, name, seconds)
        else:
            issued = client.register_host(name, ek_digest, seconds)
    path = _write_ticket(ticket or Path(f"{name}.ticket"), issued.model_dump_json())
    lines = [f"host '{name}' may enroll once with {path}, until {issued.expires:%Y-%m-%d %H:%M} UTC"]
    if ek_digest is None and not again:
        lines.append(f"its first attempt will wait for: sealvm host approve {name} --ek DIGEST")
    emit({"host": issued.host, "ticket": str(path), "expires": issued.expires.isoformat()}, lines)


def _register_file(authority_dir: Path, file: Path, folder: Path, seconds: int) -> None:
    from sealvm.client.hosts import register_hosts
    from sealvm.client.operator import operator_client
    from sealvm.errors import MalformedError
    from sealvm.host.files import read_limited
    from sealvm.protocol.hosts import BULK_LIMIT
    from sealvm.protocol.registrations import FILE_BYTES_LIMIT, parse_registrations

    try:
        text = read_limited(file, FILE_BYTES_LIMIT, hint="name the file with the hosts").decode()
    except UnicodeDecodeError as problem:
        raise MalformedError(f"{file}: is not UTF-8 text") from problem
    hosts = parse_registrations(text, str(file))
    rows = []
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with operator_client(authority_dir) as client:
        for first in range(0, len(hosts), BULK_LIMIT):
            for result in register_hosts(client, hosts[first : first + BULK_LIMIT], seconds):
                path = ""
                if result.ticket is not None:
                    path = str(_write_ticket(folder / f"{result.name}.ticket", result.ticket.model_dump_json()))
                rows.append({"host": result.name, "outcome": result.outcome, "ticket": path})
    emit(rows, table(rows, ["host", "outcome", "ticket"], "the file names no host"))


def _write_ticket(path: Path, text: str) -> Path:
    from sealvm.store.atomic import write_atomic

    write_atomic(path, text.encode(), 0o600)
    return path
