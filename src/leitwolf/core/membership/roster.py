"""What the guard must know of the cluster, derived from the log."""

from __future__ import annotations

from dataclasses import replace

from leitwolf.core.membership.profiles import acting, longest
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NetworkRole, NodeId
from leitwolf.model.log import Loaded
from leitwolf.model.quorum import Acceptor, QuorumConfig
from leitwolf.model.state import State
from leitwolf.wire.guard import Configure, PeerNode, Votes

__all__ = ["guard_configuration", "interconnects", "newest_config", "with_timing_of"]

_FIRST = HistoryStanding()
"""The history of a cluster in which nobody ever forced anything."""


def interconnects(state: State) -> list[str]:
    """Return the names of the networks that carry heartbeats, in the order of the links."""
    return sorted(
        network.name for network in state.networks.values() if network.role != NetworkRole.CLIENT
    )


def _votes(acceptors: tuple[Acceptor, ...]) -> Votes:
    return Votes(
        tuple(acceptor.id.node for acceptor in acceptors),
        tuple(acceptor.weight for acceptor in acceptors),
    )


def guard_configuration(
    state: State,
    config: QuorumConfig,
    me: NodeId,
    rules: Rules = ALL_RULES,
    *,
    history: HistoryStanding = _FIRST,
) -> Configure | None:
    """Return what to tell the guard, or None while this node is not part of the cluster.

    Args:
        state: nodes, addresses and profile; the newest state that the log holds, committed or not.
        config: quorum configuration in force (from the moment that it is appended).
        me: this node.
        rules: switched off in tests.
        history: that this node is in; nodes that it does not name hear of it when established.
    """
    own = state.nodes.get(me)
    if own is None:
        return None
    links = interconnects(state)
    profile, waited_for = acting(state, rules), longest(state, rules)
    configurations = [_votes(config.acceptors)]
    if config.former is not None:
        configurations.append(_votes(config.former))
    voting = {acceptor.id.node for acceptor in config.acceptors}
    led = history.established or not rules.holds("heartbeat-when-established")
    return Configure(
        node=me,
        port=state.port,
        addresses=tuple(own.addresses.get(link, "") for link in links),
        heartbeat=profile.heartbeat,
        promise=profile.promise,
        run=profile.run,
        kill=profile.kill,
        promise_longest=waited_for.promise,
        run_longest=waited_for.run,
        peers=tuple(
            PeerNode(node.id, tuple(node.addresses.get(link, "") for link in links))
            for node in sorted(state.nodes.values(), key=lambda node: node.id)
            if node.id != me
        ),
        configurations=tuple(configurations),
        lineage=history.lineage,
        unled=() if led else tuple(sorted(state.nodes.keys() - voting - {me})),
    )


def with_timing_of(configuration: Configure, former: Configure) -> Configure:
    """Return a configuration with the timing of another one."""
    return replace(
        configuration,
        heartbeat=former.heartbeat,
        promise=former.promise,
        run=former.run,
        kill=former.kill,
        promise_longest=former.promise_longest,
        run_longest=former.run_longest,
    )


def newest_config(loaded: Loaded, state: State) -> QuorumConfig:
    """Return the configuration of the last entry that has one: in force since appended.

    A node that joined and has received nothing yet knows no acceptors: it can follow, never win.
    """
    for entry in reversed(loaded.entries):
        if entry.config is not None:
            return entry.config
    return state.quorum or QuorumConfig(acceptors=())
