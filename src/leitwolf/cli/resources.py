"""``leitwolf resource ...``."""

from __future__ import annotations

import click

from leitwolf.cli.common import Context, complete_group, complete_resource, with_json
from leitwolf.cli.waiting import unwanted_because, wait_for_resource, wait_option, wait_until
from leitwolf.model.commands import (
    AddResource,
    ChangeResource,
    Command,
    RemoveResource,
    WishResource,
)
from leitwolf.model.errors import InvalidConfig
from leitwolf.model.ids import GroupId, ResourceId, Wish
from leitwolf.model.views import StatusView

__all__ = ["COMMANDS"]


@click.group("resource")
def resource() -> None:
    """Resources: what a group consists of."""


def _parameters(pairs: tuple[str, ...]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InvalidConfig(f"{pair!r} is not of the form NAME=VALUE", field="parameters")
        parameters[name] = value
    return parameters


def _do(
    context: Context, command: Command, name: str, text: str, *, wait: bool, timeout_s: float
) -> None:
    """Send a command about a resource, and wait until it is as the operator wants it."""
    answer = context.client.command(command)
    if not wait:
        context.show(answer, f"{text} (entry {answer.index})")
        return
    group, item = wait_for_resource(context, name, index=answer.index, timeout_s=timeout_s)
    where = f" on {group.owner}" if item.state == "online" else ""
    asked_for = isinstance(command, WishResource) and item.wish == "offline"
    why = "" if asked_for else unwanted_because(group, name)
    context.show(item, f"resource {name} is {item.state}{where}" + (f": {why}" if why else ""))


@resource.command("types")
@click.argument("name", required=False)
@with_json
def types(context: Context, name: str | None) -> None:
    """List resource types with their parameters."""
    found = [item for item in context.client.types() if name in (None, item["name"])]
    if not found:
        raise InvalidConfig(f"there is no resource type {name!r}", hint="leitwolf resource types")
    lines: list[str] = []
    for item in found:
        lines.append(f"{item['name']}: {item['text']}")
        for parameter in item["parameters"]:
            need = " (required)" if parameter["required"] else ""
            default = f", default {parameter['default']}" if parameter["default"] else ""
            lines.append(
                f"  {parameter['name']}: {parameter['kind']}{default}{need}\n"
                f"      {parameter['text']}"
            )
    context.show(found, "\n".join(lines))


@resource.command("add")
@click.argument("group", shell_complete=complete_group)
@click.argument("name")
@click.argument("type")
@click.argument("parameters", nargs=-1)
@click.option(
    "--after",
    "depends",
    multiple=True,
    help="Resource that must be online first.",
    shell_complete=complete_resource,
)
@wait_option
@with_json
def add(
    context: Context,
    group: str,
    name: str,
    type: str,  # noqa: A002
    parameters: tuple[str, ...],
    depends: tuple[str, ...],
    wait: bool,
    timeout_s: float,
) -> None:
    """Add a resource NAME of TYPE to GROUP, with NAME=VALUE parameters."""
    command = AddResource(
        group=GroupId(group),
        resource=ResourceId(name),
        type=type,
        parameters=_parameters(parameters),
        depends=tuple(ResourceId(item) for item in depends),
    )
    text = f"resource {name} added to {group}"
    _do(context, command, name, text, wait=wait, timeout_s=timeout_s)


@resource.command("set")
@click.argument("name", shell_complete=complete_resource)
@click.argument("parameters", nargs=-1)
@click.option(
    "--after",
    "depends",
    multiple=True,
    help="All that must be online first.",
    shell_complete=complete_resource,
)
@click.option("--independent", is_flag=True, help="Depends on nothing any more.")
@wait_option
@with_json
def change(
    context: Context,
    name: str,
    parameters: tuple[str, ...],
    depends: tuple[str, ...],
    independent: bool,
    wait: bool,
    timeout_s: float,
) -> None:
    """Change parameters (NAME=VALUE; NAME= removes) or dependencies of a resource."""
    if not parameters and not depends and not independent:
        raise InvalidConfig("nothing to change was given", hint="leitwolf resource set --help")
    command = ChangeResource(
        resource=ResourceId(name),
        parameters=_parameters(parameters) if parameters else None,
        depends=tuple(ResourceId(item) for item in depends) if depends or independent else None,
    )
    _do(context, command, name, f"resource {name} changed", wait=wait, timeout_s=timeout_s)


@resource.command("remove")
@click.argument("name", shell_complete=complete_resource)
@wait_option
@with_json
def remove(context: Context, name: str, wait: bool, timeout_s: float) -> None:
    """Remove a resource that is offline."""

    def look(status: StatusView) -> tuple[bool | None, str]:
        there = any(item.id == name for group in status.groups for item in group.resources)
        return (None, f"{name} is still there") if there else (True, "")

    answer = context.client.command(RemoveResource(resource=ResourceId(name)))
    if wait:
        wait_until(context, look, index=answer.index, timeout_s=timeout_s)
    context.show(answer, f"resource {name} removed (entry {answer.index})")


@resource.command("online")
@click.argument("name", shell_complete=complete_resource)
@wait_option
@with_json
def online(context: Context, name: str, wait: bool, timeout_s: float) -> None:
    """Bring a resource online."""
    command = WishResource(resource=ResourceId(name), wish=Wish.ONLINE)
    text = f"resource {name} shall be online"
    _do(context, command, name, text, wait=wait, timeout_s=timeout_s)


@resource.command("offline")
@click.argument("name", shell_complete=complete_resource)
@wait_option
@with_json
def offline(context: Context, name: str, wait: bool, timeout_s: float) -> None:
    """Take a resource offline."""
    command = WishResource(resource=ResourceId(name), wish=Wish.OFFLINE)
    text = f"resource {name} shall be offline"
    _do(context, command, name, text, wait=wait, timeout_s=timeout_s)


COMMANDS = (resource,)
