"""A cluster of one from a backup: the same services, in another cluster.

Rules:

- The restored cluster has a new UUID, a new authority and new keys: a node of the old one, which
  may live on, is a stranger to it, and it to them.
- Nothing starts by itself: this node is paused until an operator resumes it. Addresses that are
  still used by the old cluster are found when a group goes online: nothing of it is proven here.
- Generations go on above those of the backup.
- First the whole backup is kept as a file (:data:`_PENDING`); from then on it is gone through with,
  also after a crash; before, nothing was changed. The bootstrap file, written last, completes it.

What this does not guarantee: that the old cluster stopped. Whoever resumes the node says so.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from leitwolf import __version__
from leitwolf.core.policy.dependencies import graph, order
from leitwolf.daemon import forming
from leitwolf.daemon.bootstrap import Bootstrap
from leitwolf.daemon.cluster import Cluster
from leitwolf.daemon.kept import read_kept, written_down
from leitwolf.daemon.networks import own_addresses
from leitwolf.model.commands import Answer, Command, MakeBackup
from leitwolf.model.errors import InvalidConfig, LeitwolfError, StorageError
from leitwolf.model.events import (
    Cause,
    Change,
    ClusterFormed,
    Event,
    GroupAdded,
    GroupWished,
    NetworkSet,
    NodePaused,
    QuorumChanged,
    QuorumWished,
    ResourceAdded,
    ResourceWished,
)
from leitwolf.model.ids import NetworkRole, NodeId, ResourceId, Wish
from leitwolf.model.quorum import QuorumWish
from leitwolf.model.state import Group, State
from leitwolf.state import Backup, decode_backup, encode_backup, take_backup
from leitwolf.system.durable import remove_durably, write_durably
from leitwolf.system.interfaces import interface_addresses
from leitwolf.system.settings import Settings

__all__ = [
    "REPLACED",
    "Pending",
    "advice_of",
    "begin_restore",
    "carry_on",
    "complete",
    "load_restore",
    "save_backup",
    "save_restore",
]

REPLACED = "replaced by a cluster that was restored here"
"""Why what was here is set aside."""

_PENDING = "restoring.msgpack"
_ME = NodeId(1)
_FRESH_S = 3.0

Ask = Callable[[Command, str, float], Awaitable[Answer]]


class Pending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A restore that was begun."""

    cluster: str
    """UUID of the new cluster."""
    node: str
    """Name of this node in it."""
    addresses: dict[str, str]
    """Of this node, by network."""
    data: bytes
    """The backup file."""
    wall: int

    def backup(self) -> Backup:
        """Return the backup; it was checked before it was kept.

        Raises:
            InvalidConfig: it cannot be read by this version.
        """
        return decode_backup(self.data, name="the backup that is kept", product=__version__)


async def save_backup(cluster: Cluster, by: str, command: Ask) -> bytes:
    """Return the state as this node has it once the log says, by a quorum, that it is copied."""
    try:
        answer = await command(MakeBackup(node=cluster.node.me), by, _FRESH_S)
        fresh = answer.refusal is None and cluster.node.state.index >= answer.index
    except LeitwolfError:
        fresh = False  # without a quorum the backup is as good as this node's log
    state = cluster.node.state
    backup = take_backup(
        state,
        product=__version__,
        node=cluster.bootstrap.name,
        fresh=fresh,
        wall=time.time_ns(),
        ballot=cluster.node.quorum.key_at(state.index).ballot,
    )
    return encode_backup(backup)


def begin_restore(data: bytes, *, node: str, wall: int) -> Pending:
    """Check that a backup can be restored here; nothing is changed.

    Raises:
        InvalidConfig: it is none (see :func:`decode_backup`), or ``no-interconnect``: this machine
            has no address on a network of the cluster.
    """
    backup = decode_backup(data, name="the file", product=__version__)
    state = backup.content()
    networks = [(network.name, network.subnets) for network in state.networks.values()]
    addresses = own_addresses(interface_addresses(), networks)
    links = {
        network.name: network.subnets
        for network in state.networks.values()
        if network.role is not NetworkRole.CLIENT
    }
    if not links.keys() & addresses.keys():
        wanted = "; ".join(f"{name}: {' '.join(subnets)}" for name, subnets in links.items())
        raise InvalidConfig(
            f"this machine has no address on an interconnect of {state.name}",
            code="no-interconnect",
            hint=f"give it one first: {wanted}",
        )
    return Pending(cluster=str(uuid.uuid4()), node=node, addresses=addresses, data=data, wall=wall)


def save_restore(settings: Settings, pending: Pending) -> None:
    """Keep it durably: from now on it is gone through with.

    Raises:
        StorageError: it cannot be written; nothing was changed.
    """
    forming.ensure_folders(settings)
    with written_down("the backup", settings.state):
        write_durably(settings.state / _PENDING, msgspec.msgpack.encode(pending))


