"""What the guard must know of the cluster, derived from the log."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from leitwolf.core.membership.profiles import acting, longest
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NetworkRole, NodeId
from leitwolf.model.log import Loaded
from leitwolf.model.quorum import Acceptor, QuorumConfig
from leitwolf.model.state import State
from leitwolf.wire.guard import Configure, PeerNode, Votes

__all__ = [
    "guard_configuration",
    "interconnects",
    "link_numbers",
    "newest_config",
    "with_timing_of",
]

_FIRST = HistoryStanding()
"""The history of a cluster in which nobody ever forced anything."""


def link_numbers(state: State) -> dict[str, int]:
    """Return by name the number of the link of each network that carries heartbeats, or ever did.

    Nodes learn of a change one after the other, and a heartbeat names its link by the number: one
    that changed would not be heard until all had followed. So whatever changes a network later
    writes its number into the log (:class:`leitwolf.model.events.NetworkSet`), and it stays. Those
    of the forming have none there: they take the lowest numbers that are free, by their names.
    """
    networks = sorted(state.networks.values(), key=lambda network: network.name)
    numbers = {network.name: network.link for network in networks if network.link >= 0}
    free = (number for number in count() if number not in set(numbers.values()))
    plain = [item for item in networks if item.link < 0 and item.role is not NetworkRole.CLIENT]
    return {**numbers, **{item.name: next(free) for item in plain}}


def interconnects(state: State) -> list[str]:
    """Return for each link, by its number, the network that carries it; '' where none does now."""
    numbers = link_numbers(state)
    names = [""] * (max(numbers.values(), default=-1) + 1)
    for name, number in numbers.items():
        if state.networks[name].role is not NetworkRole.CLIENT:
            names[number] = name
    return names


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
