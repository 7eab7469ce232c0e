"""The deterministic world: virtual time, machines, network, and what connects them.

Everything happens in the order of a queue of (true time, serial); the seed decides every delay, so
a run is repeated exactly by its seed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from leitwolf.core.effects import PeerMessage as DaemonMessage
from leitwolf.core.effects import PeerSeen
from leitwolf.core.histories import Verdict, judge
from leitwolf.core.lease import Heard
from leitwolf.core.quorum.predicate import witnesses
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.core.storages import known_instead
from leitwolf.model.commands import Answer, Command, ReplaceStorage
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import SNAPSHOT_ENTRIES
from leitwolf.model.log import Entry
from leitwolf.model.quorum import AcceptorId, QuorumConfig
from leitwolf.model.state import State
from leitwolf.sim.checks import Checker, Violation
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.forming import formed_log
from leitwolf.sim.network import MILLISECOND, Network
from leitwolf.sim.node import SimNode
from leitwolf.sim.storage import Storage
from leitwolf.sim.witness import SimWitness, build_witness
from leitwolf.wire.heartbeat import PeerMessage as GuardMessage

__all__ = ["World"]

_TRACE_MAX = 4_000
_OWN_REQUESTS = 1 << 40
"""Numbers of requests that daemons make of their own accord lie above."""
_CALL_AGAIN_NS = 2_000 * MILLISECOND
"""Nodes that turned each other away call again."""
_WALL_START = 1_700_000_000_000_000_000
_DEATHS = 0x6465617468
"""Tells the stream that decides who dies at which effect from the one of the world."""


class World:
    """A cluster of simulated machines."""

    def __init__(
        self,
        *,
        seed: int,
        nodes: int,
        groups: int = 3,
        links: int = 2,
        profile: str = "default",
        quorum: str = "majority",
        dynamic: bool = False,
        snapshot_entries: int = SNAPSHOT_ENTRIES,
        rules: Rules = ALL_RULES,
    ) -> None:
        """Build machines that are switched off, with a formed cluster on their disks.

        Args:
            seed: decides everything.
            nodes: 1..8.
            groups: groups with an address and a process each.
            links: interconnects.
            profile: timing profile.
            quorum: kind of quorum, see :data:`leitwolf.sim.forming.QUORUMS`.
            dynamic: votes follow who is there.
            snapshot_entries: after how many entries a daemon takes a snapshot.
            rules: switched off in tests.
        """
        self.seed = seed
        self.entropy = Entropy(seed)
        self.rules = rules
        self.now = 0
        self.snapshot_entries = snapshot_entries
        self.crash_per_million: dict[str, int] = {}
        """Effects of guards, daemons and hosts before which these die, by name; none: they do not.
        """
        self._deaths = Entropy(seed ^ _DEATHS).split()
        """A stream of its own: nothing else that is drawn depends on how many effects there are."""
        self.slow_arm_per_thousand = 0
        self.slow_kill_per_thousand = 0
        self.kill_ns_max = 12 * MILLISECOND
        """Longest that killing everything takes, when nothing is unkillable; K must be above it."""
        self.answers: dict[int, Answer] = {}
        self.after_commit: Callable[[], None] | None = None
        """Done once, after the next entries that a daemon published."""
        self.trace: deque[str] = deque(maxlen=_TRACE_MAX)
        self.steps = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._serial = 0
        self._streams: dict[tuple[int, int], str] = {}
        self._members: dict[int, tuple[tuple[int, str], ...]] = {}
        self._calling: set[tuple[int, int]] = set()
        self.checker = Checker(lambda: self.now, self._bound_until, self._holds_at)
        self.network = Network(self.entropy.split(), links)
        self.nodes: dict[int, SimNode] = {}
        loaded = formed_log(
            nodes=nodes,
            groups=groups,
            links=links,
            profile=profile,
            quorum=quorum,
            dynamic=dynamic,
        )
        self.witnesses: dict[AcceptorId, SimWitness] = {}
        for acceptor in witnesses(loaded.entries[0].config or QuorumConfig(acceptors=())):
            self.witnesses[acceptor.id] = build_witness(self, acceptor)
        for number in range(1, nodes + 1):
            storage = Storage(f"disk{number}", loaded)
            self._build(number, storage)
        self.checker.applied(0, loaded.entries, State())

    def _build(self, number: int, storage: Storage) -> SimNode:
        self.nodes[number] = node = SimNode(self, number, storage)
        self.checker.add(node)
        return node

    # --- time ------------------------------------------------------------------------------------

    def at(self, instant: int, work: Callable[..., None], *arguments: object) -> None:
        """Do something at a true instant."""
        self._serial += 1
        heapq.heappush(self._queue, (max(instant, self.now), self._serial, work, arguments))

    def later(self, delay: int, work: Callable[..., None], *arguments: object) -> None:
        """Do something after a delay."""
        self.at(self.now + delay, work, *arguments)

    def wall(self) -> int:
        """Return wall-clock time, which decides nothing."""
        return _WALL_START + self.now

    def run_until(self, instant: int) -> None:
        """Let the world go on.

        Raises:
            Violation: an invariant broke; the trace is in :attr:`trace`.
        """
        queue, pop = self._queue, heapq.heappop
        while queue and queue[0][0] <= instant:
            self.now, _, work, arguments = pop(queue)
            self.steps += 1
            work(*arguments)
        self.now = instant

    def run_to(self, seen: Callable[[], bool], within: int) -> bool:
        """Let the world go on, event by event, until ``seen`` holds.

        Args:
            seen: looked at now and after every event.
            within: ns after which to give up.

        Returns:
            Whether it came to hold.

        Raises:
            Violation: an invariant broke; the trace is in :attr:`trace`.
        """
        until = self.now + within
        while not seen():
            if not self._queue or self._queue[0][0] > until:
                self.run_until(until)
                return seen()
            self.now, _, work, arguments = heapq.heappop(self._queue)
            self.steps += 1
            work(*arguments)
        return True

    def note(self, node: int, part: str, text: str) -> None:
        """Write a line of the trace."""
        who = f"n{node}" if node else "world"
        self.trace.append(f"{self.now / MILLISECOND:12.3f} ms  {who:5} {part:7} {text}")

    def fail(self, text: str) -> None:
        """Break the run."""
        raise Violation(text)

    # --- faults of one node ----------------------------------------------------------------------

    def crash_now(self, process: str) -> bool:
        """Draw whether a guard, daemon or host dies before the effect that it is about to do."""
        if not self.crash_per_million:
            return False
        return self._deaths.bits() % 1_000_000 < self.crash_per_million[process]

    # --- guards ----------------------------------------------------------------------------------

    def send_guard(self, source: int, target: int, message: GuardMessage, link: int) -> None:
        """Send a datagram on one link, or on all."""
        receiver = self.nodes.get(target)
        if receiver is None:
            return
        take = receiver.guard.take
        for number in range(self.network.links) if link < 0 else (link,):
            for delay in self.network.datagram(source, target, number):
                self.at(self.now + delay, take, Heard(source, number, message))

    # --- daemons ---------------------------------------------------------------------------------

    def send_daemon(self, source: int, target: int, message: DaemonMessage) -> None:
        """Send on the stream to another daemon; lost while it is cut."""
        pair = (min(source, target), max(source, target))
        receiver = self.nodes.get(target)
        if receiver is None or self._streams.get(pair) != "up":
            return
        if not self.network.connected(source, target):
            return
        arrival = self.network.stream(source, target, self.now)
        life = receiver.daemon.life

        def deliver() -> None:
            if receiver.daemon.life == life:
                receiver.daemon.peer_message(source, message)

        self.at(arrival, deliver)

    def daemon_came(self, node: int) -> None:
        """A daemon is there: streams to it can be made."""
        self.refresh_streams()
        self.note(node, "daemon", "listens")

    def daemon_died(self, node: int) -> None:
        """A daemon died: its streams break soon."""
        for pair in list(self._streams):
            if node in pair:
                self._break(pair, self.entropy.between(1, 5) * MILLISECOND)

    def refresh_streams(self) -> None:
        """Make and break streams after something changed."""
        for one in self.nodes.values():
            for other in self.nodes.values():
                if one.id < other.id:
                    self._refresh((one.id, other.id))

    def history_shown(self, node: int, *, anew: bool) -> None:
        """A daemon shows another standing in its history, or (``anew``) another history."""
        for pair in list(self._streams):
            if anew and node in pair and self._streams[pair] == "up":
                self._break(pair, MILLISECOND)
        self.refresh_streams()

    def _wanted(self, pair: tuple[int, int]) -> bool:
        one, other = self.nodes[pair[0]], self.nodes[pair[1]]
        known = _knows(one, other.id) and _knows(other, one.id)
        if not known or not self.network.connected(*pair):
            return False
        return all([self._welcome(one, other), self._welcome(other, one)])  # both say their word

    def _welcome(self, node: SimNode, caller: SimNode) -> bool:
        """Return whether a daemon accepts another's hello; do what follows if it does not."""
        core, mine, theirs = node.daemon.core, node.daemon.shown, caller.daemon.shown
        verdict = judge(node.id, mine, caller.id, theirs, self.rules)
        if verdict is Verdict.BEHIND:
            self.later(self.entropy.between(5, 400) * MILLISECOND, node.give_way, theirs.lineage)
        if verdict not in (Verdict.SAME, Verdict.ORDERED, Verdict.UNFINISHED):
            node.daemon.take_later(MILLISECOND, PeerSeen(node=caller.id))
            return False
        if core is None:
            return False
        known = known_instead(core, NodeId(caller.id), caller.storage.name)
        if not known:
            return True
        formers = [former for former in caller.replaces if former in known]
        if formers:
            self._serial += 1
            command = ReplaceStorage(
                node=NodeId(caller.id), former=formers[-1], storage=caller.storage.name
            )
            self.ask(node.id, _OWN_REQUESTS + self._serial, command)
        return False

    def _refresh(self, pair: tuple[int, int]) -> None:
        present = self._streams.get(pair)
        if present == "making":
            return
        wanted = self._wanted(pair)
        if wanted and present is None:
            self._streams[pair] = "making"
            self.later(self.entropy.between(2, 30) * MILLISECOND, lambda: self._made(pair))
        elif not wanted and present == "up":
            self._break(pair, self.entropy.between(150, 700) * MILLISECOND)
        elif not wanted and self._turned_away(pair) and pair not in self._calling:
            self._calling.add(pair)
            self.later(_CALL_AGAIN_NS, self._call_again, pair)

    def _turned_away(self, pair: tuple[int, int]) -> bool:
        """Tell whether two daemons can reach each other, but do not want to talk."""
        one, other = self.nodes[pair[0]], self.nodes[pair[1]]
        alive = one.daemon.core is not None and other.daemon.core is not None
        return alive and self.network.connected(*pair)

    def _call_again(self, pair: tuple[int, int]) -> None:
        self._calling.discard(pair)
        self._refresh(pair)

    def _made(self, pair: tuple[int, int]) -> None:
        if self._streams.get(pair) != "making":
            return
        if not self._wanted(pair):
            del self._streams[pair]
            return
        self._streams[pair] = "up"
        one, other = self.nodes[pair[0]].daemon, self.nodes[pair[1]].daemon
        shown = one.shown, other.shown
        one.peer_up(pair[1], shown[1])
        other.peer_up(pair[0], shown[0])

    def _break(self, pair: tuple[int, int], delay: int) -> None:
        self._streams[pair] = "breaking"

        def broke() -> None:
            if self._streams.get(pair) != "breaking":
                return
            del self._streams[pair]
            self.network.stream_broke(*pair)
            self.nodes[pair[0]].daemon.peer_lost(pair[1])
            self.nodes[pair[1]].daemon.peer_lost(pair[0])
            self._refresh(pair)

        self.later(delay, broke)

    # --- what nodes tell -------------------------------------------------------------------------

    def published(self, node: SimNode) -> None:
        """A daemon published what was committed."""
        core = node.daemon.core
        if core is None:
            return
        after, self.after_commit = self.after_commit, None
        if after is not None:
            after()
        members = tuple((member.id, member.storage) for member in core.state.nodes.values())
        if members != self._members.get(node.id):
            self._members[node.id] = members
            for member in core.state.nodes.values():
                if member.id not in self.nodes:
                    self._join(member.id, member.storage)
            self.refresh_streams()

    def _join(self, number: int, storage: str) -> None:
        """Start the machine that was let in; its disk is empty."""
        node = self._build(number, Storage(storage))
        self.note(number, "power", "joins")
        self.later(self.entropy.between(50, 2_000) * MILLISECOND, node.power_on)

    def replied(self, node: int, request: int, answer: Answer) -> None:
        """A request was answered."""
        self.answers[request] = answer
        said = f"entry {answer.index}" if answer.refusal is None else answer.refusal.code
        self.note(node, "request", f"{request} answered: {said}")
        if answer.refusal is None and answer.index:
            self.checker.answered(answer.index)

    def ask(self, node: int, request: int, command: Command, unchanged_since: int = -1) -> None:
        """An operator asks a node."""
        self.note(node, "request", f"{request}: {command}")
        self.nodes[node].daemon.request(request, command, unchanged_since)

    def _bound_until(self, acceptor: AcceptorId, leader: int) -> int:
        """Return the true time before which a passive acceptor helps nobody but ``leader``."""
        witness = self.witnesses.get(acceptor)
        return witness.bound_until(leader) if witness is not None else 0

    def _holds_at(self, acceptor: AcceptorId, entry: Entry) -> bool:
        """Return whether a passive acceptor holds an entry."""
        witness = self.witnesses.get(acceptor)
        return witness is not None and witness.holds(entry)

    # --- what the world looks like ---------------------------------------------------------------

    def leaders(self) -> list[SimNode]:
        """Return the nodes whose daemon is in charge, and knows it or leads by its lease.

        One that stands still after its lease is over, deposed meanwhile, leads nothing.
        """
        return [
            node
            for node in self.nodes.values()
            if node.daemon.core is not None
            and node.daemon.core.in_charge
            and (node.daemon.running or node.leader_until() > self.now)
        ]

    def state(self) -> State | None:
        """Return the state as the leader applied it, or any daemon; None: no daemon lives."""
        cores = [node.daemon.core for node in (*self.leaders(), *self.nodes.values())]
        return next((core.state for core in cores if core is not None), None)


def _knows(node: SimNode, other: int) -> bool:
    """Return whether a daemon talks to ``other``: members do, one that has just joined to all."""
    core = node.daemon.core
    return core is not None and (not core.state.nodes or other in core.acquainted)
