"""All commands of ``leitwolf``."""

from __future__ import annotations

import click

from leitwolf import __version__
from leitwolf.cli import backup, cluster, force, groups, inspect, nodes, resources, witness
from leitwolf.cli.common import Context
from leitwolf.cli.run import run

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="leitwolf")
@click.option(
    "--runtime",
    envvar="LEITWOLF_RUNTIME",
    default="/run/leitwolf",
    show_default=True,
    help="Runtime directory of the daemon to talk to.",
)
@click.option(
    "--if-index",
    type=click.IntRange(0),
    metavar="N",
    help="Change something only if the configuration is still as of entry N (status names it).",
)
@click.pass_context
def cli(context: click.Context, runtime: str, if_index: int | None) -> None:
    """Keep services available on a cluster of Linux machines."""
    context.obj = Context(runtime, if_index)


for module in (inspect, cluster, groups, resources, nodes, witness, backup, force):
    for command in module.COMMANDS:
        cli.add_command(command)

cli.add_command(run)
