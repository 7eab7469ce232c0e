"""``leitwolf quorum set|votes|weight|move``: who votes, changed while the cluster runs."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import click

from leitwolf.cli.common import Context, find_node, send, with_json
from leitwolf.model.commands import SetQuorum, SetVotes, TransferLeader
from leitwolf.model.errors import Conflict, InvalidConfig
from leitwolf.model.ids import NodeId
from leitwolf.model.witness import CasObject, WitnessMode

__all__ = ["move", "set_", "votes", "weight"]

_TIMEOUT_S = 10.0


@click.group("set")
def set_() -> None:
    """Change the kind of quorum, without stopping a group.

    A disk or witness is brought in first; it votes when it holds everything. Every node must reach
    it at the same LOCATION.
    """


@set_.command("nodes")
@with_json
def set_nodes(context: Context) -> None:
    """Let nodes alone vote: more than half of them must be there."""
    send(context, SetQuorum(), "the quorum becomes a majority of the nodes")


@set_.command("disk")
@click.argument("location")
@click.option("--witness", is_flag=True, help="One vote beside those of the nodes.")
@click.option(
    "--silence", "silence_ms", default=0, help="Wait at least so many ms for a silent owner."
)
@click.option("--local", is_flag=True, help="Allow a file of this machine alone, for laboratories.")
@with_json
def set_disk(context: Context, location: str, witness: bool, silence_ms: int, local: bool) -> None:
    """Let a shared disk be the quorum: who has it leads, however many nodes are left.

    Format it first: leitwolf quorum disk format LOCATION. With --witness it has one vote, like a
    node. A file is tested first: a share that caches or keeps locks to itself is refused.
    """
    from leitwolf.witness.inspect import dump_disk  # noqa: PLC0415 — slow, needed here only

    context.progress(f"reading {location}")
    header = dump_disk(location, progress=context.progress).header
    status = context.client.status()
    if header.cluster != status.uuid:
        raise Conflict(
            f"{location} is the quorum disk of cluster {header.cluster}, this is {status.uuid}",
            code="witness-foreign",
            hint=f"leitwolf quorum disk format {location}",
        )
    if not location.startswith("iscsi:") and Path(location).is_file():
        from leitwolf.witness.disktest import try_file  # noqa: PLC0415 — slow, needed here only

        context.progress(f"testing {location}")
        try_file(Path(location), local=local).demand(location, "a quorum disk")
    command = SetQuorum(
        witness="disk",
        storage=header.disk,
        location=location,
        alone=not witness,
        silence_ms=silence_ms,
    )
    send(context, command, f"{location} is brought in: leitwolf quorum status")


@set_.command("witness")
@click.argument("location")
@click.option("--tag", is_flag=True, help="Keep only the key of the newest entry there.")
@click.option("--alone", is_flag=True, help="It alone decides; nodes have no vote.")
@click.option(
    "--silence", "silence_ms", default=0, help="Wait at least so many ms for a silent leader."
)
@with_json
def set_witness(context: Context, location: str, tag: bool, alone: bool, silence_ms: int) -> None:
    """Let a share, an object store, etcd or a witness daemon vote beside the nodes.

    It is tested first: a store that ignores conditions is refused.
    """
    storage = _prepare(context, location, WitnessMode.TAG if tag else WitnessMode.FULL)
    command = SetQuorum(
        witness="object",
        storage=storage,
        location=location,
        full=not tag,
        alone=alone,
        silence_ms=silence_ms,
    )
    send(context, command, f"{location} is brought in: leitwolf quorum status")


def _prepare(context: Context, location: str, mode: WitnessMode) -> str:
    """Test the store, and make the object that the cluster is going to use; return its UUID."""
    import msgspec  # noqa: PLC0415 — slow, needed here only

    from leitwolf.system.settings import Settings  # noqa: PLC0415
    from leitwolf.witness.opening import open_cas, try_location  # noqa: PLC0415

    config = Settings.load(os.environ).config
    context.progress(f"testing {location}")
    try_location(location, config_dir=config, timeout_s=_TIMEOUT_S).demand(location)
    status = context.client.status()
    value = CasObject(cluster=status.uuid, storage=str(uuid.uuid4()), mode=mode)
    cas = open_cas(location, config_dir=config, timeout_s=_TIMEOUT_S)
    try:
        found = cas.get()
        if found is not None:
            former = msgspec.msgpack.decode(found.data, type=CasObject)
            if former.cluster != status.uuid:
                raise Conflict(
                    f"{location} holds the witness of cluster {former.cluster}",
                    code="witness-foreign",
                    hint="use another name behind the last '/'",
                )
        version = None if found is None else found.version
        if cas.put(msgspec.msgpack.encode(value), version) is None:
            raise Conflict(f"somebody else wrote to {location} meanwhile", code="witness-busy")
    finally:
        cas.close()
    return value.storage


@click.command("votes")
@click.option(
    "--dynamic/--strict",
    "dynamic",
    default=None,
    help="Votes follow who is there, down to the last node; or everyone keeps his vote.",
)
@click.option("--prefer", metavar="NODE", help="Node that has the casting vote (dynamic).")
@click.option("--prefer-none", is_flag=True, help="Whoever has the casting vote keeps it.")
@with_json
def votes(context: Context, dynamic: bool | None, prefer: str | None, prefer_none: bool) -> None:
    """Change how votes are given, without stopping a group.

    Dynamic: a node that is lost for a second has no vote until it is back; a witness votes while
    the nodes that vote are an even number, and without a witness one of them has the casting vote.
    """
    if dynamic is None and prefer is None and not prefer_none:
        raise InvalidConfig(
            "nothing to change: say --dynamic, --strict, --prefer NODE or --prefer-none",
            hint="leitwolf quorum status shows how votes are given",
        )
    if prefer is not None and prefer_none:
        raise InvalidConfig("--prefer and --prefer-none exclude each other", field="prefer")
    wanted: NodeId | None = NodeId(0) if prefer_none else None
    if prefer is not None:
        wanted = find_node(context.client.status(), prefer)
    send(context, SetVotes(dynamic=dynamic, prefer=wanted), "votes: leitwolf quorum status")


@click.command("weight")
@click.argument("node")
@click.argument("votes", type=click.IntRange(0, 1))
@with_json
def weight(context: Context, node: str, votes: int) -> None:
    """Give NODE a vote (1), or none whatever happens (0), as for a distant site."""
    number = find_node(context.client.status(), node)
    said = "votes" if votes else "never votes"
    send(context, SetVotes(weights={number: votes}), f"{node} {said}: leitwolf quorum status")


@click.command("move")
@click.argument("node", required=False)
@with_json
def move(context: Context, node: str | None) -> None:
    """Hand the ownership of the quorum over, to NODE or to the most up-to-date other node."""
    status = context.client.status()
    target = find_node(status, node) if node else NodeId(0)
    if not status.quorum:
        raise InvalidConfig("there is no quorum here to hand over", hint="leitwolf quorum status")
    send(context, TransferLeader(node=target), "the quorum is handed over")
