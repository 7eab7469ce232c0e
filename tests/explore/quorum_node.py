"""One node of the search: the real quorum core behind the real executor, and what is durable.

There is no time: a node campaigns whenever the search wants it to, and its guard (a floor, nothing
else) helps every candidate that the floor allows. So whatever is shown holds for every timing, and
does not rest on leases.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace
from tests.quorum_world import HEARTBEAT, PROMISE, Disk, identity

from leitwolf.core.effects import CallWitness, Write
from leitwolf.core.executor import Executor
from leitwolf.core.messages import QuorumMessage, TransferOffice
from leitwolf.core.quorum import (
    Committed,
    Elected,
    MayLead,
    QuorumCore,
    Role,
    SteppedDown,
)
from leitwolf.core.rules import Rules
from leitwolf.model.log import Entry
from leitwolf.model.quorum import Acceptor, QuorumConfig
from leitwolf.model.witness import DiskBlock
from leitwolf.ports.witness import (
    CasGet,
    CasPut,
    DiskCall,
    DiskResult,
    RegionRead,
    RegionWrite,
    WitnessFault,
    WitnessResult,
)
from leitwolf.wire.ballot import NO_BALLOT, Ballot
from leitwolf.wire.guard import (
    Back,
    BackDropped,
    Fence,
    Fenced,
    FenceRefused,
    Follow,
    GuardCommand,
    Office,
    OfficeLost,
    Release,
    Released,
    TakeOffice,
)
from leitwolf.wire.heartbeat import PeerMessage
from leitwolf.wire.page import LeasePage

NOW = 1 << 40


class Page:
    """The page of a guard that is bound to nobody."""

    def __init__(self) -> None:
        self.value = LeasePage(heartbeat=HEARTBEAT)

    def __call__(self) -> LeasePage:
        return self.value


@dataclass(frozen=True)
class BlockWrite:
    """One copy of the own block."""

    copy: int
    block: DiskBlock


@dataclass(frozen=True)
class BlocksRead:
    """All blocks."""


SharedStep = RegionWrite | BlockWrite | BlocksRead | RegionRead | CasGet | CasPut


@dataclass
class Pending:
    """The call of the passive acceptor that is under way."""

    acceptor: int
    serial: int
    started: int
    steps: list[SharedStep]
    result: WitnessResult | None = None
    region: DiskBlock | None = None
    """Whose region is read, before all blocks."""


@dataclass
class Output:
    """What came of an event."""

    messages: list[tuple[int, QuorumMessage]] = field(default_factory=list)
    elected: list[tuple[Ballot, tuple[Entry, ...]]] = field(default_factory=list)
    committed: list[tuple[Ballot, QuorumConfig, Entry]] = field(default_factory=list)
    guard: list[tuple[int, PeerMessage]] = field(default_factory=list)
    """From guard to guard."""


class QuorumNode:
    """What one node is made of; pickled between events."""

    promise_ns = PROMISE

    def __init__(self, number: int, nodes: int, config: QuorumConfig, rules: Rules) -> None:
        self.number, self.nodes, self.config, self.rules = number, nodes, config, rules
        self.disk = Disk()
        self.page = Page()
        self.life = 0
        self.now = NOW
        self.pending: Pending | None = None
        self.output = Output()
        self._start()

    def _start(self) -> None:
        self.core = QuorumCore(
            me=identity(self.number),
            loaded=self.disk.loaded(),
            config=self.config,
            page=self.page,
            promise_ns=self.promise_ns,
            now=self.now,
            rules=self.rules,
            boot=self.number * 1000 + self.life,
            snapshot=_none,
        )
        self.executor = Executor(self)
        self.commands: list[GuardCommand] = []
        self.led = NO_BALLOT
        self._greet()
        for other in range(1, self.nodes + 1):
            if other != self.number:
                self.core.peer_up(self.now, other)

    def _greet(self) -> None:
        """Tell the guard what was promised (L3)."""
        page = self.page.value
        floor = max(page.floor, self.core.written)
        self.page.value = page._replace(floor=floor, office=NO_BALLOT)

    # --- outlets of the executor -----------------------------------------------------------------

    def send(self, node: int, message: QuorumMessage) -> None:
        self.output.messages.append((node, message))

    def ask_guard(self, command: GuardCommand) -> None:
        self.commands.append(command)

    def call_witness(self, call: CallWitness) -> None:
        assert self.pending is None, "two calls under way"
        steps, order = _steps_of(call), call.call
        read = order.region if isinstance(order, DiskCall) else None
        self.pending = Pending(
            acceptor=call.acceptor.node,
            serial=call.serial,
            started=self.now,
            steps=steps,
            region=read.block if read is not None else None,
        )

    # --- events ----------------------------------------------------------------------------------

    def receive(self, sender: int, message: QuorumMessage) -> None:
        """A message of another node came in."""
        self.core.receive(self.now, sender, message)

    def reconnect(self, node: int) -> None:
        """The stream to a node broke and is up again."""
        self.core.peer_lost(self.now, node)
        self.core.peer_up(self.now, node)

    def campaign(self) -> None:
        """Campaign at once, as if the leader had asked for it."""
        ballot = self.core.promised
        message = TransferOffice(ballot=ballot, successor=self.number)
        self.core.receive(self.now, ballot.node, message)

    def propose(self) -> None:
        self.core.propose(self.now, f"after {self.core.last_key.index}".encode())

    def change(self, nodes: tuple[int, ...]) -> None:
        """Take the next step from the first configuration to these voters."""
        config = self.core.config
        final = tuple(Acceptor(id=identity(node)) for node in nodes)
        following = QuorumConfig(
            acceptors=final, former=None if config.former else config.acceptors
        )
        self.core.propose(self.now, f"votes {self.core.last_key.index}".encode(), following)

    def sync(self) -> None:
        batch = self.executor.next_batch()
        assert batch is not None
        for record in batch.records:
            self.disk.write(record)
        self.executor.synced(batch.position)
        self.core.durable(self.now, batch.position)

    def crash(self, written: int) -> None:
        """Die and start again; ``written``: how many records under way reached the disk."""
        batch = self.executor.next_batch()
        if batch is not None:
            for record in batch.records[:written]:
                self.disk.write(record)
        self.life += 1
        self.pending = None
        self._start()

    def wakes_at(self) -> int:
        """Return when time alone demands something: never, without time."""
        return 1 << 63

    def leads_until(self) -> int:
        """Return when the leader lease ends; there are no leases here."""
        return 0

    def stepped(self, found: WitnessResult | None) -> None:
        """The next step of the call under way took effect."""
        pending = self.pending
        assert pending is not None
        del pending.steps[0]
        if pending.region is not None and isinstance(found, DiskResult) and found.blocks:
            found = _judged(pending.region, pending.result, found)
        if found is not None:
            pending.result = found

    def ended(self) -> None:
        """Hear how the call ended."""
        pending, self.pending = self.pending, None
        assert pending is not None
        result = pending.result or DiskResult()
        self.core.witness(self.now, pending.acceptor, pending.serial, pending.started, result)

    def failed(self) -> None:
        """Hear that the call failed; after a while it is tried again."""
        pending, self.pending = self.pending, None
        assert pending is not None
        fault = WitnessFault(code="witness-unreachable", text="path lost")
        self.core.witness(self.now, pending.acceptor, pending.serial, pending.started, fault)
        for passive in self.core._standing.passives.values():
            passive._retry_at = 0

    # --- consequences ----------------------------------------------------------------------------

    def settle(self) -> None:
        """Let run out what needs neither disk nor network."""
        while True:
            signals = self.core.take_signals()
            for signal in signals:
                self._signal(signal)
            self.executor.submit(self.core.take_effects())
            if not signals and not self.commands:
                return
            while self.commands:
                self.ask(self.commands.pop(0))

    def _signal(self, signal: object) -> None:
        match signal:
            case MayLead():
                self.commands.append(TakeOffice(signal.ballot, ()))
            case Elected():
                self.output.elected.append((signal.ballot, self.core.log))
                self.led = signal.ballot
                self.core.begin(self.now, f"first {signal.ballot}".encode())
            case SteppedDown():
                self.led = NO_BALLOT
            case Committed():
                config = self.core.config_at(self.core.last_key.index)
                for entry in signal.entries:
                    self.output.committed.append((self.core.ballot, config, entry))
            case _:
                pass

    def ask(self, command: GuardCommand) -> None:
        page, core = self.page.value, self.core
        match command:
            case Fence(ballot):
                if ballot <= page.floor:
                    core.guard(self.now, FenceRefused(ballot, page.renewed, page.floor, 0))
                else:
                    self.page.value = page._replace(floor=ballot, office=NO_BALLOT)
                    core.guard(self.now, Fenced(ballot, NO_BALLOT, freed=False, no_memory=False))
            case Follow(ballot):
                if ballot > page.floor:
                    self.page.value = page._replace(floor=ballot, office=NO_BALLOT)
                core.tick(self.now)
            case TakeOffice(ballot):
                if page.floor != ballot:
                    core.guard(self.now, OfficeLost(ballot, page.floor, "outbid"))
                else:
                    self.page.value = page._replace(office=ballot)
                    core.guard(self.now, Office(ballot, ()))
            case Release(ballot):
                self.page.value = page._replace(office=NO_BALLOT)
                core.guard(self.now, Released(ballot))
            case Back(ballot, acceptor, _, duration):
                if not duration:
                    core.guard(self.now, BackDropped(ballot, acceptor))
            case _:
                pass

    # --- what the search looks at ----------------------------------------------------------------

    def may_campaign(self, rounds_max: int) -> bool:
        core = self.core
        if core.role is not Role.FOLLOWER:
            return False
        seen = core._candidate._seen
        highest = max(core.promised, core.last_key.ballot, seen, self.page.value.floor)
        return highest.round < rounds_max

    def may_propose(self, entries_max: int) -> bool:
        return self.core.role is Role.LEADER and self.core.last_key.index < entries_max

    def may_change(self) -> bool:
        core = self.core
        ready = core.config_committed and core.role is Role.LEADER
        return ready and self.config in (core.config, _bare(core.config)) and _begun(core)

    def unsynced(self) -> int:
        """Return how many records the next batch has, -1: there is none."""
        queue = self.executor._queue
        return sum(len(write.records) for write in queue if isinstance(write, Write)) or -1


def _none() -> None:
    return None


def _bare(config: QuorumConfig) -> QuorumConfig:
    """Return the configuration before a change that is under way."""
    return QuorumConfig(acceptors=config.former or ())


def _begun(core: QuorumCore) -> bool:
    """Return whether the first entry of the term is committed."""
    return core.commit > 0 and core.key_at(core.commit).ballot == core.ballot


def _steps_of(call: CallWitness) -> list[SharedStep]:
    order = call.call
    if not isinstance(order, DiskCall):
        return [order]
    steps: list[SharedStep] = []  # a disk without reservations: nobody is fenced there
    if order.write is not None:
        steps.append(order.write)
    if order.block is not None:
        steps += [BlockWrite(0, order.block), BlockWrite(1, order.block)]
    if order.region is not None:
        steps.append(order.region)
    if order.read or order.region is not None:
        steps.append(BlocksRead())
    return steps


def _judged(
    wanted: DiskBlock, read: WitnessResult | None, blocks: DiskResult
) -> DiskResult | WitnessFault:
    """Return what of a region counts, by the blocks as they were read after it."""
    if not any(one.node == wanted.node and one.names_as(wanted) for one in blocks.blocks):
        return blocks
    if not isinstance(read, DiskResult) or read.region is None:
        return WitnessFault(code="witness-damaged", text="another content stands there")
    return replace(blocks, region=read.region)
