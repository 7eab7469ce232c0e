"""Housekeeping of a node: tells the log what it lacks about the node, while there is a leader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from leitwolf.core.node import Node
from leitwolf.daemon.networks import own_addresses
from leitwolf.model.commands import Command, StopNode, TellAbility, TellRecord
from leitwolf.model.limits import RECORD_LINES_MAX
from leitwolf.model.state import Node as NodeState
from leitwolf.store import LocalRecorder
from leitwolf.system.interfaces import interface_addresses
from leitwolf.system.progress import Flag, Progress, Role

__all__ = ["House"]

_ROUND_S = 0.5
_ADDRESS_ROUNDS = 4
"""A network is added by hand: two seconds later is soon enough, and looking costs a little."""


class House:
    """One task of a running node.

    Args:
        node: the core.
        recorder: lines that this node wrote while it could write no entry.
        progress: the shared page, for what the guard says of itself.
        tell: has the leader do something for this node; returns whether it was done.
    """

    def __init__(
        self,
        node: Node,
        recorder: LocalRecorder,
        progress: Progress,
        tell: Callable[[Command], Awaitable[bool]],
    ) -> None:
        self._node = node
        self._recorder = recorder
        self._progress = progress
        self._tell = tell
        self.untold = True
        """Lines of the recorder may wait to be told."""
        self._rounds = 0
        self.stopping = False
        """This daemon is about to end: it no longer says that its node goes on."""

    async def keep(self) -> None:
        """Look every half second, until cancelled."""
        while True:
            await asyncio.sleep(_ROUND_S)
            node = self._node
            own = node.state.nodes.get(node.me)
            if own is None or not (node.in_charge or node.leader in node.connected):
                continue
            if own.stopping and own.up and not self.stopping:
                await self._tell(StopNode(node=node.me, stopping=False))
            await self._tell_ability(own)
            if self.untold:
                await self._tell_record()

    async def _tell_ability(self, own: NodeState) -> None:
        """Tell what the log does not have: real-time scheduling, addresses on new networks."""
        guard = self._progress.slot(Role.GUARD)
        if not guard.counter:
            return
        realtime = bool(guard.flags & Flag.REALTIME)
        addresses = self._new_addresses(own)
        if addresses or own.realtime is not realtime:
            await self._tell(
                TellAbility(node=self._node.me, realtime=realtime, addresses=addresses)
            )

    def _new_addresses(self, own: NodeState) -> dict[str, str]:
        """Return addresses on networks that were added since this node was formed or joined."""
        self._rounds += 1
        if self._rounds % _ADDRESS_ROUNDS:
            return {}
        unknown = [
            (item.name, item.subnets)
            for item in self._node.state.networks.values()
            if item.name not in own.addresses
        ]
        return own_addresses(interface_addresses(), unknown) if unknown else {}

    async def _tell_record(self) -> None:
        """Hand the lines of the recorder to the log, then forget them here."""
        lines = self._recorder.read()[:RECORD_LINES_MAX]
        if not lines:
            self.untold = False
            return
        texts = tuple(f"{_utc(line.at_wall_ns)} {line.text}" for line in lines)
        if await self._tell(TellRecord(node=self._node.me, lines=texts)):
            self._recorder.clear(lines[-1].serial)


def _utc(wall_ns: int) -> str:
    moment = datetime.fromtimestamp(wall_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
