"""The fold: what the log adds up to.

Rules:
    The result depends on the state and the entry alone, so it is the same on every node. Nothing
    of the given state is mutated. A committed entry that contradicts the state raises
    InvariantError: then this node's state is wrong, and it must not act on it.

Theory of operation:
    An entry is one change; its events are applied in order to a draft, whose tables are copied
    when they are first written. Each object that an event touches notes the index of the entry
    and the cause: the event's own, else the change's. Cluster time never goes back: a new leader
    may begin a little behind the last entry of the old one, then it stands still.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leitwolf.model import events
from leitwolf.model.errors import InvariantError, check
from leitwolf.model.events import Change
from leitwolf.model.log import Entry, Loaded
from leitwolf.model.quorum import QuorumConfig
from leitwolf.model.state import State
from leitwolf.state import groups, nodes
from leitwolf.state.codec import decode, decode_change
from leitwolf.state.draft import Draft

__all__ = ["fold", "fold_all", "fold_change", "fold_loaded"]

_HANDLERS: dict[type, Callable[[Draft, Any], None]] = {
    events.ClusterFormed: nodes.apply_cluster_formed,
    events.ClusterChanged: nodes.apply_cluster_changed,
    events.NodeAdded: nodes.apply_node_added,
    events.NodePromoted: nodes.apply_node_promoted,
    events.NodeChanged: nodes.apply_node_changed,
    events.NodePaused: nodes.apply_node_paused,
    events.NodeStopping: nodes.apply_node_stopping,
    events.NodeLeaving: nodes.apply_node_leaving,
    events.NodeRemoved: nodes.apply_node_removed,
    events.NodeUp: nodes.apply_node_up,
    events.NodeDown: nodes.apply_node_down,
    events.LeaderElected: nodes.apply_leader_elected,
    events.KeysSet: nodes.apply_keys_set,
    events.ProfileSettled: nodes.apply_profile_settled,
    events.QuorumChanged: nodes.apply_nothing,
    events.QuorumForced: nodes.apply_quorum_forced,
    events.QuorumWished: nodes.apply_quorum_wished,
    events.WitnessRelocated: nodes.apply_witness_relocated,
    events.NetworkSet: nodes.apply_network_set,
    events.TokenIssued: nodes.apply_token_issued,
    events.TokenUsed: nodes.apply_token_used,
    events.LocalRecord: nodes.apply_nothing,
    events.BackupMade: nodes.apply_nothing,
    events.GroupAdded: groups.apply_group_added,
    events.GroupChanged: groups.apply_group_changed,
    events.GroupRemoved: groups.apply_group_removed,
    events.GroupRemoving: groups.apply_group_removing,
    events.GroupWished: groups.apply_group_wished,
    events.GroupPlaced: groups.apply_group_placed,
    events.GroupClosing: groups.apply_group_closing,
    events.GroupStopped: groups.apply_group_stopped,
    events.GroupFailed: groups.apply_group_failed,
    events.GroupRecovered: groups.apply_group_recovered,
    events.ResourceAdded: groups.apply_resource_added,
    events.ResourceChanged: groups.apply_resource_changed,
    events.ResourceRemoved: groups.apply_resource_removed,
    events.ResourceWished: groups.apply_resource_wished,
    events.ResourceMoved: groups.apply_resource_moved,
}
_CONFIGURING = frozenset(
    {
        events.ClusterFormed,
        events.ClusterChanged,
        events.NodeAdded,
        events.NodePaused,
        events.NodeLeaving,
        events.NodeRemoved,
        events.NetworkSet,
        events.QuorumForced,
        events.QuorumWished,
        events.WitnessRelocated,
        events.GroupAdded,
        events.GroupChanged,
        events.GroupRemoved,
        events.GroupRemoving,
        events.GroupWished,
        events.ResourceAdded,
        events.ResourceChanged,
        events.ResourceRemoved,
        events.ResourceWished,
    }
)
"""What an operator decides; all else follows, or is observed."""


def fold(state: State, entry: Entry) -> State:
    """Return the state after a committed entry.

    Raises:
        InvariantError: the entry is not the next one, cannot be read or contradicts the state.
    """
    check(
        entry.index == state.index + 1,
        f"entry {entry.index} cannot follow entry {state.index}",
    )
    return fold_change(state, entry.index, decode_change(entry.payload), entry.config)


def fold_change(
    state: State, index: int, change: Change, config: QuorumConfig | None = None
) -> State:
    """Return the state after a change that stands at ``index`` of the log.

    Args:
        state: the state before it.
        index: of the entry.
        change: its events.
        config: quorum configuration that the entry brings, if one.

    Raises:
        InvariantError: an event contradicts the state.
    """
    draft = Draft(state, index, max(state.time, change.time), change.because)
    if config is not None:
        draft.quorum = config
    for event in change.events:
        try:
            formed = draft.uuid or type(event) is events.ClusterFormed
            check(formed, "the log does not begin with ClusterFormed")
            _HANDLERS[type(event)](draft, event)
            if type(event) in _CONFIGURING:
                draft.configured = index
        except InvariantError as error:
            raise InvariantError(f"entry {index}, {type(event).__name__}: {error}") from error
    return draft.finish()


def fold_loaded(loaded: Loaded) -> tuple[State, State]:
    """Return the fold of what is known to be committed, and of everything."""
    begun = decode(loaded.snapshot.state) if loaded.snapshot is not None else State()
    committed = fold_all(begun, loaded.entries, loaded.commit)
    return committed, fold_all(committed, loaded.entries)


def fold_all(state: State, entries: tuple[Entry, ...], upto: int | None = None) -> State:
    """Return the state after all entries behind it, or those up to ``upto``."""
    for entry in entries:
        if entry.index > state.index and (upto is None or entry.index <= upto):
            state = fold(state, entry)
    return state
