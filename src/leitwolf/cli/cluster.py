"""``leitwolf init``, ``token``, ``join``, ``rejoin``, ``leave``, ``destroy``, ``network``, ..."""

from __future__ import annotations

import time

import click

from leitwolf.cli.common import (
    Context,
    confirm,
    find_node,
    lifetime_option,
    send,
    warn_if_old,
    with_json,
    yes_option,
)
from leitwolf.cli.render import networks
from leitwolf.cli.waiting import KEYS, PROFILE, change, wait_for_change, wait_option, wait_options
from leitwolf.model.commands import ChangeCluster, EvictNode, SetNetwork
from leitwolf.model.errors import Conflict, InvalidConfig, RequestTimeout
from leitwolf.model.ids import NetworkRole
from leitwolf.model.views import ClusterSetup, InitRequest, JoinRequestView

__all__ = ["COMMANDS", "setup_text"]


def setup_text(setup: ClusterSetup) -> str:
    """Return what was formed, joined or restored."""
    networks = ", ".join(f"{name} ({address})" for name, address in setup.networks.items())
    lines = [
        f"{setup.node} is node {setup.node_id} of cluster {setup.cluster}, profile {setup.profile}",
        *([f"not a shorter one: {setup.profile_reason}"] if setup.profile_reason else []),
        f"networks: {networks}",
    ]
    return "\n".join([*lines, *(f"! {line}" for line in setup.advice.splitlines())])


@click.command()
@click.option("--name", default="", help="Name of the cluster (default: leitwolf).")
@click.option("--node-name", default="", help="Name of this node (default: the host name).")
@click.option("--interconnect", multiple=True, help="Subnet or interface between the nodes.")
@click.option("--client", multiple=True, help="Subnet or interface of the clients.")
@click.option(
    "--profile",
    default="",
    help="fast, default, virtual or wan "
    "(not given: default or virtual, whichever this machine holds).",
)
@click.option("--port", default=0, help="One port, TCP and UDP (default 6474).")
@click.option(
    "--votes",
    type=click.Choice(["dynamic", "strict"]),
    default="dynamic",
    show_default=True,
    help="Votes follow who is there, or everyone keeps his vote.",
)
@with_json
def init(
    context: Context,
    name: str,
    node_name: str,
    interconnect: tuple[str, ...],
    client: tuple[str, ...],
    profile: str,
    port: int,
    votes: str,
) -> None:
    """Form a cluster of one node."""
    setup = context.client.form(
        InitRequest(
            name=name,
            node_name=node_name,
            interconnect=interconnect,
            client=client,
            profile=profile,
            port=port,
            votes=votes,
        )
    )
    context.show(setup, setup_text(setup))


@click.command()
@lifetime_option
@with_json
def token(context: Context, lifetime: int) -> None:
    """Print a one-time token with which another machine joins."""
    value = context.client.token(lifetime)
    context.show({"token": value}, value)


@click.command()
@click.argument("token")
@click.option("--node-name", default="", help="Name of this node (default: the host name).")
@click.option("--replace", is_flag=True, help="Take the place of the node of this name.")
@with_json
def join(context: Context, token: str, node_name: str, replace: bool) -> None:
    """Join the cluster that gave out TOKEN.

    With --replace a machine that lost its disk comes back under its name: the former node, which
    must be down, is evicted, and this one takes its place among the preferred owners.
    """
    _join(context, JoinRequestView(token=token, node_name=node_name, replace=replace))


@click.command()
@click.argument("token", default="")
@click.option("--node-name", default="", help="Name of this node (default: as it was).")
@with_json
def rejoin(context: Context, token: str, node_name: str) -> None:
    """Come back with a new storage: the way out of a damaged or locked-out one.

    This node shows that it is what it was by its key, or by TOKEN (leitwolf node replace NODE on
    another one). Its former self is evicted, what is here is kept in quarantine, and the log is
    fetched anew.
    """
    _join(context, JoinRequestView(token=token, node_name=node_name, again=True))


def _join(context: Context, request: JoinRequestView) -> None:
    # There is no --no-wait: until the daemon answers it may still be refused, and who does not want
    # to wait for the vote ends this command; the daemon goes on.
    for item in context.client.join(request):
        if isinstance(item, str):
            context.progress(item)
        else:
            context.show(item, setup_text(item))


