"""``leitwolf quorum set|votes|weight|move``: who votes, changed while the cluster runs."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import click

from leitwolf.cli.common import Context, find_node, hand_over, with_json
from leitwolf.cli.waiting import VOTES, change, wait_option, wait_options
from leitwolf.model.commands import SetQuorum, SetVotes
from leitwolf.model.errors import Conflict, InvalidConfig, NoQuorum, WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import NODES_MAX
from leitwolf.model.views import StatusView
from leitwolf.model.witness import ROLLED_BACK, CasObject, WitnessMode
from leitwolf.wire.ballot import NO_BALLOT

__all__ = ["move", "replace", "set_", "votes", "weight"]

_TIMEOUT_S = 10.0
_PLACES = 8
"""Of a disk, while no node has a higher number."""
_force_option = click.option(
    "--force", is_flag=True, help="Overwrite what was used before; nothing may use it any more."
)


@click.group("set")
def set_() -> None:
    """Change the kind of quorum, without stopping a group.

    A disk or witness is brought in first; it votes when it holds everything. Every node must reach
    it at the same LOCATION.
    """


@set_.command("nodes")
@wait_option
@with_json
def set_nodes(context: Context, wait: bool, timeout_s: float) -> None:
    """Let nodes alone vote: more than half of them must be there."""
    change(
        context,
        SetQuorum(),
        VOTES,
        begun="the quorum becomes a majority of the nodes",
        done="the quorum is a majority of the nodes",
        timeout_s=timeout_s if wait else None,
    )


@set_.command("disk")
@click.argument("location")
@click.option("--witness", is_flag=True, help="One vote beside those of the nodes.")
@click.option(
    "--silence", "silence_ms", default=0, help="Wait at least so many ms for a silent owner."
)
@click.option("--local", is_flag=True, help="Allow a file of this machine alone, for laboratories.")
@wait_option
@with_json
def set_disk(
    context: Context,
    location: str,
    witness: bool,
    silence_ms: int,
    local: bool,
    wait: bool,
    timeout_s: float,
) -> None:
    """Let a shared disk be the quorum: who has it leads, however many nodes are left.

    Format it first: leitwolf quorum disk format LOCATION; anew, if it was used before and is not in
    use now. It gets another UUID. With --witness it has one vote, like a node. A file is tested
    first: a share that caches or keeps locks to itself is refused.
    """
    command = _disk_brought_in(
        context, location, witness=witness, silence_ms=silence_ms, local=local
    )
    _bring_in(context, command, timeout_s=timeout_s if wait else None)


def _bring_in(context: Context, command: SetQuorum, *, timeout_s: float | None) -> None:
    change(
        context,
        command,
        VOTES,
        begun=f"{command.location} is brought in: leitwolf quorum status",
        done=f"{command.location} is in the quorum: leitwolf quorum status",
        timeout_s=timeout_s,
    )


def _disk_brought_in(
    context: Context, location: str, *, witness: bool, silence_ms: int, local: bool
) -> SetQuorum:
    """Give a disk another UUID than anybody else may know it by, unless it is in use."""
    from leitwolf.witness.format import stamp_anew  # noqa: PLC0415 — slow, needed here only
    from leitwolf.witness.inspect import demand_unused, read_disk_header  # noqa: PLC0415 — slow

    context.progress(f"reading {location}")
    header = read_disk_header(location)
    status = context.client.status()
    if header.cluster != status.uuid:
        raise _foreign_disk(location, header.cluster, status.uuid)
    known = header.disk in _in_configuration(context)
    if not known:
        demand_unused(location)
    _try_file(context, location, local=local)
    if not known:
        header = stamp_anew(location)
    return SetQuorum(
        witness="disk",
        storage=header.disk,
        location=location,
        alone=not witness,
        silence_ms=silence_ms,
        slots=header.nodes_max,
    )


@set_.command("witness")
@click.argument("location")
@click.option("--tag", is_flag=True, help="Keep only the key of the newest entry there.")
@click.option("--alone", is_flag=True, help="It alone decides; nodes have no vote.")
@click.option(
    "--silence", "silence_ms", default=0, help="Wait at least so many ms for a silent leader."
)
@_force_option
@wait_option
@with_json
def set_witness(
    context: Context,
    location: str,
    tag: bool,
    alone: bool,
    silence_ms: int,
    force: bool,
    wait: bool,
    timeout_s: float,
) -> None:
    """Let a share, an object store, etcd or a witness daemon vote beside the nodes.

    It is tested first: a store that ignores conditions is refused.
    """
    mode = WitnessMode.TAG if tag else WitnessMode.FULL
    storage = _prepare(context, location, mode, keep=True, force=force)
    command = SetQuorum(
        witness="object",
        storage=storage,
        location=location,
        full=not tag,
        alone=alone,
        silence_ms=silence_ms,
    )
    _bring_in(context, command, timeout_s=timeout_s if wait else None)


@click.command("replace")
@click.argument("location", required=False)
@click.option(
    "--nodes",
    "nodes_max",
    type=int,
    help="Highest number of a node (disk); default: 8, or 64 where a node has a higher one.",
)
@click.option("--create", is_flag=True, help="Make the file of a disk if it is not there.")
@click.option("--local", is_flag=True, help="Allow a file of this machine alone, for laboratories.")
@_force_option
@wait_option
@with_json
def replace(
    context: Context,
    location: str | None,
    nodes_max: int | None,
    create: bool,
    local: bool,
    force: bool,
    wait: bool,
    timeout_s: float,
) -> None:
    """Put a new disk or witness in the place of the one that is lost, without stopping a group.

    LOCATION (default: where it was) is formatted or made anew, and voted in as the former one was;
    that one, should it come back, is a stranger. What is whole and in use is refused, what was
    used before, perhaps by a part of the cluster that was forced, and a device that holds anything
    else.
    """
    present = context.client.quorum().witness
    if present is None:
        raise Conflict(
            "nodes alone are the quorum: there is no disk or witness to replace",
            code="no-witness",
            hint="leitwolf quorum set disk LOCATION, or leitwolf quorum set witness LOCATION",
        )
    status = context.client.status()
    if not status.quorum:
        raise NoQuorum(
            "without a quorum nothing can be replaced; nothing was changed",
            hint="leitwolf quorum status says what is missing",
        )
    location = location or present.location
    disk = location.startswith(("/", "iscsi:"))
    full = present.full or disk or present.alone
    mode = WitnessMode.FULL if full else WitnessMode.TAG
    storage, slots = (
        _format(context, location, _places(status, nodes_max), create=create, force=force)
        if disk
        else (_prepare(context, location, mode, force=force), 0)
    )
    if disk:
        _try_file(context, location, local=local)
    command = SetQuorum(
        witness="disk" if disk else "object",
        storage=storage,
        location=location,
        full=full,
        alone=present.alone,
        silence_ms=present.silence_ms,
        slots=slots,
    )
    change(
        context,
        command,
        VOTES,
        begun=f"{location} takes the place of {present.location}",
        done=f"{location} has the place of {present.location}",
        timeout_s=timeout_s if wait else None,
    )


def _places(view: StatusView, asked: int | None) -> int:
    """Return for how many nodes to format a disk: all members have a place, unless asked for."""
    if asked is not None:
        return asked
    highest = max(node.id for node in view.nodes)
    return _PLACES if highest <= _PLACES else NODES_MAX


def _try_file(context: Context, location: str, *, local: bool) -> None:
    """Test a file that is to be a quorum disk: a share may cache, or keep locks to itself."""
    if not location.startswith("iscsi:") and Path(location).is_file():
        from leitwolf.witness.disktest import try_file  # noqa: PLC0415 — slow, needed here only

        context.progress(f"testing {location}")
        try_file(Path(location), local=local).demand(location, "a quorum disk")


def _foreign_disk(location: str, found: str, own: str) -> Conflict:
    return Conflict(
        f"{location} is the quorum disk of cluster {found}, this is {own}",
        code="witness-foreign",
        hint=f"leitwolf quorum disk format {location}",
    )


def _in_use(location: str) -> Conflict:
    return Conflict(
        f"{location} is in use by this cluster, and whole",
        code="witness-in-use",
        hint="leitwolf quorum status; another place: leitwolf quorum replace LOCATION",
    )


def _used(location: str) -> Conflict:
    return Conflict(
        f"{location} was used by this cluster, and is not in use here: a part of it that was "
        "forced may live with it",
        code="witness-used",
        hint="another place; or --force, if nothing uses it any more",
    )


def _in_configuration(context: Context) -> set[str]:
    """Return the UUIDs of the disk or witness in use, and of one that is being brought in."""
    view = context.client.quorum()
    wanted = {view.witness.storage} if view.witness is not None else set()
    return wanted | {member.storage for member in view.members}


def _whole(context: Context) -> str:
    """Return the UUID of the disk or witness in use, '' when there is none or it is distrusted."""
    view = context.client.quorum()
    if view.witness is None or any(one.fault.startswith(ROLLED_BACK) for one in view.members):
        return ""
    return view.witness.storage


def _format(
    context: Context, location: str, nodes_max: int, *, create: bool, force: bool
) -> tuple[str, int]:
    """Format a disk unless it is whole and in use; return its UUID and its places.

    One that was used otherwise is overwritten only by ``force``.
    """
    from leitwolf.witness.format import format_disk  # noqa: PLC0415 — slow, needed here only
    from leitwolf.witness.inspect import dump_disk  # noqa: PLC0415 — as above

    own = context.client.status().uuid
    ours = False
    try:
        found = dump_disk(location, progress=context.progress)
    except WitnessError as error:
        if error.code == "witness-unfit" or (error.code == "witness-unreachable" and not create):
            raise
    else:
        if found.header.cluster != own:
            raise _foreign_disk(location, found.header.cluster, own)
        lost = any(
            not any(slot.copies) or (slot.block is not None and slot.block.distrusted)
            for slot in found.slots
        )
        if found.header.disk == _whole(context) and not lost:
            raise _in_use(location)
        written = any(slot.block is not None or not all(slot.copies) for slot in found.slots)
        if written and not force and found.header.disk not in _in_configuration(context):
            raise _used(location)
        ours = True
    done = format_disk(
        location,
        cluster=own,
        nodes_max=nodes_max,
        force=ours,
        create=create,
        progress=context.progress,
    )
    return done.disk, done.nodes_max


def _prepare(
    context: Context, location: str, mode: WitnessMode, *, force: bool, keep: bool = False
) -> str:
    """Test the store, and make the object that the cluster is going to use; return its UUID.

    What is whole and in use is never overwritten; ``keep``: go on with it. What was used otherwise
    is only by ``force``.
    """
    from leitwolf.system.settings import Settings  # noqa: PLC0415 — slow, needed here only
    from leitwolf.witness.objects import encode_object  # noqa: PLC0415
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
            former = _former(context, found.data, location, status.uuid)
            if former is not None and former.storage == _whole(context):
                if keep and former.mode is mode and not former.distrusted:
                    return former.storage
                if not former.distrusted:
                    raise _in_use(location)
            used = former is not None and former.promised != NO_BALLOT and not force
            if former is not None and used and former.storage not in _in_configuration(context):
                raise _used(location)
        version = None if found is None else found.version
        if cas.put(encode_object(value), version) is None:
            raise Conflict(f"somebody else wrote to {location} meanwhile", code="witness-busy")
    finally:
        cas.close()
    return value.storage


def _former(context: Context, data: bytes, location: str, own: str) -> CasObject | None:
    """Return what stands there, None: the damaged witness of this cluster; refuse all else."""
    from leitwolf.witness.objects import decode_object  # noqa: PLC0415 — slow, needed here only

    try:
        former = decode_object(data, location)
    except WitnessError as error:
        present = context.client.quorum().witness
        if present is not None and present.location == location:
            return None
        raise Conflict(
            f"{location} holds something else",
            code="witness-foreign",
            hint="use another name behind the last '/'",
        ) from error
    if former.cluster != own:
        raise Conflict(
            f"{location} holds the witness of cluster {former.cluster}",
            code="witness-foreign",
            hint="use another name behind the last '/'",
        )
    return former


@click.command("votes")
@click.option(
    "--dynamic/--strict",
    "dynamic",
    default=None,
    help="Votes follow who is there, down to the last node; or everyone keeps his vote.",
)
@click.option("--prefer", metavar="NODE", help="Node that has the casting vote (dynamic).")
@click.option("--prefer-none", is_flag=True, help="Whoever has the casting vote keeps it.")
@wait_option
@with_json
def votes(
    context: Context,
    dynamic: bool | None,
    prefer: str | None,
    prefer_none: bool,
    wait: bool,
    timeout_s: float,
) -> None:
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
    change(
        context,
        SetVotes(dynamic=dynamic, prefer=wanted),
        VOTES,
        begun="votes are being changed: leitwolf quorum status",
        done="votes are given as wanted: leitwolf quorum status",
        timeout_s=timeout_s if wait else None,
    )


@click.command("weight")
@click.argument("node")
@click.argument("votes", type=click.IntRange(0, 1))
@wait_option
@with_json
def weight(context: Context, node: str, votes: int, wait: bool, timeout_s: float) -> None:
    """Give NODE a vote (1), or none whatever happens (0), as for a distant site."""
    number = find_node(context.client.status(), node)
    said = "votes while it is there" if votes else "never votes"
    change(
        context,
        SetVotes(weights={number: votes}),
        VOTES,
        begun=f"soon {node} {said}: leitwolf quorum status",
        done=f"{node} {said}: leitwolf quorum status",
        timeout_s=timeout_s if wait else None,
    )


@click.command("move")
@click.argument("node", required=False)
@wait_options(10.0)  # every profile needs less
@with_json
def move(context: Context, node: str | None, wait: bool, timeout_s: float) -> None:
    """Hand the ownership of the quorum over, to NODE or to the most up-to-date other node."""
    status = context.client.status()
    target = find_node(status, node) if node else NodeId(0)
    if not status.quorum:
        raise InvalidConfig("there is no quorum here to hand over", hint="leitwolf quorum status")
    hand_over(context, target, "the quorum", wait=wait, timeout_s=timeout_s)
