"""Events into and effects out of the cluster core of one node (:mod:`leitwolf.core.node`).

Ordering contract (kept by :mod:`leitwolf.core.executor`, in the daemon and in the simulator):
within one step, records are written and synced first; what names a position ``after`` waits until
the log is durable up to it; then messages are sent, then committed entries applied, then requests
answered. A write or sync that fails ends the process; it is never retried.
"""

from __future__ import annotations

import msgspec

from leitwolf.core.messages import Appended, ForceMessage, QuorumMessage
from leitwolf.model.commands import Answer, Command
from leitwolf.model.history import HistoryStanding
from leitwolf.model.log import Entry, Record, Snapshot
from leitwolf.model.observations import HostOrder, HostReport, NodeReport
from leitwolf.model.quorum import AcceptorId
from leitwolf.ports.witness import WitnessCall, WitnessResult
from leitwolf.wire.guard import GuardCommand, GuardReport

__all__ = [
    "Applied",
    "AskGuard",
    "CallWitness",
    "Durable",
    "Effect",
    "Event",
    "FromGuard",
    "FromHost",
    "FromPeer",
    "FromWitness",
    "GuardLost",
    "HostLost",
    "OrderHost",
    "PeerLost",
    "PeerMessage",
    "PeerSeen",
    "PeerUp",
    "Reply",
    "Request",
    "Requests",
    "SaveSnapshot",
    "Send",
    "Tick",
    "Write",
    "only_replicated",
]

PeerMessage = QuorumMessage | NodeReport | ForceMessage


class _Item(msgspec.Struct, frozen=True, kw_only=True):
    pass


# --- events --------------------------------------------------------------------------------------


class Tick(_Item, frozen=True, kw_only=True):
    """Time passed: at or after :meth:`Node.deadline`; ``wall`` (ns, UTC) is for display only."""

    wall: int


class FromPeer(_Item, frozen=True, kw_only=True):
    """A message of a member or learner came in."""

    node: int
    message: PeerMessage


class PeerUp(_Item, frozen=True, kw_only=True):
    """A stream to ``node`` is up (after the handshake checked cluster, version and storage)."""

    node: int
    history: HistoryStanding = HistoryStanding()
    """In which history it is, as its handshake said."""


class PeerLost(_Item, frozen=True, kw_only=True):
    """The stream to ``node`` is gone; what was under way may be lost."""

    node: int


class PeerSeen(_Item, frozen=True, kw_only=True):
    """``node`` called, or answered a call, but no stream came of it."""

    node: int


class FromGuard(_Item, frozen=True, kw_only=True):
    """The guard says something."""

    report: GuardReport


class FromHost(_Item, frozen=True, kw_only=True):
    """The resource host says something."""

    report: HostReport


class GuardLost(_Item, frozen=True, kw_only=True):
    """The connection to the guard is gone; GuardHello comes when it is back."""


class HostLost(_Item, frozen=True, kw_only=True):
    """The connection to the host is gone; it will report everything anew when it is back."""


class Durable(_Item, frozen=True, kw_only=True):
    """The log is durable up to ``position`` (counts :class:`Write` effects)."""

    position: int


class FromWitness(_Item, frozen=True, kw_only=True):
    """A call to a passive acceptor ended (answers :class:`CallWitness` with ``serial``)."""

    node: int
    """Id of the acceptor."""
    serial: int
    started: int
    """RAW ns just before the call was begun."""
    result: WitnessResult


class Request(_Item, frozen=True, kw_only=True):
    """Somebody asks through the API of this or (forwarded) another node."""

    id: int
    command: Command
    by: str
    """Who asked, for the audit: user name and node."""
    wall: int
    unchanged_since: int = -1
    """Refuse it if an entry above this index changed the configuration; -1: whatever changed."""


class Requests(_Item, frozen=True, kw_only=True):
    """One request, or all that came in while the disk was busy, in their order (group commit).

    They are decided in one step, so they are one write here and one message to each node.
    """

    requests: tuple[Request, ...]


Event = (
    Tick
    | FromPeer
    | PeerUp
    | PeerLost
    | PeerSeen
    | FromGuard
    | GuardLost
    | FromHost
    | HostLost
    | Durable
    | FromWitness
    | Requests
)


def only_replicated(event: Event) -> bool:
    """Return whether an event says only how far the log reached a disk, here or elsewhere."""
    return isinstance(event, Durable) or (
        isinstance(event, FromPeer) and isinstance(event.message, Appended)
    )


# --- effects -------------------------------------------------------------------------------------


class Write(_Item, frozen=True, kw_only=True):
    """Append records to the log and sync them; answered by :class:`Durable` with ``position``."""

    position: int
    records: tuple[Record, ...]


class SaveSnapshot(_Item, frozen=True, kw_only=True):
    """Store a snapshot durably (own, or installed from the leader) and drop what it covers."""

    position: int
    snapshot: Snapshot
    reset: bool
    """The entries before it are void as a whole (installed from the leader); promises stay."""


class Send(_Item, frozen=True, kw_only=True):
    """Send to a node's daemon, once the log is durable up to ``after``."""

    node: int
    message: PeerMessage
    after: int = 0


class AskGuard(_Item, frozen=True, kw_only=True):
    """Tell the guard something, once the log is durable up to ``after``."""

    command: GuardCommand
    after: int = 0


class CallWitness(_Item, frozen=True, kw_only=True):
    """Call a passive acceptor, once the log is durable up to ``after``; one call at a time each."""

    acceptor: AcceptorId
    serial: int
    call: WitnessCall
    after: int = 0


class Applied(_Item, frozen=True, kw_only=True):
    """These entries are committed and folded into the state; for event streams."""

    entries: tuple[Entry, ...]


class OrderHost(_Item, frozen=True, kw_only=True):
    """Tell the resource host what to run or stop."""

    order: HostOrder


class Reply(_Item, frozen=True, kw_only=True):
    """Answer a :class:`Request`."""

    id: int
    answer: Answer


Effect = Write | SaveSnapshot | Send | AskGuard | CallWitness | Applied | OrderHost | Reply