@click.command()
@wait_options(120.0)
@with_json
def leave(context: Context, wait: bool, timeout_s: float) -> None:
    """Leave the cluster: groups move away first."""
    client = context.client
    view = client.status()
    if not view.formed:
        raise Conflict("this node is in no cluster", code="not-in-a-cluster")
    if len(view.nodes) == 1:
        raise Conflict(
            "this is the last node of the cluster", hint="leitwolf destroy", code="last-node"
        )
    number = find_node(view, view.node)
    answer = client.command(EvictNode(node=number, leaving=True))
    if not wait:
        context.show(answer, f"{view.node} leaves {view.cluster} (entry {answer.index})")
        return
    deadline = time.monotonic() + timeout_s
    context.waits_for = "it goes on without you; see: leitwolf status"
    context.progress("waiting until the cluster goes on without this node")
    while (now := client.status()).formed or now.fault == "leaving":
        if time.monotonic() > deadline:
            raise RequestTimeout(f"not done after {timeout_s:g} s", hint=context.waits_for)
        time.sleep(0.5)
    context.show(answer, f"{view.node} left {view.cluster}")


@click.command()
@yes_option
@with_json
def destroy(context: Context, yes: bool) -> None:
    """Set the cluster state of this node aside (it is kept in quarantine)."""
    if not yes:
        confirm(
            context,
            "Stop all groups here and set the state of this node aside?",
            hint="leitwolf destroy --yes",
        )
    context.client.destroy()
    context.show({"destroyed": True}, "this node is in no cluster now")


@click.group("network")
def network() -> None:
    """Networks that the nodes share."""


@network.command("list")
@with_json
def network_list(context: Context) -> None:
    """List networks with their role and state, and of interconnects the link of each two nodes.

    A link has two directions, and each node tells what it hears. What a node said is shown only
    while it is within reach of the node asked.
    """
    status = context.client.status()
    if not status.formed:
        raise Conflict("this node is in no cluster", code="not-in-a-cluster")
    found = context.client.networks()
    warn_if_old(context)
    context.show(found, networks(found))


@network.command("set")
@click.argument("name")
@click.option("--subnet", "subnets", multiple=True, help="Subnet; repeat for several.")
@click.option("--role", type=click.Choice([role.value for role in NetworkRole]), required=True)
@with_json
def network_set(context: Context, name: str, subnets: tuple[str, ...], role: str) -> None:
    """Add a network, or change its subnets or role."""
    if not subnets:
        known = {item.name: item.subnets for item in context.client.status().networks}
        subnets = known.get(name, ())
        if not subnets:
            raise InvalidConfig(
                f"network {name} is new and needs its subnets",
                field="subnets",
                hint="--subnet 192.0.2.0/24; repeat it for several",
            )
    command = SetNetwork(name=name, subnets=subnets, role=NetworkRole(role))
    send(context, command, f"network {name} is {role}")


@click.command()
@wait_option
@with_json
def rekey(context: Context, wait: bool, timeout_s: float) -> None:
    """Replace the key by which the nodes authenticate heartbeats, without outage.

    It is done when all nodes that are there use the new one alone; others learn it when they come.
    """
    answer = context.client.rekey()
    if wait:
        wait_for_change(context, KEYS, index=answer.index, timeout_s=timeout_s)
    said = "are replaced" if wait else "are being replaced"
    context.show(answer, f"heartbeat keys {said} (entry {answer.index})")


@click.command("set")
@click.option("--name", help="Name of the cluster.")
@click.option("--profile", help="Timing profile: fast, default, virtual or wan.")
@wait_option
@with_json
def set_(
    context: Context, name: str | None, profile: str | None, wait: bool, timeout_s: float
) -> None:
    """Change settings of the cluster.

    A profile is in force when no lease of the former one can be; a name is at once.
    """
    if name is None and profile is None:
        raise InvalidConfig("nothing to change was given", hint="leitwolf set --help")
    change(
        context,
        ChangeCluster(name=name, profile=profile),
        PROFILE,
        begun="cluster is being changed" if profile else "cluster changed",
        done="cluster changed",
        timeout_s=timeout_s if wait and profile is not None else None,
    )


COMMANDS = (init, token, join, rejoin, leave, destroy, network, set_, rekey)
