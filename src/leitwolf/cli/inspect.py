"""``leitwolf status``, ``log``, ``why``, ``quorum`` and ``check``."""

from __future__ import annotations

import sys

import click

from leitwolf.cli import render
from leitwolf.cli.common import Context, complete_group, warn_if_old, with_json, with_json_of
from leitwolf.cli.disk import disk
from leitwolf.cli.quorum import move, replace, set_, votes, weight
from leitwolf.cli.quorumlog import log as quorum_log
from leitwolf.cli.relocate import relocate
from leitwolf.model.views import StatusView

__all__ = ["COMMANDS"]


def _status_exit(view: StatusView) -> int:
    if not view.formed or not view.quorum:
        return 6
    return 10 if any(group.status == "failed" for group in view.groups) else 0


@click.command()
@click.option("--watch", is_flag=True, help="Show it anew on every change, until Ctrl-C.")
@with_json_of("one JSON value (with --watch one after the other, a line each)")
def status(context: Context, watch: bool) -> None:
    """Show nodes, networks, quorum, groups and resources.

    Exit code 0: all is well; 6: no quorum here; 7: no daemon here; 10: a group failed.
    """
    client = context.client
    view = client.status()
    while watch:
        if not context.json:
            click.clear()
        context.show_line(view, render.status(view))
        client.wait_beyond(view.index, 2)
        view = client.status()
    context.show(view, render.status(view))
    sys.exit(_status_exit(view))


@click.command()
@click.option(
    "--after",
    type=click.IntRange(min=0),
    help="Go on behind this index (default: the newest entries).",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="At most so many entries.",
)
@click.option("--follow", is_flag=True, help="Go on as new entries come, until Ctrl-C.")
@with_json_of("one JSON value per entry, a line each,")
def log(context: Context, after: int | None, limit: int, follow: bool) -> None:
    """Show the merged timeline of all nodes, oldest entry first, newest last."""
    client = context.client
    warn_if_old(context)
    if after is None:
        after = max(0, client.status().index - limit)
    while True:
        lines = client.log(after, limit, wait_s=30 if follow else 0)
        for entry in lines:
            context.show_line(entry, render.line(entry))
            after = entry.index
        if not follow:
            return


@click.command()
@click.argument("group", shell_complete=complete_group)
@with_json
def why(context: Context, group: str) -> None:
    """Explain where a group is and why."""
    view = context.client.why(group)
    warn_if_old(context)
    context.show(view, render.explanation(view))


@click.group("quorum")
def quorum() -> None:
    """The quorum: votes, promises, leases."""


@quorum.command("status")
@with_json
def quorum_status(context: Context) -> None:
    """Show who promised what, votes, lease margins, worst stall, profile."""
    view = context.client.quorum()
    warn_if_old(context)
    context.show(view, render.quorum(view))


@click.command()
@with_json
def check(context: Context) -> None:
    """Check this machine: what is missing, which guarantee is lost, how to get it.

    Exit code 0: nothing is missing; 1: a guarantee is weaker here.
    """
    from leitwolf.cli.check import findings  # noqa: PLC0415 — slow imports, needed here only

    found = findings(context.runtime)
    lines = [
        f"{'ok  ' if item.ok else 'LOST'}  {item.name}: {item.found}"
        + ("" if item.ok else f"\n      lost: {item.lost}\n      -> {item.fix}")
        for item in found
    ]
    context.show(found, "\n".join(lines))
    sys.exit(0 if all(item.ok for item in found) else 1)


for command in (disk, set_, votes, weight, move, relocate, replace, quorum_log):
    quorum.add_command(command)

COMMANDS = (status, log, why, quorum, check)