def load_restore(state: Path) -> Pending | None:
    """Return the restore that was begun, None: there is none.

    Raises:
        StorageError: ``restore-damaged``, or it cannot be read.
    """
    return read_kept(
        state / _PENDING,
        Pending,
        code="restore-damaged",
        hint="remove it, then: leitwolf restore FILE --replace",
        decode=msgspec.msgpack.decode,
    )


def forget_restore(state: Path) -> None:
    """It is complete.

    Raises:
        StorageError: ``storage-io``.
    """
    with written_down("the end of the restore", state):
        remove_durably(state / _PENDING)


async def carry_on(settings: Settings, pending: Pending, present: Bootstrap | None) -> str:
    """Do the next step of a restore; return why what is here is to be set aside first, '': not.

    Raises:
        StorageError: it cannot be done now.
    """
    if present is None:
        await asyncio.to_thread(complete, settings, pending)
    elif present.cluster == pending.cluster:
        forget_restore(settings.state)
    else:
        return REPLACED
    return ""


def complete(settings: Settings, pending: Pending) -> Bootstrap:
    """Write the new cluster; this node must be in none. Blocks.

    Raises:
        StorageError: it cannot be written, or read by this version; asked again, it goes on.
    """
    try:
        return _complete(settings, pending)
    except OSError as error:
        text = f"the restored cluster cannot be written: {error}"
        raise StorageError(text, code="storage-io") from error
    except InvalidConfig as error:
        raise StorageError(error.text, code=error.code, hint=error.hint) from error


def _complete(settings: Settings, pending: Pending) -> Bootstrap:
    backup = pending.backup()
    state = backup.content()
    when = datetime.fromtimestamp(backup.wall / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    because = Cause(
        code="restored",
        text=f"from the backup of {state.name} ({backup.cluster}) at entry {backup.index}, {when}",
    )

    def change(events: list[Event]) -> Change:
        return Change(
            events=tuple(events),
            because=because,
            by=f"root@{pending.node}",
            time=0,
            wall=pending.wall,
        )

    former = next((node.id for node in state.nodes.values() if node.name == pending.node), None)
    groups = [
        change(_group(state, group, former))
        for group in state.groups.values()
        if not group.removing
    ]
    return forming.establish(
        settings,
        lambda me: [change(_cluster(state, pending, me)), *groups],
        cluster=pending.cluster,
        name=state.name,
        node_name=pending.node,
        port=state.port,
    )


def _cluster(state: State, pending: Pending, me: forming.Founder) -> list[Event]:
    """Return the cluster with this node alone in it, paused."""
    generations = [group.generation for group in state.groups.values()]
    return [
        ClusterFormed(
            uuid=me.cluster,
            name=state.name,
            profile=state.profile,
            port=state.port,
            authority=me.authority,
            generation_floor=max([state.generation_floor, *generations]),
        ),
        *(
            NetworkSet(name=network.name, subnets=network.subnets, role=network.role)
            for network in state.networks.values()
        ),
        me.added(pending.node, pending.addresses),
        QuorumWished(wish=QuorumWish(dynamic=state.wish.dynamic)),
        QuorumChanged(stage="final", text=f"{pending.node} alone"),
        NodePaused(node=_ME, paused=True),
    ]


def _group(state: State, group: Group, former: NodeId | None) -> list[Event]:
    """Return a group with its resources and wishes; of its nodes only this one is left."""
    members = {one.id: one for one in state.resources.values() if one.group == group.id}
    events: list[Event] = [
        GroupAdded(
            group=group.id,
            preferred=(_ME,) if former in group.preferred else (),
            restart_threshold=group.restart_threshold,
            restart_period_s=group.restart_period_s,
            failover_threshold=group.failover_threshold,
            failover_period_s=group.failover_period_s,
            retry_period_s=group.retry_period_s,
        )
    ]
    for name in order(graph(members.values())):
        one = members[ResourceId(name)]
        events.append(
            ResourceAdded(
                resource=one.id,
                group=group.id,
                type=one.type,
                parameters=one.parameters,
                depends=one.depends,
            )
        )
        if one.wish is Wish.OFFLINE:
            events.append(ResourceWished(resource=one.id, wish=one.wish))
    if group.wish is Wish.ONLINE:
        events.append(GroupWished(group=group.id, wish=group.wish))
    return events


def advice_of(pending: Pending) -> str:
    """Return what the operator must know and do now."""
    backup = pending.backup()
    state = backup.content()
    others = [node.name for node in state.nodes.values() if node.name != pending.node]
    wished = [group.id for group in state.groups.values() if group.wish is Wish.ONLINE]
    lines = [
        f"nothing starts before: leitwolf node resume {pending.node}"
        + (f" (then: {', '.join(wished)})" if wished else ""),
        "first make sure that the old cluster does not run any more: it has the same addresses",
    ]
    if others:
        lines.append(f"{', '.join(others)} join anew: leitwolf token")
    if state.wish.witness is not None:
        lines.append(
            f"the nodes alone are the quorum; {state.wish.witness.location} is of the old cluster"
        )
    return "\n".join(lines)
