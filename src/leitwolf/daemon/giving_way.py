"""A node gives way to a history that was forced: its log is set aside, and it begins anew.

Rules:

- Everything here is stopped, and guard and host forgot what they knew, before anything else.
- The log is kept as a whole in ``quarantine``; the node goes on with an empty one, of another
  storage. It has no vote until it caught up.
- What is to be done is written down first, so that a crash at any step ends in the same state.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import msgspec

from leitwolf.core.membership.roster import interconnects
from leitwolf.core.node import Node
from leitwolf.daemon.bootstrap import Bootstrap, Peer, save_bootstrap
from leitwolf.daemon.kept import read_kept, read_note
from leitwolf.model.errors import StorageError
from leitwolf.model.history import HistoryStanding
from leitwolf.model.views import FindingView
from leitwolf.ports.files import FileSystem
from leitwolf.store import QuorumLog, StoreIdentity, quarantine, quarantined
from leitwolf.store.files import OsFileSystem
from leitwolf.store.identity import read_identity
from leitwolf.system.durable import remove_durably, write_durably
from leitwolf.system.settings import JOIN_ONLY_NAME
from leitwolf.wire.lineage import continues

__all__ = [
    "INTENT_NAME",
    "GivingWay",
    "finish",
    "intend",
    "is_prevented",
    "notice",
    "pending",
    "plan",
    "prevent",
]

INTENT_NAME = "giving-way.json"
_KEPT = "set-aside.json"
_FILES: FileSystem = OsFileSystem()


class GivingWay(msgspec.Struct, frozen=True, kw_only=True):
    """As whom this node goes on, and what it leaves behind."""

    bootstrap: Bootstrap
    reason: str
    entries: int
    """Entries of its log that the other history lacks, as far as is known."""
    at_wall: int
    folder: str = ""
    """Where the log was set aside."""


def plan(bootstrap: Bootstrap, node: Node, history: HistoryStanding, reason: str) -> GivingWay:
    """Return how this node gives way to a history."""
    names = interconnects(node.foreseen)
    own = node.acquainted.get(node.me)
    peers = tuple(
        Peer(
            node=one.id,
            fingerprint=one.fingerprint,
            addresses=tuple(one.addresses.get(name, "") for name in names),
        )
        for one in node.acquainted.values()
        if one.id != node.me
    )
    last, lineage = node.quorum.last_key.index, node.quorum.lineage
    # Where the two parted: at the first entry of the other history, or already of the own one.
    parted = [history.forced]
    if not continues(history.lineage, lineage):
        parted.append(node.state.forced)
    begun = min((index for index in parted if index), default=1)
    return GivingWay(
        bootstrap=msgspec.structs.replace(
            bootstrap,
            storage=str(uuid.uuid4()),
            replaces=(*bootstrap.replaces, bootstrap.storage),
            lineage=history.lineage,
            peers=peers or bootstrap.peers,
            addresses=(
                tuple(own.addresses.get(name, "") for name in names)
                if own is not None
                else bootstrap.addresses
            ),
        ),
        reason=reason,
        entries=max(0, last - begun + 1),
        at_wall=time.time_ns(),
    )


def intend(state: Path, giving: GivingWay) -> None:
    """Write down that this node gives way: from now on it does, also after a crash.

    Raises:
        OSError: the state directory cannot be written.
    """
    write_durably(state / INTENT_NAME, msgspec.json.encode(giving))


def pending(state: Path) -> GivingWay | None:
    """Return what was intended and is not finished.

    Raises:
        StorageError: the file is damaged, or cannot be read.
    """
    hint = f"remove {state / INTENT_NAME}: this node gives way again as soon as it hears the others"
    return read_kept(state / INTENT_NAME, GivingWay, code="bootstrap-damaged", hint=hint)


def finish(state: Path, log_folder: Path, giving: GivingWay) -> None:
    """Set the log aside and begin an empty one; may be called again after a crash at any step.

    Everything on this node must be stopped. Blocks.

    Raises:
        OSError, StorageError: a file cannot be written.
    """
    bootstrap = giving.bootstrap
    identity = StoreIdentity(
        cluster=bootstrap.cluster, node=bootstrap.node, storage=bootstrap.storage
    )
    if log_folder.exists() and _storage_in(log_folder) != bootstrap.storage:
        quarantine(log_folder)
    # Told from what is there: the former one may have been set aside before a crash.
    for folder in quarantined(log_folder):
        if _storage_in(folder) == bootstrap.replaces[-1]:
            note = msgspec.structs.replace(giving, folder=str(folder))
            write_durably(state / _KEPT, msgspec.json.encode(note))
    if not log_folder.exists():
        QuorumLog.create(log_folder, identity).close()
    save_bootstrap(state, bootstrap)
    remove_durably(state / INTENT_NAME)


def _storage_in(log_folder: Path) -> str:
    """Return the storage of a log, '': none is whole there."""
    try:
        return read_identity(log_folder, _FILES).storage
    except StorageError:
        return ""


def notice(state: Path) -> FindingView | None:
    """Return what people are told of a log that was set aside and is still in quarantine."""
    kept = read_note(state / _KEPT, GivingWay)
    if kept is None or not Path(kept.folder).exists():
        return None
    lack = f"about {kept.entries} entries" if kept.entries else "no entries"
    return FindingView(
        code="history-set-aside",
        text=f"this node gave way ({kept.reason}); its former log, with {lack} that the others do "
        f"not have, is kept in {kept.folder}",
        fix="remove the folder when nobody needs it any more",
    )


def prevent(state: Path, *, on: bool) -> None:
    """Let this node join only, from its next start until it has joined; or not.

    Raises:
        OSError: the state directory cannot be written.
    """
    path = state / JOIN_ONLY_NAME
    if on:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, b"")
    else:
        remove_durably(path)


def is_prevented(state: Path) -> bool:
    """Return whether this node is to join only."""
    return (state / JOIN_ONLY_NAME).exists()
