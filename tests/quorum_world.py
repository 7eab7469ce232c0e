"""A small world for quorum cores: disks, guards and a network that a test drives step by step.

It checks at every step what must hold whatever happens:

- a ballot has one leader, and its term begins with its own first entry;
- committed entries never differ, and are on the disks of a quorum when they are first committed;
- every leader of a higher ballot than the one that committed them has all of them;
- logs with an entry in common are equal up to it;
- the floor of a guard is not below what its node promised durably (I13).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec

from leitwolf.core.effects import SaveSnapshot
from leitwolf.core.executor import Batch, Executor
from leitwolf.core.quorum import (
    Committed,
    Elected,
    MayLead,
    QuorumCore,
    Restored,
    Role,
    Signal,
    SteppedDown,
    agreed,
)
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.ids import NodeId
from leitwolf.model.log import (
    CommitRecord,
    Entry,
    EntryRecord,
    Loaded,
    PromisedRecord,
    Record,
    Snapshot,
    TruncateRecord,
)
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.wire.ballot import NO_BALLOT, Ballot, Key
from leitwolf.wire.guard import (
    Fence,
    Fenced,
    FenceRefused,
    Follow,
    Freed,
    GuardCommand,
    GuardReport,
    Office,
    OfficeLost,
    Release,
    Released,
    TakeOffice,
)
from leitwolf.wire.page import LeasePage

MS = 1_000_000
PROMISE = 260 * MS
HEARTBEAT = 50 * MS


class Violation(AssertionError):
    """Something that must never happen happened."""


def demand(condition: object, text: str) -> None:
    if not condition:
        raise Violation(text)


def identity(node: int) -> AcceptorId:
    return AcceptorId(NodeId(node), f"disk-{node}")


def acceptors(*nodes: int) -> tuple[Acceptor, ...]:
    return tuple(Acceptor(id=identity(node)) for node in nodes)


def configuration(*nodes: int, learners: tuple[int, ...] = ()) -> QuorumConfig:
    return QuorumConfig(
        acceptors=acceptors(*nodes), learners=tuple(identity(node) for node in learners)
    )


def snapshot_at(key: Key, config: QuorumConfig) -> Snapshot:
    state = f"state at {key.index}".encode() * 3
    return Snapshot(
        last=key, config=config, state=state, state_hash=hashlib.sha256(state).hexdigest()
    )


@dataclass
class Disk:
    """What survives a crash."""

    promised: Ballot = NO_BALLOT
    snapshot: Snapshot | None = None
    entries: list[Entry] = field(default_factory=list)
    commit: int = 0
    hints: int = 0
    """How many commit hints were written."""

    def write(self, record: Record) -> None:
        match record:
            case PromisedRecord():
                demand(record.ballot >= self.promised, f"{record.ballot} behind {self.promised}")
                self.promised = record.ballot
            case EntryRecord():
                demand(record.entry.index == self.last_index() + 1, "a gap in the log")
                self.entries.append(record.entry)
            case TruncateRecord():
                self.entries = [e for e in self.entries if e.index < record.index]
            case CommitRecord():
                self.commit = record.index
                self.hints += 1

    def save(self, effect: SaveSnapshot) -> None:
        self.snapshot = effect.snapshot
        last = effect.snapshot.last.index
        self.entries = [] if effect.reset else [e for e in self.entries if e.index > last]

    def last_index(self) -> int:
        covered = self.snapshot.last.index if self.snapshot is not None else 0
        return self.entries[-1].index if self.entries else covered

    def loaded(self) -> Loaded:
        return Loaded(
            promised=self.promised,
            snapshot=self.snapshot,
            entries=tuple(self.entries),
            commit=self.commit,
        )

    def holds(self, entry: Entry) -> bool:
        if self.snapshot is not None and entry.index <= self.snapshot.last.index:
            return True
        return entry in self.entries


class Guard:
    """Keeps floor and office, and a promise to whoever renewed last, as real guards do."""

    def __init__(self, world: World, node: int) -> None:
        self.world = world
        self.node = node
        self.page = LeasePage(heartbeat=HEARTBEAT)
        self.inbox: list[GuardCommand] = []
        self.reports: list[GuardReport] = []
        """Answers on their way to the daemon."""
        self.there = True

    def answer(self, command: GuardCommand) -> GuardReport | None:
        page, now = self.page, self.world.now
        match command:
            case Fence(ballot):
                bound = page.promise_end > now and not page.freed
                bound = bound and page.renewed.node != ballot.node
                if ballot <= page.floor or bound or self.world.unwilling(self.node):
                    left = max(page.promise_end - now, MS) if ballot > page.floor else 0
                    return FenceRefused(ballot, page.renewed, page.floor, left)
                self.page = page._replace(floor=ballot, office=NO_BALLOT)
                return Fenced(ballot, page.renewed, page.freed, no_memory=False)
            case Follow(ballot) if ballot > page.floor:
                self.page = page._replace(floor=ballot, office=NO_BALLOT)
            case TakeOffice(ballot):
                if page.floor != ballot:
                    return OfficeLost(ballot, page.floor, "outbid")
                self.page = page._replace(office=ballot)
                return Office(ballot, command.barred)
            case Release(ballot):
                if page.office == ballot:
                    self.page = page._replace(office=NO_BALLOT, leader_end=0)
                    self.world.free(ballot)
                return Released(ballot)
            case _:
                pass
        return None


class Outlets:
    """Where the executor of one node sends to."""

    def __init__(self, world: World, node: int) -> None:
        self.world, self.node = world, node

    def send(self, node: int, message: object) -> None:
        self.world.post(self.node, node, message)

    def ask_guard(self, command: GuardCommand) -> None:
        guard = self.world.guards[self.node]
        if guard.there:
            guard.inbox.append(command)

    def call_witness(self, call: object) -> None:
        """No disk or witness answers here."""
        self.world.called.append(self.node)

    def applied(self, entries: object) -> None:
        raise Violation("the quorum core applies nothing")

    def order_host(self, order: object) -> None:
        raise Violation("the quorum core orders nothing")

    def reply(self, request: int, answer: object) -> None:
        raise Violation("the quorum core answers nobody")


class World:
    """Nodes, their disks and guards, and messages under way."""

    def __init__(
        self,
        config: QuorumConfig,
        nodes: tuple[int, ...],
        *,
        rules: Rules = ALL_RULES,
        prompt_begin: bool = True,
    ) -> None:
        self.rules = rules
        self.config = config
        self.now = 1_000 * MS
        self.nodes = nodes
        self.called: list[int] = []
        """Nodes that called a disk or witness."""
        self.disks = {node: Disk() for node in nodes}
        self.guards = {node: Guard(self, node) for node in nodes}
        self.cores: dict[int, QuorumCore] = {}
        self.executors: dict[int, Executor] = {}
        self.network: list[tuple[int, int, object]] = []
        self.cut: set[frozenset[int]] = set()
        self.signals: dict[int, list[Signal]] = {node: [] for node in nodes}
        self.committed: dict[int, Entry] = {}
        self.committed_in: dict[int, Ballot] = {}
        """Ballot of the leader that committed the entry first."""
        self.leaders: dict[Ballot, int] = {}
        self.to_begin: dict[int, Ballot] = {}
        self.prompt_begin = prompt_begin
        self.trace: list[str] | None = None
        for node in nodes:
            self.start(node)

    # --- hooks of the random world ---------------------------------------------------------------

    def unwilling(self, node: int) -> bool:
        """Whether the guard refuses a fence for no visible reason."""
        return False

    # --- life and death --------------------------------------------------------------------------

    def start(self, node: int) -> None:
        guard = self.guards[node]
        loaded = self.disks[node].loaded()
        self.cores[node] = QuorumCore(
            me=identity(node),
            loaded=loaded,
            config=self.config,
            page=lambda: guard.page,
            promise_ns=PROMISE,
            now=self.now,
            rules=self.rules,
        )
        self.executors[node] = Executor(Outlets(self, node))
        self.connect_guard(node)
        for other in self.nodes:
            if other != node and other in self.cores and not self.is_cut(node, other):
                self.cores[node].peer_up(self.now, other)
                self.cores[other].peer_up(self.now, node)
                self.settle(other)
        self.settle(node)

    def crash(self, node: int, written: int = 0) -> None:
        """Kill the daemon; ``written``: how many records under way reached the disk."""
        batch = self.executors[node].next_batch()
        if batch is not None:
            for record in batch.records[:written]:
                self.disks[node].write(record)
        del self.cores[node], self.executors[node]
        self.to_begin.pop(node, None)
        self.guards[node].inbox.clear()
        self.guards[node].reports.clear()
        self.network = [item for item in self.network if node not in item[:2]]
        for other, core in self.cores.items():
            core.peer_lost(self.now, node)
            self.settle(other)

    def lose_guard(self, node: int) -> None:
        guard = self.guards[node]
        guard.there = False
        guard.inbox.clear()
        guard.reports.clear()
        guard.page = guard.page._replace(office=NO_BALLOT, leader_end=0)
        if node in self.cores:
            self.cores[node].guard_lost(self.now)
            self.settle(node)

    def connect_guard(self, node: int) -> None:
        """The guard is there (again); the daemon's first word raises its floor (L3)."""
        guard = self.guards[node]
        guard.there = True
        floor = max(guard.page.floor, self.cores[node].written)
        if floor > guard.page.floor:
            guard.page = guard.page._replace(floor=floor, office=NO_BALLOT)

    def part(self, *group: int) -> None:
        """Cut the links between ``group`` and all others."""
        for one in group:
            for other in self.nodes:
                if other not in group:
                    self.disconnect(one, other)

    def disconnect(self, one: int, other: int) -> None:
        self.cut.add(frozenset((one, other)))
        self.network = [item for item in self.network if set(item[:2]) != {one, other}]
        for near, far in ((one, other), (other, one)):
            if near in self.cores:
                self.cores[near].peer_lost(self.now, far)
                self.settle(near)

    def join(self, one: int, other: int) -> None:
        self.cut.discard(frozenset((one, other)))
        if one in self.cores and other in self.cores:
            for near, far in ((one, other), (other, one)):
                self.cores[near].peer_up(self.now, far)
                self.settle(near)

    def heal(self) -> None:
        for pair in sorted(self.cut, key=sorted):
            self.join(*sorted(pair))

    def is_cut(self, one: int, other: int) -> bool:
        return frozenset((one, other)) in self.cut

    # --- steps -----------------------------------------------------------------------------------

    def post(self, sender: int, receiver: int, message: object) -> None:
        if receiver in self.cores and not self.is_cut(sender, receiver):
            self.network.append((sender, receiver, message))

    def deliver(self, number: int = 0, *, keep: bool = False) -> None:
        sender, receiver, message = self.network[number]
        if not keep:
            del self.network[number]
        if self.trace is not None:
            self.trace.append(f"n{sender} > n{receiver}  {describe(message)}")
        self.cores[receiver].receive(self.now, sender, message)  # type: ignore[arg-type]
        self.settle(receiver)

    def serve_guard(self, node: int) -> None:
        guard = self.guards[node]
        command = guard.inbox.pop(0)
        report = guard.answer(command)
        if self.trace is not None:
            answered = f" > {describe(report)}" if report is not None else ""
            self.trace.append(f"n{node} guard    {describe(command)}{answered}")
        if report is not None:
            guard.reports.append(report)
        if isinstance(command, Follow) and node in self.cores:
            self.tick(node)  # the daemon looks at the page again

    def hear_guard(self, node: int) -> None:
        report = self.guards[node].reports.pop(0)
        self.cores[node].guard(self.now, report)
        self.settle(node)

    def sync(self, node: int) -> Batch | None:
        executor = self.executors[node]
        batch = executor.next_batch()
        if batch is None:
            return None
        for record in batch.records:
            self.disks[node].write(record)
        if batch.snapshot is not None:
            self.disks[node].save(batch.snapshot)
        executor.synced(batch.position)
        self.cores[node].durable(self.now, batch.position)
        self.settle(node)
        return batch

    def tick(self, node: int) -> None:
        self.cores[node].tick(self.now)
        self.settle(node)

    def propose(self, node: int, payload: bytes, config: QuorumConfig | None = None) -> int:
        index = self.cores[node].propose(self.now, payload, config)
        self.settle(node)
        return index

    def begin(self, node: int) -> None:
        ballot = self.to_begin.pop(node)
        self.cores[node].begin(self.now, f"first {ballot}".encode())

    def settle(self, node: int) -> None:
        core = self.cores[node]
        while signals := core.take_signals():
            for signal in signals:
                self.signals[node].append(signal)
                self._signal(node, signal)
        self.executors[node].submit(core.take_effects())

    # --- the orderly world -----------------------------------------------------------------------

    def quiet(self, limit: int = 10_000) -> None:
        """Let everything run out that needs no time."""
        for _ in range(limit):
            busy = False
            for node in list(self.cores):
                while self.guards[node].inbox or self.guards[node].reports:
                    if self.guards[node].inbox:
                        self.serve_guard(node)
                    if self.guards[node].reports:
                        self.hear_guard(node)
                    busy = True
            while self.network:
                self.deliver()
                busy = True
            for node in list(self.cores):
                busy = self.sync(node) is not None or busy
            if not busy:
                return
        raise Violation("the world does not come to rest")

    def pass_time(self, duration: int) -> None:
        """Let time pass: guards renew, cores tick at their deadlines."""
        end = self.now + duration
        self.renew()
        self.quiet()
        while self.now < end:
            due = min([core.deadline() for core in self.cores.values()], default=end)
            self.now = min(end, max(due, self.now + MS // 10), self.now + HEARTBEAT)
            self.renew()
            for node in list(self.cores):
                if self.cores[node].deadline() <= self.now:
                    self.tick(node)
            self.quiet()

    def renew(self) -> None:
        """Every guard in office renews its leader's lease with those that it reaches."""
        for node, guard in self.guards.items():
            office = guard.page.office
            if office == NO_BALLOT or node not in self.cores or guard.page.floor != office:
                continue
            have = set()
            for other, there in self.guards.items():
                page = there.page
                if self.is_cut(node, other) or not there.there or page.floor > office:
                    continue
                have.add(identity(other))
                there.page = page._replace(
                    floor=office,
                    renewed=office,
                    freed=False,
                    promise_end=self.now + PROMISE,
                    office=office if other == node else NO_BALLOT,
                    heard=office if other != node else page.heard,
                    heard_at=self.now if other != node else page.heard_at,
                )
            if agreed(self.cores[node].config, have):
                self.guards[node].page = self.guards[node].page._replace(
                    leader_end=self.now + PROMISE
                )
            elif self.guards[node].page.leader_end <= self.now:
                page = self.guards[node].page
                self.guards[node].page = page._replace(office=NO_BALLOT)
                self.cores[node].guard(self.now, OfficeLost(office, page.floor, "no-quorum"))
                self.settle(node)

    def free(self, ballot: Ballot) -> None:
        """A release frees the promises made to exactly this ballot."""
        for node, guard in self.guards.items():
            if not self.is_cut(ballot.node, node) and guard.page.renewed == ballot:
                guard.page = guard.page._replace(freed=True)
                guard.reports.append(Freed(ballot))

    def leader(self) -> int:
        """Return the one node that leads by the highest ballot, 0: none."""
        able = [
            (core.ballot, node) for node, core in self.cores.items() if core.role == Role.LEADER
        ]
        return max(able)[1] if able else 0

    def elect(self, node: int) -> None:
        """Make ``node`` the leader by letting only its time come."""
        self.now = max(self.now, self.cores[node].deadline())
        for _ in range(100):
            if self.cores[node].role == Role.LEADER:
                self.quiet()
                return
            self.now = max(self.now, self.cores[node].deadline())
            self.tick(node)
            self.quiet()
        raise Violation(f"node {node} is not elected")

    # --- checks ----------------------------------------------------------------------------------

    def _signal(self, node: int, signal: Signal) -> None:
        match signal:
            case MayLead():
                command = TakeOffice(signal.ballot, ())
                if self.guards[node].there:
                    self.guards[node].inbox.append(command)
            case Elected():
                demand(signal.ballot.node == node, f"n{node} leads by {signal.ballot}")
                demand(signal.ballot not in self.leaders, f"{signal.ballot} elected twice")
                self.leaders[signal.ballot] = node
                self._check_complete(node)
                self.to_begin[node] = signal.ballot
                if self.prompt_begin:
                    self.begin(node)
            case SteppedDown():
                self.to_begin.pop(node, None)
            case Committed():
                for entry in signal.entries:
                    self._check_committed(node, entry)
            case Restored():
                known = self.committed.get(signal.snapshot.last.index)
                demand(
                    known is not None and known.ballot == signal.snapshot.last.ballot,
                    f"n{node} restored what was never committed",
                )
            case _:
                pass

    def _check_complete(self, node: int) -> None:
        core = self.cores[node]
        base = core.last_key.index - len(core.log)
        log = {entry.index: entry for entry in core.log}
        for index, entry in self.committed.items():
            if index > base and core.ballot > self.committed_in[index]:
                demand(log.get(index) == entry, f"n{node} leads without entry {index}")

    def _check_committed(self, node: int, entry: Entry) -> None:
        known = self.committed.get(entry.index)
        if known is not None:
            demand(known == entry, f"n{node} committed another entry {entry.index}")
            return
        self.committed[entry.index] = entry
        core = self.cores[node]
        self.committed_in[entry.index] = core.ballot
        config = core.config_at(core.last_key.index)
        have = {identity(other) for other, disk in self.disks.items() if disk.holds(entry)}
        demand(agreed(config, have), f"n{node} committed {entry.index}, on disk at {sorted(have)}")

    def check_logs(self) -> None:
        """Compare all logs, and see that every term begins with its first entry."""
        seen: dict[tuple[int, Ballot], tuple[bytes, Ballot]] = {}
        for node, core in self.cores.items():
            entries = core.log
            previous = NO_BALLOT
            if entries and entries[0].index > 1:
                previous = core.key_at(entries[0].index - 1).ballot
            for entry in entries:
                here = (entry.payload, previous)
                demand(
                    seen.setdefault((entry.index, entry.ballot), here) == here,
                    f"logs differ at {entry.index} {entry.ballot} (n{node})",
                )
                if entry.ballot != previous:
                    demand(
                        entry.payload == f"first {entry.ballot}".encode(),
                        f"term of {entry.ballot} begins with {entry.payload!r}",
                    )
                previous = entry.ballot

    def check_floors(self) -> None:
        """A guard at rest knows what its node promised durably."""
        for node, guard in self.guards.items():
            if guard.there and not guard.inbox and node in self.cores:
                promised = self.disks[node].promised
                demand(
                    guard.page.floor >= promised,
                    f"n{node} promised {promised}, its guard is at {guard.page.floor}",
                )


def describe(message: object) -> str:
    """Return a message in one short line."""
    name = type(message).__name__
    if not isinstance(message, msgspec.Struct):
        values = [f"{key}={_short(getattr(message, key))}" for key in message.__slots__]  # type: ignore[attr-defined]
        return f"{name}({', '.join(values)})"
    values = [
        f"{key}={_short(getattr(message, key))}"
        for key in message.__struct_fields__
        if key != "quiet" or message.quiet
        if key != "storage"
    ]
    return f"{name}({', '.join(values)})"


def _short(value: object) -> str:
    if isinstance(value, Key):
        return f"{value.index}@{value.ballot}"
    if isinstance(value, tuple) and value and isinstance(value[0], Entry):
        return "[" + " ".join(f"{e.index}@{e.ballot}" for e in value) + "]"
    if isinstance(value, Ballot):
        return str(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if value == ():
        return "[]"
    return str(value)
