"""Messages between the quorum cores of two nodes, and what a core asks its surroundings to do.

Messages travel on TLS streams, in order while a stream lives; streams may break at any time, so
any message may be lost, and a reconnect may deliver late. The core tolerates loss, duplication
and reordering.
"""

from __future__ import annotations

import msgspec

from leitwolf.model.errors import ProtocolError
from leitwolf.model.log import Entry
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.wire.lineage import Lineage

__all__ = [
    "Append",
    "Appended",
    "ForceAnswer",
    "ForceMessage",
    "ForceOrder",
    "ForceProbe",
    "ForceReport",
    "Gap",
    "InstallSnapshot",
    "PreProbe",
    "PreProbeReply",
    "Prepare",
    "Promised",
    "QuorumMessage",
    "Refused",
    "SnapshotInstalled",
    "TransferOffice",
    "verify_sender",
]


class _Message(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag=True,
    tag_field="kind",
):
    pass


class PreProbe(_Message, frozen=True, kw_only=True):
    """Would you promise me a ballot now? Commits nobody to anything."""

    round: int
    """Serial of the question, echoed."""
    key: Key


class PreProbeReply(_Message, frozen=True, kw_only=True):
    """``willing``: my promise is free, my log not ahead; ``promised`` helps choose a round."""

    round: int
    willing: bool
    promised: Ballot
    key: Key


class Prepare(_Message, frozen=True, kw_only=True):
    """Promise me ``ballot`` (R1, R2, R5)."""

    ballot: Ballot
    key: Key


class Promised(_Message, frozen=True, kw_only=True):
    """Durably promised; what the guard reported belongs to it (L6)."""

    ballot: Ballot
    renewed: Ballot
    freed: bool
    no_memory: bool
    key: Key
    storage: str
    """UUID of the storage that holds the promise: an acceptor is a node with its storage."""


class Refused(_Message, frozen=True, kw_only=True):
    """Not promised or not accepted: ``promised`` is the higher ballot, or a lease still runs.

    ``key`` above the candidate's means "behind": this acceptor knows entries that it lacks (R2).
    """

    ballot: Ballot
    promised: Ballot
    key: Key
    remaining: int
    """How long (ns) the promise to another owner still runs; 0: not the reason."""


class Append(_Message, frozen=True, kw_only=True):
    """Entries after ``previous``; ``commit``: the leader's commit index. Empty: just commit."""

    ballot: Ballot
    previous: Key
    entries: tuple[Entry, ...]
    commit: int
    quiet: bool = False
    """No confirmation is needed: it tells only what is committed, on a stream that is in order."""


class Appended(_Message, frozen=True, kw_only=True):
    """Durable in ``storage`` and equal to the leader's log up to ``match``."""

    ballot: Ballot
    match: int
    storage: str


class Gap(_Message, frozen=True, kw_only=True):
    """``previous`` is not here: continue after ``hint`` (an index not above the divergence)."""

    ballot: Ballot
    hint: int


class InstallSnapshot(_Message, frozen=True, kw_only=True):
    """A chunk of the leader's snapshot; the last has ``done``."""

    ballot: Ballot
    last: Key
    """Key of the last entry that the snapshot covers."""
    offset: int
    data: bytes
    done: bool


class SnapshotInstalled(_Message, frozen=True, kw_only=True):
    """``received``: bytes held so far; ``installed``: durable as a whole, up to ``last.index``."""

    ballot: Ballot
    last: Key
    received: int
    installed: bool
    storage: str


class TransferOffice(_Message, frozen=True, kw_only=True):
    """From the leader, which released ``ballot``: ``successor`` begins an election at once (L8).

    The others let it go first: who campaigns beside it only makes both slower.
    """

    ballot: Ballot
    successor: int


class ForceProbe(_Message, frozen=True, kw_only=True):
    """Could you go on with these nodes alone? Commits nobody to anything."""

    serial: int
    nodes: tuple[int, ...]
    last: bool = False
    """The silence is over: if nothing speaks against it now, the first entry is written."""


class ForceReport(_Message, frozen=True, kw_only=True):
    """What this node holds, and why it would not go on without the rest; ``code`` '': it would."""

    serial: int
    key: Key
    """Of its last entry; of the last one that both may hold, where its own force got stuck."""
    storage: str
    code: str = ""
    text: str = ""


class ForceOrder(_Message, frozen=True, kw_only=True):
    """The operator forced a quorum of ``nodes``: be in this history from now on.

    ``key``: of the last entry that both may hold; who holds more refuses. Sent by the node on which
    he did it.
    """

    lineage: Lineage
    key: Key
    nodes: tuple[int, ...]


class ForceAnswer(_Message, frozen=True, kw_only=True):
    """Why the order is refused here; who obeys shows it in the next handshake."""

    lineage: Lineage
    code: str
    text: str


ForceMessage = ForceProbe | ForceReport | ForceOrder | ForceAnswer
"""Between two nodes of which one forces a quorum; only orders pass between two histories."""

QuorumMessage = (
    PreProbe
    | PreProbeReply
    | Prepare
    | Promised
    | Refused
    | Append
    | Appended
    | Gap
    | InstallSnapshot
    | SnapshotInstalled
    | TransferOffice
)


def verify_sender(node: int, message: QuorumMessage) -> None:
    """Check what a sender answers for: ballots have one owner, entries follow each other.

    Raises:
        ProtocolError: ``node`` speaks for another's ballot, or its entries make no log.
    """
    if isinstance(message, Prepare | Append | InstallSnapshot | TransferOffice):
        if message.ballot.node != node:
            raise ProtocolError(f"node {node} speaks for ballot {message.ballot}")
        if not isinstance(message, Append):
            return
        key = message.previous
        for entry in message.entries:
            if entry.index != key.index + 1 or not key.ballot <= entry.ballot <= message.ballot:
                raise ProtocolError(f"node {node} sent entry {entry.index} behind {key}")
            key = Key(entry.ballot, entry.index)
