"""Options that several commands share, and where things lie when they are not given.

A command finds its authority, host and provisioner in this order: its option, the environment variable, the lab in this
folder (`.sealvm/lab`, or `SEALVM_LAB`) when one is up, and last the system's place under /var/lib/sealvm.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sealvm.errors import NotFoundError

Function = TypeVar("Function", bound=Callable[..., Any])
SYSTEM = Path("/var/lib/sealvm")


def _keep_json(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    ctx.meta["sealvm.json"] = value
    return value


def json_option(function: Function) -> Function:
    """`--json`: machine-readable output."""
    option = click.option("--json", is_flag=True, expose_value=False, callback=_keep_json, help="Print JSON.")
    return option(function)


def authority_option(function: Function) -> Function:
    """`--authority`, resolved to a folder."""

    @click.option(
        "--authority",
        "authority_dir",
        type=click.Path(path_type=Path),
        envvar="SEALVM_AUTHORITY",
        help="The authority's folder, or a copy of its endpoint.json, CA and token. [env: SEALVM_AUTHORITY]",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, authority_dir: Path | None, **kwargs: Any) -> Any:
        return function(*args, authority_dir=authority_dir or _place("authority", "authority"), **kwargs)

    return wrapped  # type: ignore[return-value]


def host_option(function: Function) -> Function:
    """`--host`, resolved to a host's folder."""

    @click.option(
        "--host", "host", envvar="SEALVM_HOST", help="A host of the lab, or a host's folder. [env: SEALVM_HOST]"
    )
    @functools.wraps(function)
    def wrapped(*args: Any, host: str | None, **kwargs: Any) -> Any:
        return function(*args, host_dir=host_dir_of(host), **kwargs)

    return wrapped  # type: ignore[return-value]


def host_argument(function: Function) -> Function:
    """`[HOST]`, resolved to a host's folder."""

    @click.argument("host", required=False, envvar="SEALVM_HOST")
    @functools.wraps(function)
    def wrapped(*args: Any, host: str | None, **kwargs: Any) -> Any:
        return function(*args, host_dir=host_dir_of(host), **kwargs)

    return wrapped  # type: ignore[return-value]


def provisioner_option(function: Function) -> Function:
    """`--provisioner`, resolved to a folder."""

    @click.option(
        "--provisioner",
        "provisioner_dir",
        type=click.Path(path_type=Path),
        envvar="SEALVM_PROVISIONER",
        help="The provisioner's folder. [env: SEALVM_PROVISIONER]",
    )
    @functools.wraps(function)
    def wrapped(*args: Any, provisioner_dir: Path | None, **kwargs: Any) -> Any:
        return function(*args, provisioner_dir=provisioner_dir or _place("provisioner", "provisioner"), **kwargs)

    return wrapped  # type: ignore[return-value]


def lab_dir() -> Path:
    """The lab's folder: `SEALVM_LAB`, else `.sealvm/lab` here. It need not exist."""
    return Path(os.environ.get("SEALVM_LAB", ".sealvm/lab")).absolute()


def host_dir_of(host: str | None) -> Path:
    """The folder of the host named `host`: a host of the lab, or a path; by default this machine's own."""
    if host is None:
        return SYSTEM / "host"
    in_lab = lab_dir() / "hosts" / host
    if "/" not in host and in_lab.is_dir():
        return in_lab
    path = Path(host).absolute()
    if not path.is_dir():
        raise NotFoundError(
            f"host {host!r} is neither a host of the lab at {lab_dir()} nor a folder",
            hint="`sealvm lab status` lists the lab's hosts; `sealvm host init` makes the folder of a real one",
        )
    return path


def _place(in_lab: str, in_system: str) -> Path:
    if lab_dir().is_dir():
        return lab_dir() / in_lab
    return SYSTEM / in_system
