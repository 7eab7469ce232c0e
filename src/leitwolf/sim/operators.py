"""What operators ask of a simulated cluster, at any node and at the worst of times."""

from __future__ import annotations

from leitwolf.core.lease.profile import PROFILES
from leitwolf.model.commands import (
    AddNode,
    ChangeCluster,
    ChangeGroup,
    Command,
    EvictNode,
    IssueToken,
    MoveGroup,
    PauseNode,
    RecoverGroup,
    SetQuorum,
    SetVotes,
    TransferLeader,
    WishGroup,
    WishResource,
)
from leitwolf.model.ids import GroupId, NodeId, ResourceId, Wish
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.forming import QUORUMS
from leitwolf.sim.network import MILLISECOND
from leitwolf.sim.node import SimNode
from leitwolf.sim.world import World

__all__ = ["Operators"]

_JOIN_AFTER_NS = 300 * MILLISECOND
"""A token is used that much later than it was asked for."""


class Operators:
    """Asks for changes; nothing here knows whether an answer ever came."""

    def __init__(self, world: World, entropy: Entropy, spares: int) -> None:
        """Draw from ``entropy``; ``spares``: how many machines may be let in, and put out."""
        self._world = world
        self._entropy = entropy
        self.on = True
        """Off: nothing is asked any more, also not the second half of a join."""
        self._joins = self._leaves = spares
        self._request = 0
        self._serial = 0
        self._formatted: dict[str, int] = {}
        """By kind of quorum: number of what was formatted for it last."""

    def _send(self, node: SimNode, command: Command) -> None:
        if not self.on:
            return
        self._request += 1
        self._world.ask(node.id, self._request, command)

    def ask(self, node: SimNode) -> None:
        """Ask a node for a change of groups, resources or duties."""
        entropy, world = self._entropy, self._world
        state = world.state()
        groups = sorted(state.groups) if state is not None else []
        group = GroupId(entropy.choice(groups or ["g1"]))  # who has just joined knows of none
        other = NodeId(entropy.choice(list(world.nodes)))
        wish = Wish.OFFLINE if entropy.chance(300) else Wish.ONLINE
        commands: tuple[Command, ...] = (
            MoveGroup(group=group, node=other),
            MoveGroup(group=group, node=NodeId(0)),
            WishGroup(group=group, wish=wish),
            WishResource(resource=ResourceId(f"{group}-app"), wish=wish),
            ChangeGroup(group=group, restart_threshold=entropy.between(0, 5)),
            RecoverGroup(group=group),
            PauseNode(node=other, paused=entropy.chance(300), drain=entropy.chance(500)),
            TransferLeader(node=entropy.choice([other, NodeId(0)])),
        )
        self._send(node, entropy.choice(commands))

    def change_profile(self, node: SimNode) -> None:
        """Have the cluster use another timing profile."""
        self._send(node, ChangeCluster(profile=self._entropy.choice(sorted(PROFILES))))

    def change_quorum(self, node: SimNode) -> None:
        """Want another kind of quorum, with a disk or object that was formatted once."""
        kind = self._entropy.choice(sorted(QUORUMS))
        weight, witness = QUORUMS[kind]
        serial = self._formatted.get(kind, 0)
        if not serial or self._entropy.chance(500):
            self._serial += 1
            serial = self._formatted[kind] = self._serial
        self._send(
            node,
            SetQuorum(
                witness=witness.kind if witness else "",
                storage=f"{serial:08x}",
                location=f"sim:{serial}",
                full=witness.full if witness else True,
                alone=weight == 0,
            ),
        )

    def change_votes(self, node: SimNode) -> None:
        """Have votes follow who is there, or not; prefer a node; give a node a vote or none."""
        entropy = self._entropy
        other = NodeId(entropy.choice(list(self._world.nodes)))
        commands: tuple[Command, ...] = (
            SetVotes(dynamic=entropy.chance(800)),
            SetVotes(prefer=entropy.choice([other, NodeId(0)])),
            SetVotes(weights={other: int(entropy.chance(700))}),
        )
        self._send(node, entropy.choice(commands))

    def change_members(self, node: SimNode) -> None:
        """Let a machine in, or put one out."""
        if self._joins and self._entropy.chance(600):
            self._joins -= 1
            self._join(node)
        elif self._leaves:
            self._leaves -= 1
            target = NodeId(self._entropy.choice(list(self._world.nodes)))
            self._send(node, EvictNode(node=target, leaving=self._entropy.chance(500)))

    def _join(self, node: SimNode) -> None:
        """As a join does: a token first, then the machine with its own storage."""
        self._serial += 1
        serial = self._serial
        token = f"{serial:064x}"
        self._send(node, IssueToken(digest=token, lifetime_s=600))
        command = AddNode(
            name=f"s{serial}",
            uuid=f"spare{serial}",
            storage=f"spare-disk{serial}",
            addresses={
                f"ic{link}": f"10.{link}.0.{100 + serial}"
                for link in range(self._world.network.links)
            },
            fingerprint=f"{1_000 + serial:064x}",
            token=token,
        )
        self._world.later(_JOIN_AFTER_NS, self._send, node, command)
