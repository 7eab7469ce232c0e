"""Shared disks and objects of a simulated cluster, with what goes wrong on the way to them.

A call is a row of steps. Each step takes effect at one instant while it is under way, whatever
becomes of the process that began it (a late write); the next step begins only when that process
runs. A machine that loses its power in a write leaves the written copy old, new or torn. Of a disk
one copy of a block may rot, both, or a region: who reads that is told that the disk is damaged. A
path that is lost answers with an error, after the write or without it. Reads of an object may be
stale.

What no store may do (A2), and self-tests refuse as far as they can see it, is a rule that is
switched off: conditions that are ignored, as when a lock is lost, and stale reads of a disk.
Confirmed writes that are gone later are seen in directed runs only: who saw more leaves such a
store, but all who did may be off.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from leitwolf.core.effects import CallWitness, FromWitness
from leitwolf.core.lease.profile import awaited
from leitwolf.model.limits import REGION_WRITES_MAX
from leitwolf.model.log import Entry, Snapshot
from leitwolf.model.quorum import Acceptor
from leitwolf.model.witness import (
    ROLLED_BACK,
    CasObject,
    DiskBlock,
    Region,
    WitnessMode,
    is_evicted,
)
from leitwolf.ports.witness import (
    CasFound,
    CasGet,
    CasPut,
    CasWritten,
    DiskCall,
    DiskResult,
    RegionRead,
    RegionWrite,
    WitnessFault,
    WitnessResult,
)
from leitwolf.sim.network import MICROSECOND, MILLISECOND
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key

if TYPE_CHECKING:
    from leitwolf.sim.node import SimNode
    from leitwolf.sim.world import World

__all__ = ["SharedDisk", "SharedObject", "SimWitness", "build_witness"]

_REGION_UNITS = (60, 4_096)
"""By even and odd seeds: so few that a region overflows, and as many as one has by default."""
_UNIT_ENTRIES = 8
_READ_UNITS, _READ_UNITS_MAX = 64, 1_024
"""First read of a region, and the longest; each is twice the one before, as by the real adapter."""
_FAULT_NS = 30 * MILLISECOND
_NEVER = 1 << 62


class SimWitness(ABC):
    """What nodes share: how long calls take, and who reaches it."""

    def __init__(self, world: World, acceptor: Acceptor) -> None:
        self.acceptor = acceptor
        self.unreached: set[int] = set()
        """Nodes that lost their path."""
        self._delivered: set[int] = set()
        """Nodes that lost their path, after the one call that may still have arrived."""
        self.slow_until = 0
        self.lose_per_thousand = 0
        """Replies of an object that are lost."""
        self.stale_per_thousand = 0
        """Reads of an object that show what stood there before the last write."""
        self._world = world
        self._entropy = world.entropy.split()

    @abstractmethod
    def call(self, node: SimNode, call: CallWitness) -> None:
        """Begin a call of a node's daemon; its end is an event of that daemon."""

    @abstractmethod
    def bound_until(self, leader: int) -> int:
        """Return the true time before which nobody but ``leader`` may be helped here (I12)."""

    @abstractmethod
    def copy(self) -> Callable[[], None]:
        """Make a copy of all that stands here; calling the result puts it back."""

    @abstractmethod
    def holds(self, entry: Entry) -> bool:
        """Return whether an entry stands here, for whoever reads it by the rules."""

    def _takes(self) -> int:
        if self._world.now < self.slow_until:
            return self._entropy.between(5, 400) * MILLISECOND
        return self._entropy.between(100, 900) * MICROSECOND

    def _wait(self, silence: int) -> int:
        """Return the shortest true time that a challenger with a fast clock waits."""
        return awaited(silence) * 1_000_000 // 1_001_000

    def _end(self, node: SimNode, call: CallWitness, started: int, result: WitnessResult) -> None:
        event = FromWitness(
            node=call.acceptor.node, serial=call.serial, started=started, result=result
        )
        node.daemon.take_later(self._entropy.between(20, 150) * MICROSECOND, event)

    def _steps(self, node: SimNode, call: CallWitness, steps: list[Callable[[], None]]) -> None:
        """Do one step after another, then report; ``steps`` take effect in the midst of theirs."""
        started, daemon, life = node.raw(), node.daemon, node.daemon.life
        rest = list(steps)

        def begin() -> None:
            if node.id in self.unreached:
                if rest and node.id not in self._delivered and self._entropy.chance(500):
                    rest[0]()
                self._delivered.add(node.id)
                fault = WitnessFault(code="witness-unreachable", text="path lost")
                self._world.later(_FAULT_NS, lambda: self._end(node, call, started, fault))
                return
            self._delivered.discard(node.id)
            step = rest.pop(0)
            takes = self._takes() + (step.more if isinstance(step, _Part) else 0)
            self._world.later(takes * 2 // 3, step)
            self._world.later(takes, lambda: daemon.deliver(life, ended))

        def ended() -> None:
            if rest:
                begin()
            else:
                self._end(node, call, started, self._result(node))

        begin()

    @abstractmethod
    def _result(self, node: SimNode) -> WitnessResult:
        """Return what the call of a node found."""


@dataclass(slots=True)
class _Content:
    generation: int
    accepted: Ballot
    snapshot: Snapshot | None
    records: list[tuple[Entry, ...]] = field(default_factory=list)
    writer: tuple[int, int] = (0, 0)
    """Node, and life of its daemon: while that lives it knows without reading where to append."""
    rotten: bool = False

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries in it."""
        return tuple(entry for record in self.records for entry in record)

    @property
    def units(self) -> int:
        """How long it is; every record begins on a unit."""
        return sum(map(_units, self.records))

    @property
    def last(self) -> Key:
        """The newest entry in it."""
        for record in reversed(self.records):
            if record:
                return Key(record[-1].ballot, record[-1].index)
        return self.snapshot.last if self.snapshot is not None else NO_KEY


def _units(entries: tuple[Entry, ...]) -> int:
    return 1 + len(entries) // _UNIT_ENTRIES


class _Reading:
    """A region on its way to a reader, one part after the other."""

    def __init__(self, found: Callable[[], _Content | None], generation: int) -> None:
        self._found, self._generation = found, generation
        self.content: _Content | None = None
        """What was read so far."""

    def parts(self, unit_ns: int) -> list[_Part]:
        """Return the reads that it takes, by what stands there now."""
        content = self._found()
        end = max(1, content.units if content is not None else 1)
        begin, length, parts = 0, _READ_UNITS, []
        while begin < end:
            parts.append(_Part(self, begin, begin + length, unit_ns * min(length, end - begin)))
            begin, length = begin + length, min(2 * length, _READ_UNITS_MAX)
        parts[-1].end = sys.maxsize  # what is written until then is read, too
        return parts

    def read(self, begin: int, end: int) -> None:
        """Read the records that begin in these units; of another content none continues it."""
        content, at = self._found(), 0
        if content is None or content.generation != self._generation:
            return
        if begin == 0:
            self.content = replace(content, records=[])
        for record in content.records:
            if self.content is not None and begin <= at < end:
                self.content.records.append(record)
            at += _units(record)


@dataclass(slots=True)
class _Part:
    """One read of a region."""

    reading: _Reading
    begin: int
    end: int
    """In units of the region."""
    more: int
    """By how much longer than others it takes, ns."""

    def __call__(self) -> None:
        self.reading.read(self.begin, self.end)


class SharedDisk(SimWitness):
    """One block per node, in two copies, and two regions per node."""

    def __init__(self, world: World, acceptor: Acceptor) -> None:
        super().__init__(world, acceptor)
        self._copies: dict[int, list[DiskBlock | None]] = {}
        self._regions: dict[tuple[int, int], _Content] = {}
        self._changed: dict[int, int] = {}
        self._results: dict[int, WitnessResult] = {}
        self._fenced: set[int] = set()
        """Nodes that did not register again since they were fenced."""
        self._openings: dict[int, int] = {}
        """Registrations of each node so far: a write counts under that which it began with."""
        self._final: dict[tuple[int, int], int] = {}
        """By node and generation of a region that another node adopted: opening of its node."""
        self.restored = False
        """From a copy: a block may be newer than what it names."""
        self._ruined: set[int] = set()
        """Nodes of whose block no copy can be read any more: nothing is written over it (W5)."""
        self._former: dict[int, DiskBlock] = {}
        self._both = world.rules.holds("second-copy")
        self.region_units = _REGION_UNITS[world.seed % 2]
        self.unit_ns = 60 * MICROSECOND
        """To read and check one unit of a region: 4000 took 246 ms on two cores."""

    def call(self, node: SimNode, call: CallWitness) -> None:
        """Begin the steps of a :class:`DiskCall`."""
        order = call.call
        if not isinstance(order, DiskCall):
            self._world.fail(f"a disk was asked for {type(order).__name__}")
            return
        self._results[node.id] = DiskResult()
        refusal = self._refusal(node)
        own = self._newest(node.id)
        if order.block is not None and (own.sequence if own else 0) < order.known:
            refusal = WitnessFault(code=ROLLED_BACK, text=f"block {order.known} is gone")
        if refusal is not None:
            self._end(node, call, node.raw(), refusal)
            return
        write = order.write
        unfit = self._unfit(node, write) if write is not None else None
        if unfit is not None:
            self._end(node, call, node.raw(), unfit)
            return
        opening = self._openings[node.id]

        def registered(write: Callable[[], None]) -> Callable[[], None]:
            return lambda: self._write(node, opening, write)

        steps: list[Callable[[], None]] = []
        copies = self._copies.get(node.id)
        if copies is not None and copies[0] != copies[1] and self._both:
            steps.append(registered(lambda: self._mend(node.id)))
        if write is not None:
            steps.append(registered(lambda: self._write_region(node, write)))
        block = order.block
        if block is not None:
            steps.append(registered(lambda: self._write_block(node, 0, block)))
            if self._both:
                steps.append(registered(lambda: self._write_block(node, 1, block)))
        fence = order.fence
        if fence:
            steps.append(registered(lambda: self._fenced.update(fence)))
        region = order.region
        if region is not None:
            place = (region.block.node, region.block.region)
            reading = _Reading(lambda: self._regions.get(place), region.block.generation)
            steps += reading.parts(self.unit_ns)
            steps.append(lambda: self._read_region(node.id, region, reading))
        elif order.read:
            steps.append(lambda: self._read(node.id))
        self._steps(node, call, steps)

    def _refusal(self, node: SimNode) -> WitnessFault | None:
        """Open the disk anew for a node that was fenced; refuse one that was evicted (S5).

        Nor does a node write whose own block is lost.
        """
        if node.id in self._ruined:
            return _damaged(f"the block of n{node.id}")
        if node.id in self._fenced or node.id not in self._openings:
            if is_evicted(node.id, self._blocks()) and self._world.rules.holds(
                "evicted-writes-nothing"
            ):
                return WitnessFault(code="witness-fenced", text="evicted")
            self._fenced.discard(node.id)
            self._openings[node.id] = self._openings.get(node.id, 0) + 1
        return None

    def _write(self, node: SimNode, opening: int, write: Callable[[], None]) -> None:
        """Write, if the registration under which the call began still stands."""
        if node.id in self._fenced or opening != self._openings[node.id]:
            fault = WitnessFault(code="witness-fenced", text="the key was removed")
            self._results[node.id] = fault
            return
        if is_evicted(node.id, self._blocks()):
            self._world.fail(f"S5: n{node.id} was evicted, and writes to the disk")
        write()

    def _result(self, node: SimNode) -> WitnessResult:
        return self._results.pop(node.id, DiskResult())

    def copy(self) -> Callable[[], None]:
        """Make an image of the disk."""
        image = deepcopy((self._copies, self._regions))

        def put_back() -> None:
            self._copies, self._regions = deepcopy(image)
            self.restored = True
            self._changed = dict.fromkeys(self._changed, self._world.now)

        return put_back

    def bound_until(self, leader: int) -> int:
        """Return when the armed stamp of ``leader`` has stood still for long enough."""
        block = self._newest(leader)
        if self._ruined:
            return _NEVER  # who cannot read all blocks is promised nothing
        if block is None or not block.armed or block.released:
            return 0
        return self._changed[leader] + self._wait(block.silence)

    def holds(self, entry: Entry) -> bool:
        """Return whether a region that a block names holds it, or a snapshot that covers it."""
        for node in self._copies:
            block = self._newest(node)
            content = self._regions.get((node, block.region)) if block else None
            if block is None or content is None or content.generation != block.generation:
                continue
            snapshot = content.snapshot
            if snapshot is not None and snapshot.last.index >= entry.index:
                return True
            if any((e.index, e.ballot) == (entry.index, entry.ballot) for e in content.entries):
                return True
        return False

    def _newest(self, node: int) -> DiskBlock | None:
        copies = [copy for copy in self._copies.get(node, ()) if copy is not None]
        return max(copies, key=lambda block: block.sequence, default=None)

    def _write_block(self, node: SimNode, copy: int, block: DiskBlock) -> None:
        copies = self._copies.setdefault(block.node, [None, None])
        newest = self._newest(block.node)
        if copy == 0 and newest is not None and self._both:
            copies[1] = newest  # both hold the newest before either is written (W2)
        if not node.powered:
            fate = self._entropy.between(0, 2)
            if fate < 2:
                copies[copy] = None if fate else copies[copy]
                return
        if copy == 0:
            self._changed[block.node] = self._world.now
            if newest is not None:
                self._former[block.node] = newest
        copies[copy] = block

    def rot(self, copy: int) -> None:
        """Make one copy of each block unreadable; a block that is just being written is left."""
        for copies in self._copies.values():
            if copies[0] == copies[1] or not self._both:
                copies[copy] = None

    def ruin(self, node: int) -> None:
        """Make both copies of a node's block unreadable."""
        if self._newest(node) is not None:
            self._ruined.add(node)

    def rot_region(self, node: int) -> None:
        """Make the region that a node's block names unreadable, until it is begun anew."""
        block = self._newest(node)
        content = self._regions.get((node, block.region)) if block is not None else None
        if block is not None and content is not None and content.generation == block.generation:
            content.rotten = True

    def _mend(self, node: int) -> None:
        """Make both copies of a block hold the newer whole one, before anything is written (W2)."""
        newest = self._newest(node)
        if newest is not None:
            self._copies[node] = [newest, newest]

    def _unfit(self, node: SimNode, write: RegionWrite) -> WitnessResult | None:
        """Return why nothing of a call is done, None: it is done."""
        block, full = self._newest(node.id), DiskResult(full=True)
        if write.fresh:
            if _units(write.entries) > self.region_units:
                return WitnessFault(code="witness-unfit", text="larger than a region")
            named = block is not None and block.accepted != NO_BALLOT
            return full if named and block and block.region == write.region else None  # W3
        content = self._regions.get((node.id, write.region))
        if content is None or content.generation != write.generation:
            return full
        if content.rotten and content.writer != (node.id, node.daemon.life):
            return _damaged(f"the region of n{node.id}")
        return full if content.units + _units(write.entries) > self.region_units else None

    def _write_region(self, node: SimNode, write: RegionWrite) -> None:
        place = (node.id, write.region)
        if not node.powered and self._entropy.chance(500):
            if write.fresh:
                self._regions.pop(place, None)
            return
        content = self._regions.get(place)
        if write.fresh:
            content = _Content(write.generation, write.accepted, write.snapshot)
            self._regions[place] = content
        if self._final.get((node.id, write.generation)) == self._openings[node.id]:
            self._world.fail(f"P4: n{node.id} changes the region that another node adopted")
        if content is None or content.generation != write.generation:
            self._world.fail(f"W3: n{node.id} appends to a region that holds something else")
            return
        content.records.append(write.entries)
        content.writer = (node.id, node.daemon.life)
        if len(content.records) > REGION_WRITES_MAX and self._world.rules.holds("region-bounded"):
            self._world.fail(f"I10: n{node.id} writes to a region for ever")

    def _read(self, node: int) -> None:
        if isinstance(self._results.get(node), WitnessFault):
            return
        if self._ruined:
            self._results[node] = _damaged(f"the blocks of {sorted(self._ruined)}")
            return
        self._results[node] = DiskResult(blocks=self._blocks(node))

    def _blocks(self, reader: int = 0) -> tuple[DiskBlock, ...]:
        """Return all blocks as they stand there, or (not 0) as a node reads them."""
        found = [self._shown(number, reader or number) for number in self._copies]
        return tuple(block for block in found if block is not None)

    def _shown(self, owner: int, reader: int) -> DiskBlock | None:
        """Return the block of a node as another one reads it; a cache shows the one before."""
        block = self._newest(owner)
        if self._world.rules.holds("fresh-reads") or owner == reader:
            return block
        return self._former.get(owner)

    def _read_region(self, node: int, read: RegionRead, reading: _Reading) -> None:
        """Read all blocks after a region, and tell what of it counts."""
        if isinstance(self._results.get(node), WitnessFault):
            return
        block, content = read.block, reading.content
        newest = self._shown(block.node, node)
        if self._ruined or newest is None or not newest.names_as(block):
            self._read(node)
            return
        if content is None or content.rotten or content.last < block.key:
            blameless = self.restored or (content is not None and content.rotten)
            if not blameless and self._world.rules.holds("fresh-reads"):
                why = "is gone" if content is None else f"ends before {block.key}"
                self._world.fail(f"P4: the region of n{block.node} that n{node} reads {why}")
            self._results[node] = _damaged(f"the region of n{block.node}")
            return
        if block.node != node and not newest.released:
            self._final[block.node, block.generation] = self._openings[block.node]
        region = Region(
            accepted=content.accepted, snapshot=content.snapshot, entries=content.entries
        )
        self._results[node] = DiskResult(blocks=self._blocks(node), region=region)


def _damaged(what: str) -> WitnessFault:
    return WitnessFault(code="witness-damaged", text=f"{what} cannot be read")


class SharedObject(SimWitness):
    """One value with compare-and-swap; replies may be lost, reads may be stale."""

    def __init__(self, world: World, acceptor: Acceptor, value: CasObject) -> None:
        super().__init__(world, acceptor)
        self._value, self._version = value, 1
        self._former = (value, 1)
        self._changed = 0
        self._results: dict[int, WitnessResult] = {}

    def call(self, node: SimNode, call: CallWitness) -> None:
        """Begin a get or a put."""
        order = call.call
        if isinstance(order, CasGet):
            self._steps(node, call, [lambda: self._get(node.id)])
        elif isinstance(order, CasPut):
            self._steps(node, call, [lambda: self._put(node.id, order)])
        else:
            self._world.fail(f"an object was asked for {type(order).__name__}")

    def copy(self) -> Callable[[], None]:
        """Copy the object; put back, it has another version."""
        value = self._value

        def put_back() -> None:
            self._value, self._changed = value, self._world.now
            self._version += 1

        return put_back

    def bound_until(self, leader: int) -> int:
        """Return when the armed stamp of ``leader`` has stood still for long enough."""
        value = self._value
        if not value.armed or value.holder.node != leader:
            return 0
        return self._changed + self._wait(value.silence)

    def holds(self, entry: Entry) -> bool:
        """Return whether the object names it, or one behind it."""
        return self._value.key.index >= entry.index

    def _result(self, node: SimNode) -> WitnessResult:
        result = self._results.pop(node.id)
        if self._entropy.chance(self.lose_per_thousand):
            return WitnessFault(code="witness-unreachable", text="reply lost")
        return result

    def _get(self, node: int) -> None:
        value, version = self._value, self._version
        if self.stale_per_thousand and self._entropy.chance(self.stale_per_thousand):
            value, version = self._former
        self._results[node] = CasFound(value=value, version=str(version))

    def _put(self, node: int, put: CasPut) -> None:
        kept = self._world.rules.holds("conditions-kept")
        if kept and put.expected != str(self._version):
            self._results[node] = CasWritten(version="")
            return
        self._former = (self._value, self._version)
        self._version += 1
        self._value, self._changed = put.value, self._world.now
        self._results[node] = CasWritten(version=str(self._version))


def build_witness(world: World, acceptor: Acceptor) -> SimWitness:
    """Return the disk or object of this storage: as it was left, else formatted and empty."""
    for known, witness in world.witnesses.items():
        if known.storage == acceptor.id.storage:
            return witness
    if acceptor.kind == "disk":
        return SharedDisk(world, acceptor)
    mode = WitnessMode.FULL if acceptor.full else WitnessMode.TAG
    value = CasObject(cluster="sim", storage=acceptor.id.storage, mode=mode)
    return SharedObject(world, acceptor, value)
