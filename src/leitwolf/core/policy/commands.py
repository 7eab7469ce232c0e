"""What commands mean: events to append, or why not.

Rules:
    ``judge`` is pure. A refusal has a stable code and says what is wrong, where the value is wrong
    its field and allowed range, and what to do. A command that asks for what is so already means
    no events. What is judged is the state with everything that was appended, so that two commands
    under way at once do not contradict each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leitwolf.core.policy import (
    commands_cluster,
    commands_force,
    commands_groups,
    commands_networks,
    commands_quorum,
    commands_storage,
)
from leitwolf.core.policy.checks import Judged, Refused
from leitwolf.model import commands
from leitwolf.model.commands import Command, Refusal
from leitwolf.model.observations import Observations
from leitwolf.model.state import State

__all__ = ["Judged", "changed_meanwhile", "judge"]

_JUDGES: dict[type, Callable[[State, Any, Observations], Judged]] = {
    commands.AddGroup: commands_groups.add_group,
    commands.ChangeGroup: commands_groups.change_group,
    commands.RemoveGroup: commands_groups.remove_group,
    commands.WishGroup: commands_groups.wish_group,
    commands.MoveGroup: commands_groups.move_group,
    commands.RecoverGroup: commands_groups.recover_group,
    commands.AddResource: commands_groups.add_resource,
    commands.ChangeResource: commands_groups.change_resource,
    commands.RemoveResource: commands_groups.remove_resource,
    commands.WishResource: commands_groups.wish_resource,
    commands.PauseNode: commands_cluster.pause_node,
    commands.StopNode: commands_cluster.stop_node,
    commands.TellAbility: commands_cluster.tell_ability,
    commands.TellRecord: commands_cluster.tell_record,
    commands.AddNode: commands_cluster.add_node,
    commands.EvictNode: commands_cluster.evict_node,
    commands.IssueToken: commands_cluster.issue_token,
    commands.SetNetwork: commands_networks.set_network,
    commands.ChangeCluster: commands_cluster.change_cluster,
    commands.MakeBackup: commands_cluster.make_backup,
    commands.Rekey: commands_cluster.rekey,
    commands.RelocateWitness: commands_storage.relocate_witness,
    commands.SetQuorum: commands_quorum.set_quorum,
    commands.SetVotes: commands_quorum.set_votes,
    commands.ForceQuorum: commands_force.force_quorum,
    commands.ReplaceStorage: commands_force.replace_storage,
    commands.TransferLeader: commands_cluster.transfer_leader,
}


def changed_meanwhile(state: State, since: int) -> Refusal | None:
    """Return why a change that counts on the configuration as of an entry is not done.

    Args:
        state: the newest state.
        since: index of that entry; -1: it counts on nothing. One that the log does not have yet was
            read in a history that was given up: a forced quorum lost it.

    Returns:
        None: nothing is against it.
    """
    if since <= state.index and not 0 <= since < state.configured:
        return None
    text = f"entry {state.configured} changed the configuration, known here up to entry {since}"
    if since > state.index:
        text = f"there is no entry {since}: entry {state.index} is the newest"
    return Refusal(
        code="changed-meanwhile",
        text=text,
        hint="read the status again, and decide anew",
        field="unchanged_since",
    )


def judge(state: State, command: Command, seen: Observations) -> Judged | Refusal:
    """Return what a command means.

    Args:
        state: the fold of the whole log, what is not committed yet included.
        command: what is asked for.
        seen: what the leader sees at this moment.
    """
    try:
        return _JUDGES[type(command)](state, command, seen)
    except Refused as refused:
        return refused.refusal
