"""``leitwolf node ...``."""

from __future__ import annotations

import time

import click

from leitwolf.cli.common import (
    Context,
    complete_node,
    find_node,
    hand_over,
    lifetime_option,
    named_node,
    send,
    with_json,
)
from leitwolf.cli.waiting import wait_option, wait_options
from leitwolf.model.commands import EvictNode, PauseNode
from leitwolf.model.errors import Conflict, LeitwolfError, RequestTimeout
from leitwolf.model.ids import NodeId

__all__ = ["COMMANDS"]


@click.group("node")
def node() -> None:
    """Nodes: pause, resume, evict, replace."""


@node.command("pause")
@click.argument("name", shell_complete=complete_node)
@click.option("--drain/--no-drain", default=True, help="Move its groups away (default).")
@wait_option
@with_json
def pause(context: Context, name: str, drain: bool, wait: bool, timeout_s: float) -> None:
    """Place nothing on a node any more and move its groups away."""
    client = context.client
    status = client.status()
    found = named_node(status, name)
    name = found.name
    answer = client.command(PauseNode(node=found.id, paused=True, drain=drain))
    deadline, said = time.monotonic() + timeout_s, ""
    context.waits_for = "its groups go on moving; see: leitwolf status"
    while drain and wait:
        status = client.status()
        left = [
            group.id
            for group in status.groups
            if group.owner == name and group.resources and group.wish == "online"
        ]
        if status.index >= answer.index and not left:
            break
        line = f"{name}: still to move: {', '.join(left)}"
        if left and line != said:
            context.progress(line)
            said = line
        if time.monotonic() > deadline:
            raise RequestTimeout(
                f"{', '.join(left)} still on {name} after {timeout_s:g} s",
                hint=f"ask: leitwolf why {left[0]}" if left else "",
            )
        client.wait_beyond(status.index, 1)
    context.show(answer, f"node {name} is paused (entry {answer.index})")


@node.command("resume")
@click.argument("name", shell_complete=complete_node)
@with_json
def resume(context: Context, name: str) -> None:
    """Let a paused node own groups again."""
    # It may from this entry on: nothing is left to wait for. Groups come when they have a reason.
    number = find_node(context.client.status(), name)
    send(context, PauseNode(node=number, paused=False, drain=False), f"node {name} resumed")


@node.command("prevent")
@click.option("--end", is_flag=True, help="Let it make a leader again.")
@with_json
def prevent(context: Context, end: bool) -> None:
    """Let this node join only: it makes no leader and helps none, until it has met one.

    For a node that comes back after a quorum was forced elsewhere. It holds through restarts and
    ends by itself.
    """
    context.client.prevent(on=not end)
    text = "this node may make a leader again" if end else "this node joins only"
    context.show({"prevented": not end}, text)


@node.command("evict")
@click.argument("name", shell_complete=complete_node)
@wait_option
@with_json
def evict(context: Context, name: str, wait: bool, timeout_s: float) -> None:
    """Remove a node (dead or alive) from the cluster."""
    client = context.client
    status = client.status()
    found = named_node(status, name)
    name, number, itself = found.name, found.id, found.here
    answer = client.command(EvictNode(node=number))
    deadline = time.monotonic() + timeout_s
    context.waits_for = "it goes on without you; see: leitwolf status"
    if wait:
        context.progress(f"waiting until nothing of {name} can run any more")
    while wait:
        status = client.status()
        if itself and not status.formed:
            break
        if status.index >= answer.index and all(item.id != number for item in status.nodes):
            break
        if time.monotonic() > deadline:
            raise RequestTimeout(
                f"{name} is not removed after {timeout_s:g} s", hint=context.waits_for
            )
        try:
            client.wait_beyond(status.index, 1)
        except LeitwolfError as error:
            if not itself or error.code != "not-in-a-cluster":
                raise
    context.show(answer, f"node {name} is no member any more (entry {answer.index})")


@node.command("replace")
@click.argument("name", shell_complete=complete_node)
@lifetime_option
@with_json
def replace(context: Context, name: str, lifetime: int) -> None:
    """Print the command by which a node that lost its disk takes its place again.

    It must be down. A node whose key is left needs no token: leitwolf rejoin, there.
    """
    found = named_node(context.client.status(), name)
    name = found.name
    if found.up:
        raise Conflict(
            f"{name} is up: it lost nothing",
            code="node-alive",
            hint=f"leitwolf node evict {name} puts it out",
        )
    value = context.client.token(lifetime)
    words = f"leitwolf join {value} --replace --node-name {name}"
    context.show({"token": value, "command": words}, f"on {name}:\n{words}")


@click.command("lead")
@click.argument("name", required=False, shell_complete=complete_node)
@wait_options(10.0)  # every profile needs less
@with_json
def lead(context: Context, name: str | None, wait: bool, timeout_s: float) -> None:
    """Hand leadership to a node (or to the best other one)."""
    number = find_node(context.client.status(), name) if name else NodeId(0)
    hand_over(context, number, "leadership", wait=wait, timeout_s=timeout_s)


node.add_command(lead)

COMMANDS = (node,)
