"""``leitwolf group ...``."""

from __future__ import annotations

import click

from leitwolf.cli.common import (
    Context,
    complete_group,
    complete_node,
    find_node,
    send,
    with_json,
)
from leitwolf.cli.waiting import as_wished, wait_for_group, wait_option, wait_until_removed
from leitwolf.model.commands import (
    AddGroup,
    ChangeGroup,
    MoveGroup,
    NewResource,
    RecoverGroup,
    RemoveGroup,
    WishGroup,
)
from leitwolf.model.errors import Conflict, InvalidConfig
from leitwolf.model.ids import GroupId, NodeId, ResourceId, Wish
from leitwolf.model.views import GroupView

__all__ = ["COMMANDS"]


@click.group("group")
def group() -> None:
    """Groups: the units of failover."""


def _resources(
    name: str, addresses: tuple[str, ...], network: str, run: str, check: dict[str, str]
) -> tuple[NewResource, ...]:
    found: list[NewResource] = []
    for number, address in enumerate(addresses, start=1):
        suffix = "" if number == 1 else str(number)
        parameters = {"address": address} | ({"network": network} if network else {})
        found.append(
            NewResource(
                resource=ResourceId(f"{name}-ip{suffix}"), type="ip_address", parameters=parameters
            )
        )
    if run:
        found.append(
            NewResource(
                resource=ResourceId(f"{name}-app"),
                type="process",
                parameters={"command": run} | {k: v for k, v in check.items() if v},
                depends=tuple(item.resource for item in found),
            )
        )
    return tuple(found)


def _demand_run(run: str | None, given: dict[str, str]) -> None:
    """Refuse what would silently be left out: settings of a process that is not given."""
    if run is not None and not run.strip():
        raise InvalidConfig("run is empty", field="run", hint="--run 'PROGRAM ARGUMENTS'")
    alone = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if run is None and alone:
        raise InvalidConfig(
            f"{', '.join(alone)} without --run: there is no process that it could be about",
            field="run",
            hint="give --run 'PROGRAM ARGUMENTS', too",
        )


@group.command("add")
@click.argument("name")
@click.option("--address", "addresses", multiple=True, help="Virtual address with prefix length.")
@click.option("--network", default="", help="Network or interface of the addresses.")
@click.option("--run", help="Command of a process to keep running.")
@click.option("--user", default="", help="User of the process.")
@click.option("--check-http", default="", help="URL that must answer.")
@click.option("--check-tcp", default="", help="HOST:PORT that must accept.")
@click.option("--check-command", default="", help="Command that must succeed.")
@click.option(
    "--prefer",
    multiple=True,
    help="Preferred owner; repeat in order.",
    shell_complete=complete_node,
)
@click.option("--offline", is_flag=True, help="Do not bring it online.")
@click.option("--restarts", default=1, show_default=True, help="Restarts in place per period.")
@click.option("--restart-period", default=900, show_default=True, help="Seconds.")
@wait_option
@with_json
def add(
    context: Context,
    name: str,
    addresses: tuple[str, ...],
    network: str,
    run: str | None,
    user: str,
    check_http: str,
    check_tcp: str,
    check_command: str,
    prefer: tuple[str, ...],
    offline: bool,
    restarts: int,
    restart_period: int,
    wait: bool,
    timeout_s: float,
) -> None:
    """Make a group, with its address and process, and bring it online."""
    preferred: tuple[NodeId, ...] = ()
    if prefer:
        status = context.client.status()
        preferred = tuple(find_node(status, item) for item in prefer)
    check = {
        "user": user,
        "check_http": check_http,
        "check_tcp": check_tcp,
        "check_command": check_command,
    }
    _demand_run(run, check)
    command = AddGroup(
        group=GroupId(name),
        preferred=preferred,
        resources=_resources(name, addresses, network, run or "", check),
        wish=Wish.OFFLINE if offline else Wish.ONLINE,
        restart_threshold=restarts,
        restart_period_s=restart_period,
    )
    answer = context.client.command(command)
    if wait and not offline and command.resources:
        view = wait_for_group(
            context, name, lambda g: g.status == "online", index=answer.index, timeout_s=timeout_s
        )
        context.show(view, f"group {name} is online on {view.owner}")
    else:
        context.show(answer, f"group {name} added (entry {answer.index})")


@group.command("remove")
@click.argument("name", shell_complete=complete_group)
@click.option("--force", is_flag=True, help="Take it offline and remove its resources too.")
@wait_option
@with_json
def remove(context: Context, name: str, force: bool, wait: bool, timeout_s: float) -> None:
    """Remove a group that is offline."""
    answer = context.client.command(RemoveGroup(group=GroupId(name), force=force))
    if wait:
        wait_until_removed(context, name, index=answer.index, timeout_s=timeout_s)
    text = "removed" if wait else "is being removed"
    context.show(answer, f"group {name} {text} (entry {answer.index})")


