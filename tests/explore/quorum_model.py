"""All runs of a few quorum cores with small bounds: what is sent may come late, twice or never.

A message stays deliverable for ever once it was sent, so loss, repetition and every order are among
the runs. A shared disk does one step at a time: a region, each copy of a block, a reading of all
blocks, and the report to the node are events of their own. A crash keeps some of the unsynced
records, and may tear the copy that is being written.

What a node does is a function of what it is and what happens to it; so each distinct event of each
distinct node is executed once by the real core, and states are tuples of numbers.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from tests.explore.canon import Canon
from tests.explore.engine import State, Step
from tests.explore.quorum_node import (
    NOW,
    BlocksRead,
    BlockWrite,
    Output,
    QuorumNode,
    SharedStep,
)
from tests.quorum_world import Violation, describe, identity

from leitwolf.core.messages import Append, Prepare, Refused
from leitwolf.core.quorum import agreed
from leitwolf.core.rules import Rules
from leitwolf.model.errors import InvariantError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.model.witness import CasObject, DiskBlock, Region, WitnessMode
from leitwolf.ports.witness import (
    CasFound,
    CasGet,
    CasPut,
    CasWritten,
    DiskResult,
    RegionRead,
    RegionWrite,
    WitnessResult,
)
from leitwolf.wire.ballot import NO_BALLOT, Ballot
from leitwolf.wire.heartbeat import Probe, ProbeReply

T = TypeVar("T")
SHARED = AcceptorId(NodeId(60_000), "shared")


@dataclass(frozen=True)
class Bounds:
    """How far a search goes."""

    nodes: int
    shared: str = ""
    """``disk``, ``tag`` or ``full``; '': nodes alone."""
    weight: int = 1
    """Of each node; 0: the shared acceptor decides alone."""
    candidates: int = 8
    """Nodes up to this number campaign."""
    rounds: int = 2
    entries: int = 2
    crashes: int = 0
    """Crashes of all nodes together."""
    faults: int = 0
    """Calls of the shared acceptor that fail although nothing crashed."""
    repeats: bool = True
    """Messages may come more than once."""
    refusals: bool = False
    """Refusals arrive; lost they change no promise and no log."""
    cut: bool = False
    """The nodes do not reach each other."""
    served: bool = False
    """Begin when node 1 leads and its first entry is committed."""
    change: tuple[int, ...] = ()
    """Voters that the leader wants instead of nodes 1 and 2, if not empty."""
    copies: int = 2
    """Copies of a block; one: the mutant of the second copy (P2)."""
    switched_off: frozenset[str] = frozenset()

    def config(self) -> QuorumConfig:
        voters = (1, 2) if self.change else tuple(range(1, self.nodes + 1))
        acceptors = list(self.voters(voters))
        if self.shared:
            kind = "disk" if self.shared == "disk" else "object"
            acceptors.append(Acceptor(id=SHARED, kind=kind, full=self.shared != "tag"))
        return QuorumConfig(acceptors=tuple(acceptors))

    def voters(self, nodes: tuple[int, ...]) -> tuple[Acceptor, ...]:
        return tuple(Acceptor(id=identity(number), weight=self.weight) for number in nodes)


@dataclass(frozen=True)
class Content:
    """A region of the shared disk."""

    generation: int
    accepted: Ballot
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Shared:
    """The shared disk or object."""

    copies: tuple[tuple[DiskBlock | None, DiskBlock | None], ...] = ()
    """Of each node's block."""
    regions: tuple[tuple[Content | None, Content | None], ...] = ()
    value: CasObject | None = None
    version: int = 0

    def newest(self, node: int) -> DiskBlock | None:
        whole = [copy for copy in self.copies[node - 1] if copy is not None]
        return max(whole, key=lambda block: block.sequence, default=None)

    def holds(self, entry: Entry) -> bool:
        """Whether whoever reads by the rules finds the entry, or learns of it."""
        if self.value is not None:
            return self.value.key.index >= entry.index
        for node in range(1, len(self.copies) + 1):
            block = self.newest(node)
            content = self.regions[node - 1][block.region] if block else None
            whole = block and content and content.generation == block.generation
            if whole and entry in content.entries:
                return True
        return False


