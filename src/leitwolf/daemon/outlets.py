"""Where the effects of the core go: peers, guard, host, disks and witnesses, whoever waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from leitwolf.core.effects import CallWitness, PeerMessage
from leitwolf.model.commands import Answer
from leitwolf.model.log import Entry
from leitwolf.model.observations import HostOrder
from leitwolf.wire.guard import GuardCommand

if TYPE_CHECKING:
    from leitwolf.daemon.cluster import Cluster

__all__ = ["Outlets"]

_ORDERS = msgspec.msgpack.Encoder()


class Outlets:
    """See :class:`leitwolf.core.executor.Outlets`; every call returns at once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def send(self, node: int, message: PeerMessage) -> None:
        """Send to a node's daemon; dropped when no stream is up."""
        self._cluster.peers.send(node, message)

    def ask_guard(self, command: GuardCommand) -> None:
        """Tell the own guard; dropped when there is none."""
        self._cluster.ask_guard(command)

    def call_witness(self, call: CallWitness) -> None:
        """Begin a call of a shared disk or witness."""
        self._cluster.call_witness(call)

    def applied(self, entries: tuple[Entry, ...]) -> None:
        """Publish committed entries."""
        self._cluster.applied(entries)

    def order_host(self, order: HostOrder) -> None:
        """Tell the resource host; dropped when there is none."""
        self._cluster.host.send(_ORDERS.encode(order))

    def reply(self, request: int, answer: Answer) -> None:
        """Answer a request."""
        self._cluster.replied(request, answer)