def _wish(context: Context, name: str, wish: Wish, wait: bool, timeout_s: float) -> None:
    answer = context.client.command(WishGroup(group=GroupId(name), wish=wish))
    if not wait:
        context.show(answer, f"group {name} shall be {wish} (entry {answer.index})")
        return
    _show_settled(context, name, wish, index=answer.index, timeout_s=timeout_s)


def _show_settled(
    context: Context, name: str, wish: Wish | None, *, index: int, timeout_s: float
) -> None:
    """Wait until all of a group is as wished, and say how it is."""
    view = wait_for_group(context, name, as_wished, index=index, timeout_s=timeout_s)
    if wish is Wish.ONLINE and not view.resources:
        context.show(view, f"group {name} is empty; it goes online with its first resource")
        return
    where = f" on {view.owner}" if view.owner else ""
    context.show(view, f"group {name} is {view.status}{where}")


@group.command("online")
@click.argument("name", shell_complete=complete_group)
@wait_option
@with_json
def online(context: Context, name: str, wait: bool, timeout_s: float) -> None:
    """Bring a group online."""
    _wish(context, name, Wish.ONLINE, wait, timeout_s)


@group.command("offline")
@click.argument("name", shell_complete=complete_group)
@wait_option
@with_json
def offline(context: Context, name: str, wait: bool, timeout_s: float) -> None:
    """Take a group offline."""
    _wish(context, name, Wish.OFFLINE, wait, timeout_s)


@group.command("move")
@click.argument("name", shell_complete=complete_group)
@click.argument("node", required=False, shell_complete=complete_node)
@wait_option
@with_json
def move(context: Context, name: str, node: str | None, wait: bool, timeout_s: float) -> None:
    """Move a group to NODE, or to the best other node."""
    status = context.client.status()
    target = find_node(status, node) if node else NodeId(0)
    before = next((g for g in status.groups if g.id == name), None)
    answer = context.client.command(MoveGroup(group=GroupId(name), node=target))
    if not wait or before is None:
        context.show(answer, f"group {name} moves (entry {answer.index})")
        return
    wanted = next((n.name for n in status.nodes if n.id == target), "")

    def arrived(group: GroupView) -> bool:
        if not as_wished(group) or group.phase != "active":
            return False
        if group.owner == wanted or (not wanted and group.owner != before.owner):
            return True
        if group.generation == before.generation:
            return False
        raise Conflict(
            f"group {name} is on {group.owner} instead: {group.reason}",
            code="moved-elsewhere",
            hint=f"leitwolf why {name}",
        )

    view = wait_for_group(context, name, arrived, index=answer.index, timeout_s=timeout_s)
    state = view.status if view.resources else "empty"
    context.show(view, f"group {name} is {state} on {view.owner}")


@group.command("recover")
@click.argument("name", shell_complete=complete_group)
@wait_option
@with_json
def recover(context: Context, name: str, wait: bool, timeout_s: float) -> None:
    """Forget the failures of a group and try again."""
    answer = context.client.command(RecoverGroup(group=GroupId(name)))
    if not wait:
        context.show(answer, f"group {name} is tried again (entry {answer.index})")
        return
    _show_settled(context, name, None, index=answer.index, timeout_s=timeout_s)


@group.command("set")
@click.argument("name", shell_complete=complete_group)
@click.option(
    "--prefer",
    multiple=True,
    help="Preferred owner; repeat in order; 'none' clears.",
    shell_complete=complete_node,
)
@click.option("--restarts", type=int, help="Restarts in place per period.")
@click.option("--restart-period", type=int, help="Seconds.")
@click.option("--failovers", type=int, help="Failovers per period; -1: nodes minus one.")
@click.option("--failover-period", type=int, help="Seconds.")
@click.option("--retry-period", type=int, help="Seconds in failed until the next try.")
@with_json
def change(
    context: Context,
    name: str,
    prefer: tuple[str, ...],
    restarts: int | None,
    restart_period: int | None,
    failovers: int | None,
    failover_period: int | None,
    retry_period: int | None,
) -> None:
    """Change settings of a group."""
    preferred: tuple[NodeId, ...] | None = None
    if prefer == ("none",):
        preferred = ()
    elif prefer:
        status = context.client.status()
        preferred = tuple(find_node(status, item) for item in prefer)
    command = ChangeGroup(
        group=GroupId(name),
        preferred=preferred,
        restart_threshold=restarts,
        restart_period_s=restart_period,
        failover_threshold=failovers,
        failover_period_s=failover_period,
        retry_period_s=retry_period,
    )
    if command == ChangeGroup(group=GroupId(name)):
        raise InvalidConfig("nothing to change was given", hint="see: leitwolf group set --help")
    send(context, command, f"group {name} changed")


COMMANDS = (group,)
