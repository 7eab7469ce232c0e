"""``leitwolf force`` and ``leitwolf give-up``: what to do when the majority is gone for good."""

from __future__ import annotations

import click

from leitwolf.cli import render
from leitwolf.cli.common import (
    Context,
    confirm,
    find_node,
    timeout_option,
    with_json,
    yes_option,
)
from leitwolf.model.commands import ForceQuorum
from leitwolf.model.errors import Conflict

__all__ = ["COMMANDS"]

_DIFFERENT = "two-forced-halves", "force-unfinished"
_ANSWER_S = 5.0
"""What the daemon says of the time itself comes after it."""


@click.command()
@click.option("--nodes", help="Names of those that go on, with commas; else all that answer here.")
@click.option(
    "--confirm-others-down",
    "confirmed",
    is_flag=True,
    help="All other nodes are switched off; do not ask.",
)
@click.option("--show", is_flag=True, help="Only show what would be done and lost.")
@timeout_option(120.0)
@with_json
def force(
    context: Context, nodes: str | None, confirmed: bool, show: bool, timeout_s: float
) -> None:
    """Go on without a majority, when it is lost for good.

    Only when the other nodes are switched off, or destroyed: one that still runs behind a broken
    network runs the same groups. What only they had decided is lost. Ask the node with the newest
    log; the command says which. The others come back as learners, their logs in quarantine.
    """
    client = context.patient_client(timeout_s + _ANSWER_S)
    status = client.status()
    names = [name.strip() for name in (nodes or "").split(",") if name.strip()]
    named = tuple(find_node(status, name) for name in names)
    plan = render.plan_of(client.command(ForceQuorum(nodes=named)))
    if show:
        context.show(plan, render.force(plan))
        return
    if plan.code:
        context.progress(render.force(plan))
        raise Conflict(plan.text, code=plan.code, hint=plan.hint)
    going = tuple(find_node(status, node.node) for node in plan.nodes if node.named)
    if not confirmed:
        context.progress(render.force(plan))
        confirm(
            context,
            "Are all other nodes switched off, and is what may be lost to be given up?",
            hint="leitwolf force --confirm-others-down",
        )
    context.progress(f"waiting for {plan.wait_ms / 1000:.1f} s of silence of all other nodes")
    answer = client.command(ForceQuorum(nodes=going, others_down=True), timeout_s)
    context.show(answer, f"the quorum is forced (entry {answer.index}): leitwolf status")


@click.command("give-up")
@yes_option
@with_json
def give_up(context: Context, yes: bool) -> None:
    """Give up what this node decided apart, and go on in the other history that it hears.

    For one of two forced halves, on each of its nodes; or when a forced quorum cannot be finished.
    Everything here is stopped; the log is kept in quarantine.
    """
    client = context.client
    told = [one for one in client.status().findings if one.code in _DIFFERENT]
    for notice in told:
        context.progress(f"! {notice.text} [{notice.code}]")
    if told and not yes:
        confirm(
            context,
            "Stop everything here, set this node's log aside, and join the others?",
            hint="leitwolf give-up --yes",
        )
    client.give_up()
    context.show({"given_up": True}, "given up; this node comes back by itself: leitwolf status")


COMMANDS = (force, give_up)
