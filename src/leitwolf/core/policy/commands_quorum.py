"""What commands about the kind of quorum and its votes mean."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec.structs import replace

from leitwolf.core.lease.profile import ELECTION_MS_MIN, MILLISECOND, PROFILES, Profile, awaited
from leitwolf.core.membership.votes import configured_weight, wanted_acceptors
from leitwolf.core.policy.checks import Judged, Refused, check_range, find_node, judged
from leitwolf.core.policy.health import is_quorum
from leitwolf.model import commands, events
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import LOCATION_LENGTH_MAX, NODES_MAX, SILENCE_MS_MAX
from leitwolf.model.observations import Observations
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumWish
from leitwolf.model.state import State
from leitwolf.model.witness import WITNESS_ID_MIN

__all__ = [
    "check_silence",
    "check_slots",
    "longest_silence",
    "place_hint",
    "set_quorum",
    "set_votes",
]

_STORAGE = re.compile(r"[0-9a-f-]{8,64}")
_WITNESSES_MAX = 65_535 - WITNESS_ID_MIN


def set_quorum(state: State, command: commands.SetQuorum, seen: Observations) -> Judged:
    """Want another kind of quorum, if those that can be reached are one of it."""
    config = state.quorum
    if config is not None and config.former is not None:
        raise Refused(
            "quorum-changing",
            "another change of the quorum is under way",
            hint="wait until leitwolf quorum status shows one configuration",
            retryable=True,
        )
    wish = replace(
        state.wish, witness=_witness(state, command), node_weight=0 if command.alone else 1
    )
    text = _text(command)
    if wish == state.wish:
        return judged([], text)
    reachable = _reachable(seen)
    if wish.witness is not None:
        reachable |= {wish.witness.id.node}  # whoever asked has just formatted or opened it
    _check_somebody_votes(state, wish)
    _check_survives(state, wish, reachable)
    return judged([events.QuorumWished(wish=wish)], text)


def set_votes(state: State, command: commands.SetVotes, seen: Observations) -> Judged:
    """Change how votes are given, if those that can be reached go on being a quorum."""
    wish, said = state.wish, []
    if command.dynamic is not None:
        wish = replace(wish, dynamic=command.dynamic)
        said.append("let votes follow who is there" if command.dynamic else "keep everyone's vote")
    if command.prefer is not None:
        name = find_node(state, command.prefer, "prefer").name if command.prefer else "nobody"
        wish = replace(wish, prefer=command.prefer)
        said.append(f"prefer {name} for the casting vote")
    for number, weight in sorted(command.weights.items()):
        node = find_node(state, number)
        check_range(weight, "weight", 0, 1, "0: it never votes; 1: it votes like any other")
        others = set(wish.voteless) - {number}
        wish = replace(wish, voteless=tuple(sorted(others if weight else {*others, number})))
        said.append(f"let {node.name} have {'a vote' if weight else 'no vote'}")
    text = ", ".join(said) or "leave the votes as they are"
    if wish == state.wish:
        return judged([], text)
    _check_somebody_votes(state, wish)
    if wish.prefer in wish.voteless:
        raise Refused(
            "nobody-votes",
            f"{state.nodes[wish.prefer].name} has weight 0: it cannot have the casting vote",
            hint="prefer a node that votes, or give it weight 1",
            field="prefer",
        )
    _check_survives(state, wish, _reachable(seen))
    return judged([events.QuorumWished(wish=wish)], text)


def _text(command: commands.SetQuorum) -> str:
    if not command.witness:
        return "let nodes alone be the quorum"
    role = "be the quorum alone" if command.alone else "vote beside the nodes"
    return f"let {command.location} {role}"


def _witness(state: State, command: commands.SetQuorum) -> Acceptor | None:
    if not command.witness:
        if command.alone:
            text = "nodes without a vote need a disk or an engine that has one"
            raise Refused("nobody-votes", text, field="alone")
        return None
    if command.witness not in ("disk", "object"):
        text = f"witness = {command.witness!r}"
        raise Refused("invalid-witness", text, hint="'disk', 'object' or ''", field="witness")
    check_range(len(command.location), "location", 1, LOCATION_LENGTH_MAX)
    check_silence(PROFILES[state.profile], command.silence_ms, "silence_ms")
    if not _STORAGE.fullmatch(command.storage):
        text = f"storage = {command.storage!r} is no uuid of a formatted disk or object"
        raise Refused("invalid-storage", text, field="storage")
    if any(one.id.storage == command.storage for one in state.given_up):
        raise Refused(
            "witness-used",
            f"{command.location} holds what was there before quorum was forced; another forced "
            "half may have it, too",
            hint=f"format it anew: leitwolf quorum disk format {command.location} --force",
            field="storage",
        )
    if command.alone and not command.full:
        raise Refused(
            "tag-alone",
            "an object in mode tag holds no entries, so it cannot be the quorum alone",
            hint="use mode full",
            field="full",
        )
    known = state.wish.witness
    check_slots(command.slots, state.nodes, command.location, in_use=known is not None)
    serial = state.witness_serial
    if known is not None and known.id.storage == command.storage:
        serial = known.id.node - WITNESS_ID_MIN
    check_range(serial, "witness number", 0, _WITNESSES_MAX)
    return Acceptor(
        id=AcceptorId(NodeId(WITNESS_ID_MIN + serial), command.storage),
        kind=command.witness,
        location=command.location,
        full=command.full,
        silence_ms=command.silence_ms,
        slots=command.slots,
    )


def check_slots(slots: int, nodes: Iterable[int], location: str, *, in_use: bool) -> None:
    """Refuse a disk on which a node has no place: it could never lead by it.

    ``in_use``: there is one to be replaced.
    """
    check_range(slots, "slots", 0, NODES_MAX)
    highest = max(nodes, default=0)
    if slots and highest > slots:
        raise Refused(
            "no-disk-slot",
            f"node number {highest} has no place on {location}, which is for nodes 1..{slots}: "
            "it could never lead by it",
            hint=place_hint(highest, "" if in_use else location),
            field="slots",
        )


def place_hint(number: int, new: str = "") -> str:
    """Return the way to let a node with this number take part; beyond 64 no disk has a place.

    ``new``: location of a disk that is not in use yet.
    """
    if number <= NODES_MAX and new:
        return f"leitwolf quorum disk format {new} --nodes {NODES_MAX} --force; then again"
    if number <= NODES_MAX:
        return f"leitwolf quorum replace LOCATION --nodes {NODES_MAX}, on another disk"
    return (
        f"no disk has more than {NODES_MAX} places, and numbers are never used again: "
        "leitwolf quorum set witness LOCATION, or quorum set nodes; a cluster that is formed anew "
        "counts from 1"
    )


def check_silence(profile: Profile, silence_ms: int, field: str) -> None:
    """L14: R must outlast the silence that a challenger waits for, and the election behind it."""
    check_range(silence_ms, "silence_ms", 0, SILENCE_MS_MAX)
    silence = max(silence_ms, profile.promise_ms)
    stretched = awaited(silence * MILLISECOND) // MILLISECOND + 1
    need = stretched + ELECTION_MS_MIN + profile.missed_ms
    if need > profile.renewed_ms:
        raise Refused(
            "silence-too-long",
            f"silence_ms = {silence_ms}: with profile {profile.name} leases must be renewed after "
            f"{profile.renewed_ms} ms (R - K, and 85 % of R); that takes {need} ms (silence "
            f"{stretched} + election {ELECTION_MS_MIN} + 5/4 H {profile.missed_ms})",
            hint="a longer profile (leitwolf set --profile), or a faster disk and less silence",
            field=field,
        )


def longest_silence(state: State) -> int:
    """Return the longest silence (ms) of a disk or witness that is in use, or wanted."""
    config = state.quorum
    acceptors = [] if config is None else [*config.acceptors, *(config.former or ())]
    if state.wish.witness is not None:
        acceptors.append(state.wish.witness)
    return max((acceptor.silence_ms for acceptor in acceptors), default=0)


def _reachable(seen: Observations) -> frozenset[int]:
    return frozenset(node for node, view in seen.nodes.items() if view.connected) | seen.witnesses


def _check_somebody_votes(state: State, wish: QuorumWish) -> None:
    """Refuse weights of 0 for all."""
    nodes = _nodes(state)
    if nodes and wish.node_weight and not any(configured_weight(wish, node) for node in nodes):
        raise Refused(
            "nobody-votes",
            "every node would have weight 0",
            hint="let one node at least have a vote, or a disk or engine alone",
            field="weight",
        )


def _nodes(state: State) -> list[NodeId]:
    """Return the nodes that are acceptors."""
    acceptors = state.quorum.acceptors if state.quorum is not None else ()
    return [acceptor.id.node for acceptor in acceptors if acceptor.kind == "node"]


def _check_survives(state: State, wish: QuorumWish, reachable: frozenset[int]) -> None:
    """Refuse what could not go on with the nodes that can be reached now."""
    if state.quorum is None:
        return
    nodes = [acceptor.id for acceptor in state.quorum.acceptors if acceptor.kind == "node"]
    everyone = {identity.node for identity in nodes}
    if wish.witness is not None:
        everyone.add(wish.witness.id.node)
    acceptors = wanted_acceptors(wish, nodes, everyone - reachable)
    if is_quorum(acceptors, reachable):
        return
    missing = sorted(
        state.nodes[acceptor.id.node].name
        for acceptor in acceptors
        if acceptor.id.node in state.nodes and acceptor.id.node not in reachable
    )
    raise Refused(
        "not-enough-voters",
        f"the nodes that can be reached would be no quorum of that kind: "
        f"{', '.join(missing)} cannot be reached",
        hint=f"start {' or '.join(missing)} first, or evict what is gone for good",
        retryable=True,
    )
