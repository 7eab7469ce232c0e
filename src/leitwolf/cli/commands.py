"""All commands of ``leitwolf``."""

from __future__ import annotations

import click

from leitwolf import __version__
from leitwolf.cli import backup, cluster, force, groups, inspect, nodes, resources, witness
from leitwolf.cli.common import Context, report
from leitwolf.cli.run import run
from leitwolf.model.errors import UsageError

__all__ = ["cli"]


class _Program(click.Group):
    """All commands; with ``--json`` a wrong call, too, is answered by one JSON value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember whether JSON is wanted, before anything can be wrong."""
        ctx.meta[__name__] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if not ctx.meta[__name__]:
                raise
            asked = Context(None)
            asked.json = True
            path = error.ctx.command_path if error.ctx else "leitwolf"
            report(asked, UsageError(error.format_message(), hint=f"{path} --help"))


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
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
