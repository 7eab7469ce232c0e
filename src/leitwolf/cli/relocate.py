"""``leitwolf quorum relocate``: another way to the same disk or witness."""

from __future__ import annotations

import os

import click

from leitwolf.cli.common import Context, find_node, send, with_json
from leitwolf.model.commands import RelocateWitness
from leitwolf.model.errors import Conflict, InvalidConfig
from leitwolf.model.ids import NO_NODE
from leitwolf.model.views import QuorumMember

__all__ = ["relocate"]

_TIMEOUT_S = 10.0


@click.command("relocate")
@click.argument("location")
@click.option("--node", "name", default="", help="Only for this node; run it there.")
@with_json
def relocate(context: Context, location: str, name: str) -> None:
    """Reach the disk or witness at LOCATION from now on: a new portal, a renamed device.

    It must be the same one, which is looked up there first. With --node the others keep their way
    to it; the location that they use ends that.
    """
    status = context.client.status()
    member = _witness(context.client.quorum().members)
    node = find_node(status, name) if name else NO_NODE
    if node and node != find_node(status, status.node):
        raise InvalidConfig(
            f"node = {name}: what is there cannot be looked up from {status.node}",
            field="node",
            hint=f"on {name}: leitwolf quorum relocate {location} --node {name}",
        )
    context.progress(f"reading {location}")
    found = _storage_at(location, member.kind)
    if found != member.storage:
        raise Conflict(
            f"{location} is {found}, the cluster uses {member.storage} at {member.location}",
            code="witness-foreign",
            hint="leitwolf quorum set takes another one instead",
        )
    command = RelocateWitness(storage=found, location=location, node=node)
    send(context, command, f"{name or 'every node'} reaches it at {location}")


def _witness(members: tuple[QuorumMember, ...]) -> QuorumMember:
    """Return the member that is a disk or witness.

    Raises:
        InvalidConfig: there is none, or an exchange is under way.
    """
    found = [member for member in members if member.storage]
    if len(found) == 1:
        return found[0]
    raise InvalidConfig(
        "two disks or witnesses are in use: an exchange is under way"
        if found
        else "nodes alone vote: there is no disk or witness to reach",
        hint="leitwolf quorum status",
    )


def _storage_at(location: str, kind: str) -> str:
    """Return the UUID of the disk or object at a location."""
    if kind == "disk":
        from leitwolf.witness.inspect import read_disk_header  # noqa: PLC0415 — slow

        return read_disk_header(location).disk
    from leitwolf.system.settings import Settings  # noqa: PLC0415 — slow, needed here only
    from leitwolf.witness.objects import decode_object  # noqa: PLC0415
    from leitwolf.witness.opening import open_cas  # noqa: PLC0415

    config = Settings.load(os.environ).config
    cas = open_cas(location, config_dir=config, timeout_s=_TIMEOUT_S)
    try:
        found = cas.get()
    finally:
        cas.close()
    return "" if found is None else decode_object(found.data, location).storage