@dataclass(frozen=True)
class Watched:
    """What the observer remembers."""

    committed: tuple[tuple[Entry, Ballot], ...] = ()
    """With the ballot of the leader that committed it first."""
    elected: frozenset[Ballot] = frozenset()


@dataclass
class Facts:
    """What the search needs to know of a node without thawing it."""

    durable: tuple[Entry, ...]
    promised: Ballot
    """Durably."""
    may_campaign: bool
    may_propose: bool
    may_change: bool
    unsynced: int
    step: SharedStep | None
    calls: bool
    wakes_at: int
    leads_until: int


@dataclass
class Effect:
    """What came of an event of a node."""

    node: int
    messages: int = 0
    """Bits of the messages sent."""
    output: Output = field(default_factory=Output)
    broken: str = ""


class Table(Generic[T]):
    """Numbers for values."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[T, int] = {}

    def number(self, value: T) -> int:
        known = self._numbers.get(value)
        if known is None:
            known = self._numbers[value] = len(self.values)
            self.values.append(value)
        return known


class QuorumModel:
    """A few nodes, what they share, and everything that was ever sent."""

    timeless = True
    kind: type[QuorumNode] = QuorumNode

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.now = NOW
        self.config = bounds.config()
        self.rules = Rules(bounds.switched_off | ({"stamp-wait"} if self.timeless else set()))
        self._frozen: list[bytes] = []
        self.facts: list[Facts] = []
        self._nodes: dict[bytes, int] = {}
        self._effects: dict[tuple[int, tuple[object, ...], int], Effect] = {}
        self._messages: Table[tuple[int, int, object]] = Table()
        self._to: dict[int, int] = dict.fromkeys(range(1, bounds.nodes + 1), 0)
        """By node: bits of the messages to it."""
        self._dead: dict[tuple[int, Ballot], tuple[int, int]] = {}
        """By node and durable promise: bits of the messages without effect, how many were seen."""
        self._always_alive: tuple[type, ...] = tuple(
            kind
            for rule, kind in (("promise-above", Prepare), ("accept-at-promised", Append))
            if rule in bounds.switched_off
        )
        self._lost = (Probe, ProbeReply) if bounds.refusals else (Probe, ProbeReply, Refused)
        self._shared: Table[Shared] = Table()
        self._watched: Table[Watched] = Table()

    # --- states ----------------------------------------------------------------------------------

    def initial(self) -> State:
        bounds = self.bounds
        nodes, sent = [], 0
        for number in range(1, bounds.nodes + 1):
            node = self.kind(number, bounds.nodes, self.config, self.rules)
            node.settle()
            effect = self._freeze(node)
            nodes.append(effect.node)
            sent |= effect.messages
        shared = Shared()
        if bounds.shared == "disk":
            empty = ((None, None),) * bounds.nodes
            shared = Shared(copies=empty, regions=empty)
        elif bounds.shared:
            mode = WitnessMode(bounds.shared)
            value = CasObject(cluster="search", storage=SHARED.storage, mode=mode)
            shared = Shared(value=value, version=1)
        places = self._shared.number(shared), self._watched.number(Watched())
        return self._served((tuple(nodes), sent, *places, bounds.crashes, bounds.faults))

    def _served(self, state: State) -> State:
        if not self.bounds.served:
            return state
        left = state[4:]
        state = (*state[:4], 0, 0)
        while not self._watched.values[state[3]].committed:
            steps = (
                step
                for step in self.steps(state)
                if step.label == "n1 campaigns"
                or not step.label.endswith(("campaigns", "proposes", "voters"))
            )
            state = next(steps).state
        return (*state[:4], *left)

    def steps(self, state: State) -> Iterator[Step]:
        for number in range(1, self.bounds.nodes + 1):
            yield from self._of_node(state, number)

    def _of_node(self, state: State, number: int) -> Iterator[Step]:
        """Return what may happen to a node."""
        nodes, net, _, _, crashes, faults = state[:6]
        known = nodes[number - 1]
        facts = self.facts[known]
        yield from self._deliveries(state, number, known, net & self._to[number])
        if facts.may_campaign:
            yield self._after(state, number, ("campaign",), "campaigns")
        if facts.may_propose:
            yield self._after(state, number, ("propose",), "proposes")
        if facts.may_change:
            yield self._after(state, number, ("change", self.bounds.change), "changes voters")
        if facts.unsynced >= 0:
            yield self._after(state, number, ("sync",), "has written")
        if facts.calls:
            yield from self._calls(state, number, facts, faults)
        if crashes:
            yield from self._crashes(state, number, facts)

    def _deliveries(self, state: State, number: int, known: int, bits: int) -> Iterator[Step]:
        while bits:
            low = bits & -bits
            bits ^= low
            message = low.bit_length() - 1
            effect = self._effect(known, ("receive", message))
            if effect.node == known and not effect.broken and not effect.messages & ~state[1]:
                continue
            sender, _, content = self._messages.values[message]
            label = f"hears n{sender}: {describe(content)}"
            yield self._after(state, number, ("receive", message), label)

    def _calls(self, state: State, number: int, facts: Facts, faults: int) -> Iterator[Step]:
        if facts.step is None:
            yield self._after(state, number, ("ended",), "hears of the shared acceptor")
        else:
            yield self._shared_step(state, number, facts.step)
        if faults:
            less = (*state[:5], faults - 1, *state[6:])
            yield self._after(less, number, ("failed",), "loses the shared acceptor's reply")

    def _crashes(self, state: State, number: int, facts: Facts) -> Iterator[Step]:
        less = (*state[:4], state[4] - 1, *state[5:])
        for written in range(max(0, facts.unsynced) + 1):
            label = f"crashes, {written} records reached its disk"
            yield self._after(less, number, ("crash", written), label)
        if isinstance(facts.step, BlockWrite):
            shared: Shared = self._shared.values[state[2]]
            copies = _with_copy(shared.copies, number, facts.step.copy, None)
            torn = self._shared.number(replace(shared, copies=copies))
            less = (*less[:2], torn, *less[3:])
            label = f"loses power, copy {facts.step.copy} of its block is torn"
            yield self._after(less, number, ("crash", 0), label)

    # --- the shared acceptor ---------------------------------------------------------------------

    def _shared_step(self, state: State, number: int, step: SharedStep) -> Step:
        shared: Shared = self._shared.values[state[2]]
        found: WitnessResult | None = None
        match step:
            case RegionWrite():
                shared, label = _with_region(shared, number, step), "writes its region"
            case BlockWrite(copy, block):
                label = f"writes copy {copy} of its block: {_brief(block)}"
                if copy < self.bounds.copies:
                    copies = _with_copy(shared.copies, number, copy, block)
                    shared = replace(shared, copies=copies)
                if copy == 0 and not state[4]:  # nobody is left to tear the second one
                    state, _ = self._happens(state, number, ("stepped", None))
                    label = f"writes its block: {_brief(block)}"
            case BlocksRead():
                blocks = [shared.newest(other) for other in range(1, self.bounds.nodes + 1)]
                found = DiskResult(blocks=tuple(block for block in blocks if block))
                label = "reads all blocks"
                own = shared.newest(number)
                if own is not None and self.bounds.copies > 1:  # W2, at the start
                    copies = (*shared.copies[: number - 1], (own, own), *shared.copies[number:])
                    shared = replace(shared, copies=copies)
            case RegionRead():
                label, found = "reads a region", _region(shared, step.block)
            case CasGet():
                assert shared.value is not None
                found = CasFound(value=shared.value, version=str(shared.version))
                label = "reads the object"
            case CasPut():
                label = f"replaces the object if it is still {step.expected}"
                found = CasWritten(version="")
                if step.expected == str(shared.version):
                    shared = replace(shared, value=step.value, version=shared.version + 1)
                    found = CasWritten(version=str(shared.version))
        changed = (*state[:2], self._shared.number(shared), *state[3:])
        return self._after(changed, number, ("stepped", found), label)

    # --- events ----------------------------------------------------------------------------------

    def _after(self, state: State, number: int, event: tuple[object, ...], label: str) -> Step:
        """Return what follows when an event happens to a node."""
        state, broken = self._happens(state, number, event)
        while not broken and not state[4] and self._fact(state, number).unsynced >= 0:
            state, broken = self._happens(state, number, ("sync",))  # nobody crashes any more
        return Step(f"n{number} {label}", self._without_dead(state), broken)

    def _without_dead(self, state: State) -> State:
        """Forget messages that can never have an effect any more."""
        net: int = state[1]
        for number, known in enumerate(state[0], 1):
            promised = self.facts[known].promised
            place = (number, promised)
            dead, looked = self._dead.get(place, (0, 0))
            for message in range(looked, len(self._messages.values)):
                _, receiver, content = self._messages.values[message]
                ballot = getattr(content, "ballot", promised)
                old = receiver == number and ballot < promised
                if old and not isinstance(content, self._always_alive):
                    dead |= 1 << message
            self._dead[place] = dead, len(self._messages.values)
            net &= ~dead
        return (state[0], net, *state[2:])

    def _fact(self, state: State, number: int) -> Facts:
        return self.facts[state[0][number - 1]]

    def _happens(self, state: State, number: int, event: tuple[object, ...]) -> tuple[State, str]:
        nodes: tuple[int, ...] = state[0]
        effect = self._effect(nodes[number - 1], event)
        net: int = state[1]
        if event[0] == "receive" and not self.bounds.repeats:
            net &= ~(1 << event[1])
        net, broken = net | effect.messages, effect.broken
        watched: int = state[3]
        nodes = (*nodes[: number - 1], effect.node, *nodes[number:])
        if not broken and event[0] == "crash":
            for other in range(1, self.bounds.nodes + 1):
                if other != number and not self.bounds.cut:
                    again = self._effect(nodes[other - 1], ("reconnect", number))
                    net, broken = net | again.messages, broken or again.broken
                    nodes = (*nodes[: other - 1], again.node, *nodes[other:])
        if not broken and (effect.output.elected or effect.output.committed):
            shared: Shared = self._shared.values[state[2]]
            watched, broken = self._judge(watched, number, nodes, shared, effect.output)
        return (nodes, net, state[2], watched, *state[4:]), broken

    def _judge(
        self, known: int, number: int, nodes: tuple[int, ...], shared: Shared, output: Output
    ) -> tuple[int, str]:
        watched = self._watched.values[known]
        for ballot, log in output.elected:
            if ballot.node != number or ballot in watched.elected:
                return known, f"{ballot} has a second leader, n{number}"
            for entry, committed_in in watched.committed:
                if committed_in < ballot and entry not in log:
                    return known, f"n{number} leads by {ballot} without committed {_name(entry)}"
            watched = replace(watched, elected=watched.elected | {ballot})
        for ballot, config, entry in output.committed:
            if entry.index <= len(watched.committed):
                first = watched.committed[entry.index - 1][0]
                if first != entry:
                    return known, f"n{number} commits {_name(entry)}, {_name(first)} was committed"
                continue
            have = {
                identity(other)
                for other, node in enumerate(nodes, 1)
                if entry in self.facts[node].durable
            }
            if self.bounds.shared and shared.holds(entry):
                have.add(SHARED)
            if not agreed(config, have):
                return known, f"n{number} commits {_name(entry)}, durable at {sorted(have)} only"
            watched = replace(watched, committed=(*watched.committed, (entry, ballot)))
        return self._watched.number(watched), ""

    def _effect(self, known: int, event: tuple[object, ...]) -> Effect:
        place = (known, event, self.now)
        effect = self._effects.get(place)
        if effect is None:
            effect = self._effects[place] = self._run(known, event)
        return effect

    def _run(self, known: int, event: tuple[object, ...]) -> Effect:
        node: QuorumNode = pickle.loads(self._frozen[known])
        node.now = self.now
        try:
            if event[0] == "receive":
                sender, _, message = self._messages.values[event[1]]
                node.receive(sender, message)
            else:
                getattr(node, event[0])(*event[1:])
            node.settle()
        except (InvariantError, Violation) as error:
            return Effect(known, broken=str(error))
        return self._freeze(node)

    def _freeze(self, node: QuorumNode) -> Effect:
        output, node.output = node.output, Output()
        canon = Canon.of(node, node.executor.durable, timeless=self.timeless)
        known = self._nodes.get(canon)
        if known is None:
            known = self._nodes[canon] = len(self._frozen)
            self._frozen.append(pickle.dumps(node))
            pending = node.pending
            self.facts.append(
                Facts(
                    durable=tuple(node.disk.entries),
                    promised=node.disk.promised,
                    may_campaign=node.number <= self.bounds.candidates
                    and node.may_campaign(self.bounds.rounds),
                    may_propose=node.may_propose(self.bounds.entries),
                    may_change=bool(self.bounds.change) and node.may_change(),
                    unsynced=node.unsynced(),
                    step=pending.steps[0] if pending and pending.steps else None,
                    calls=pending is not None,
                    wakes_at=node.wakes_at(),
                    leads_until=node.leads_until(),
                )
            )
        bits = 0
        for receiver, message in () if self.bounds.cut else (*output.messages, *output.guard):
            if isinstance(message, self._lost):
                continue
            number = self._messages.number((node.number, receiver, message))
            bits |= 1 << number
            self._to[receiver] |= 1 << number
        return Effect(known, bits, output)

    def watched(self) -> list[Watched]:
        """Return everything that an observer saw in any state so far."""
        return self._watched.values


def _with_copy(
    copies: tuple[tuple[DiskBlock | None, DiskBlock | None], ...],
    node: int,
    copy: int,
    block: DiskBlock | None,
) -> tuple[tuple[DiskBlock | None, DiskBlock | None], ...]:
    pair = (block, copies[node - 1][1]) if copy == 0 else (copies[node - 1][0], block)
    return (*copies[: node - 1], pair, *copies[node:])


def _with_region(shared: Shared, node: int, write: RegionWrite) -> Shared:
    pair = list(shared.regions[node - 1])
    entries = write.entries
    if not write.fresh:
        content = pair[write.region]
        if content is None or content.generation != write.generation:
            raise InvariantError(f"n{node} appends to a region that holds something else")
        entries = (*content.entries, *write.entries)
    pair[write.region] = Content(write.generation, write.accepted, entries)
    regions = (*shared.regions[: node - 1], (pair[0], pair[1]), *shared.regions[node:])
    return replace(shared, regions=regions)


def _region(shared: Shared, block: DiskBlock) -> WitnessResult:
    """Return what a region holds; a reading of all blocks tells then whether it counts."""
    content = shared.regions[block.node - 1][block.region]
    if content is None or content.generation != block.generation:
        return DiskResult()
    return DiskResult(region=Region(accepted=content.accepted, entries=content.entries))


def _brief(block: DiskBlock) -> str:
    accepted = f" accepted {block.accepted}" if block.accepted != NO_BALLOT else ""
    return f"promised {block.promised}{accepted}"


def _name(entry: Entry) -> str:
    return f"entry {entry.index}@{entry.ballot}"
