"""Entry point: the table of commands, global conduct, and the one place where errors become exit codes."""

from __future__ import annotations

import sys

import click

from sealvm.cli.lazy import LazyGroup

_COMMANDS = {
    "demo": ("sealvm.cli.demo", "demo", "One VM, three hosts, one of them tampered with; see who may start it."),
    "doctor": ("sealvm.cli.doctor", "doctor", "Check what this machine lacks for the role it is to play."),
    "lab": ("sealvm.cli.lab", "lab", "A computing network on this machine, with software TPMs."),
    "authority": ("sealvm.cli.authority", "authority", "Set up and serve the authority, which owns profile keys."),
    "approver": ("sealvm.cli.approver", "approver", "Sign approvals on a machine that has no network."),
    "bundle": ("sealvm.cli.bundle", "bundle", "Carry the trust bundle on a stick."),
    "profile": ("sealvm.cli.profile", "profile", "Define security profiles and approve host states."),
    "host": ("sealvm.cli.host", "host", "Enroll hosts, keep them in step, explain what they can open."),
    "provisioner": ("sealvm.cli.provisioner", "provisioner", "Keys that sign launch packages, and who trusts them."),
    "package": ("sealvm.cli.package", "package", "Build, inspect and verify launch packages."),
    "vm": ("sealvm.cli.vm", "vm", "Launch sealed VMs on this host and look after them."),
    "audit": ("sealvm.cli.audit", "audit", "Export and verify the authority's audit log."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sealvm", prog_name="sealvm")
def cli() -> None:
    """Virtual machines that start only on computers in a trustworthy state."""


def main() -> None:
    """Run the program; every `SealvmError` becomes its documented exit code, anything else is an internal fault."""
    # errors first: they import nothing, and the rest of sealvm is loaded by the command that needs it
    from sealvm.cli.exit_codes import INTERRUPTED, exit_code_of
    from sealvm.cli.output import report_error
    from sealvm.errors import SealvmError

    try:
        sys.exit(cli.main(prog_name="sealvm", standalone_mode=False))
    except click.Abort:
        click.echo("sealvm: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as usage:
        usage.show()
        sys.exit(usage.exit_code)
    except SealvmError as error:
        code = exit_code_of(error)
        report_error(error, code, json_wanted="--json" in sys.argv[1:])
        sys.exit(code)
