"""What a command about the way to a disk or witness means."""

from __future__ import annotations

from leitwolf.core.policy.checks import Judged, Refused, check_range, find_node, judged
from leitwolf.model import commands, events
from leitwolf.model.ids import NO_NODE
from leitwolf.model.limits import LOCATION_LENGTH_MAX
from leitwolf.model.observations import Observations
from leitwolf.model.quorum import Acceptor, location_of
from leitwolf.model.state import State

__all__ = ["relocate_witness"]


def relocate_witness(
    state: State, command: commands.RelocateWitness, _seen: Observations
) -> Judged:
    """Reach a disk or witness elsewhere, from one node or from all."""
    acceptor = _used(state, command.storage)
    whose = "every node" if not command.node else find_node(state, command.node).name
    check_range(len(command.location), "location", 1, LOCATION_LENGTH_MAX)
    text = f"reach {acceptor.location} at {command.location} from {whose}"
    if command.node:
        common = location_of(acceptor, state.relocations, NO_NODE)
        own = "" if command.location == common else command.location
    else:
        own = "" if command.location == acceptor.location else command.location
    known = {(one.storage, one.node): one.location for one in state.relocations}
    if known.get((command.storage, command.node), "") == own:
        return judged([], text)
    relocated = events.WitnessRelocated(storage=command.storage, node=command.node, location=own)
    return judged([relocated], text)


def _used(state: State, storage: str) -> Acceptor:
    config = state.quorum
    acceptors = [] if config is None else [*config.acceptors, *(config.former or ())]
    if state.wish.witness is not None:
        acceptors.append(state.wish.witness)
    for acceptor in acceptors:
        if acceptor.kind != "node" and acceptor.id.storage == storage:
            return acceptor
    raise Refused(
        "no-such-witness",
        f"storage = {storage!r} is no disk or witness of this cluster",
        hint="leitwolf quorum status --json names those in use; leitwolf quorum set takes others",
        field="storage",
    )
