"""``leitwolf resource ...``."""

from __future__ import annotations

import click

from leitwolf.cli.common import Context, complete_group, complete_resource, send, with_json
from leitwolf.model.commands import AddResource, ChangeResource, RemoveResource, WishResource
from leitwolf.model.errors import InvalidConfig
from leitwolf.model.ids import GroupId, ResourceId, Wish

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
@with_json
def add(
    context: Context,
    group: str,
    name: str,
    type: str,  # noqa: A002
    parameters: tuple[str, ...],
    depends: tuple[str, ...],
) -> None:
    """Add a resource NAME of TYPE to GROUP, with NAME=VALUE parameters."""
    command = AddResource(
        group=GroupId(group),
        resource=ResourceId(name),
        type=type,
        parameters=_parameters(parameters),
        depends=tuple(ResourceId(item) for item in depends),
    )
    send(context, command, f"resource {name} added to {group}")


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
@with_json
def change(
    context: Context,
    name: str,
    parameters: tuple[str, ...],
    depends: tuple[str, ...],
    independent: bool,
) -> None:
    """Change parameters (NAME=VALUE; NAME= removes) or dependencies of a resource."""
    if not parameters and not depends and not independent:
        raise InvalidConfig("nothing to change was given", hint="leitwolf resource set --help")
    command = ChangeResource(
        resource=ResourceId(name),
        parameters=_parameters(parameters) if parameters else None,
        depends=tuple(ResourceId(item) for item in depends) if depends or independent else None,
    )
    send(context, command, f"resource {name} changed")


@resource.command("remove")
@click.argument("name", shell_complete=complete_resource)
@with_json
def remove(context: Context, name: str) -> None:
    """Remove a resource."""
    send(context, RemoveResource(resource=ResourceId(name)), f"resource {name} removed")


@resource.command("online")
@click.argument("name", shell_complete=complete_resource)
@with_json
def online(context: Context, name: str) -> None:
    """Bring a resource online."""
    command = WishResource(resource=ResourceId(name), wish=Wish.ONLINE)
    send(context, command, f"resource {name} shall be online")


@resource.command("offline")
@click.argument("name", shell_complete=complete_resource)
@with_json
def offline(context: Context, name: str) -> None:
    """Take a resource offline."""
    command = WishResource(resource=ResourceId(name), wish=Wish.OFFLINE)
    send(context, command, f"resource {name} shall be offline")


COMMANDS = (resource,)
