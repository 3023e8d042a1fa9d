"""`sealvm demo`: the main job in seven steps."""

from __future__ import annotations

from pathlib import Path

import click

from sealvm.cli.options import lab_dir


@click.command()
@click.option("--cache", type=click.Path(path_type=Path), default=".sealvm/cache", show_default=True)
def demo(cache: Path) -> None:
    """One VM, three hosts, one of them tampered with; see who may start it.

    Makes a lab (in place of one that is there), three software TPMs, an authority and a Debian disk; needs root. The
    first run takes longer: it installs the Debian system into the cache.
    """
    from sealvm.lab.demo.story import tell

    tell(lab_dir(), cache.absolute(), click.echo)
