"""The log of a cluster that was formed before the simulated run begins."""

from __future__ import annotations

from leitwolf.core.membership.votes import wanted_acceptors
from leitwolf.model.events import (
    Cause,
    Change,
    ClusterFormed,
    Event,
    GroupAdded,
    GroupWished,
    NetworkSet,
    NodeAdded,
    NodePromoted,
    QuorumChanged,
    QuorumWished,
    ResourceAdded,
)
from leitwolf.model.ids import GroupId, NetworkRole, NodeId, ResourceId, Wish
from leitwolf.model.log import Entry, Loaded
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig, QuorumWish
from leitwolf.model.witness import WITNESS_ID_MIN
from leitwolf.state import encode_change
from leitwolf.wire.ballot import Ballot

__all__ = ["QUORUMS", "formed_log"]

_WITNESS = AcceptorId(NodeId(WITNESS_ID_MIN), "5ead0000")
QUORUMS: dict[str, tuple[int, Acceptor | None]] = {
    "majority": (1, None),
    "disk": (0, Acceptor(id=_WITNESS, kind="disk")),
    "disk-witness": (1, Acceptor(id=_WITNESS, kind="disk")),
    "tag-witness": (1, Acceptor(id=_WITNESS, kind="object", full=False)),
    "full-witness": (1, Acceptor(id=_WITNESS, kind="object")),
    "engine": (0, Acceptor(id=_WITNESS, kind="object")),
}
"""Kinds of quorum: weight of a node, and the acceptor that is none."""


def _group(number: int) -> list[Event]:
    group = GroupId(f"g{number}")
    address = ResourceId(f"g{number}-ip")
    return [
        GroupAdded(group=group),
        ResourceAdded(
            resource=address,
            group=group,
            type="ip_address",
            parameters={"address": f"10.99.0.{number}/24"},
        ),
        ResourceAdded(
            resource=ResourceId(f"g{number}-app"),
            group=group,
            type="process",
            parameters={"command": "/bin/serve"},
            depends=(address,),
        ),
        GroupWished(group=group, wish=Wish.ONLINE),
    ]


def formed_log(
    *,
    nodes: int,
    groups: int,
    links: int,
    profile: str,
    quorum: str = "majority",
    dynamic: bool = False,
) -> Loaded:
    """Return the log of a cluster of ``nodes`` members with ``groups`` groups, all committed."""
    ballot = Ballot(0, 1, 1)
    weight, witness = QUORUMS[quorum]
    wish = QuorumWish(witness=witness, node_weight=weight, dynamic=dynamic)
    acceptors = wanted_acceptors(
        wish, [AcceptorId(NodeId(number), f"disk{number}") for number in range(1, nodes + 1)]
    )
    events: list[Event] = [
        ClusterFormed(uuid="sim", name="sim", profile=profile, port=6474, authority=b"")
    ]
    events.extend(
        NetworkSet(name=f"ic{link}", subnets=(f"10.{link}.0.0/24",), role=NetworkRole.INTERCONNECT)
        for link in range(links)
    )
    events.append(NetworkSet(name="lan", subnets=("10.99.0.0/24",), role=NetworkRole.CLIENT))
    for number in range(1, nodes + 1):
        addresses = {f"ic{link}": f"10.{link}.0.{number}" for link in range(links)}
        events.append(
            NodeAdded(
                node=NodeId(number),
                name=f"n{number}",
                uuid=f"node{number}",
                storage=f"disk{number}",
                addresses=addresses,
                fingerprint=f"{number:064x}",
            )
        )
        if number > 1:
            events.append(NodePromoted(node=NodeId(number)))
    events.append(QuorumWished(wish=wish))
    events.append(QuorumChanged(stage="final", text="formed"))
    for number in range(1, groups + 1):
        events.extend(_group(number))
    change = Change(
        events=tuple(events),
        because=Cause(code="formed", text="the simulated cluster was formed"),
        by="simulator",
        time=0,
        wall=0,
    )
    entry = Entry(
        index=1,
        ballot=ballot,
        payload=encode_change(change),
        config=QuorumConfig(acceptors=acceptors),
    )
    return Loaded(promised=ballot, entries=(entry,), commit=1)
