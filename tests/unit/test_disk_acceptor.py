"""What a candidate makes of a shared disk: the calls of one core, answered by the test."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.quorum_world import MS, PROMISE, configuration, identity, snapshot_at

from leitwolf.core.effects import AskGuard, CallWitness, Write
from leitwolf.core.messages import Append, PreProbeReply
from leitwolf.core.quorum import Behind, MayLead, QuorumCore
from leitwolf.core.quorum.candidate import Campaign, Phase
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.errors import InvariantError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry, Loaded
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.model.witness import CasObject, DiskBlock, Region, WitnessMode
from leitwolf.ports.witness import CasFound, CasPut, CasWritten, DiskCall, DiskResult
from leitwolf.wire.ballot import NO_BALLOT, Ballot, Key
from leitwolf.wire.guard import Fence, Fenced, FenceRefused, Follow, Office
from leitwolf.wire.page import LeasePage

DISK = AcceptorId(NodeId(60_000), "disk")
OWNER = Ballot(0, 5, 2)
"""Whose region stands there."""


def owned(last: int, *, generation: int = 1, region: int = 0, sequence: int = 1) -> DiskBlock:
    """The block of the owner, whose region ends with this entry."""
    return DiskBlock(
        node=NodeId(2),
        boot=9,
        sequence=sequence,
        promised=OWNER,
        accepted=OWNER,
        region=region,
        generation=generation,
        key=Key(OWNER, last),
    )


def content(last: int) -> Region:
    entries = tuple(Entry(index=i, ballot=OWNER, payload=b"x") for i in range(1, last + 1))
    return Region(accepted=OWNER, entries=entries)


class Bench:
    """Node 1, which campaigns, and everything around it."""

    def __init__(
        self,
        *,
        nodes: int = 1,
        weight: int = 0,
        rules: Rules = ALL_RULES,
        loaded: Loaded | None = None,
        kind: str = "disk",
    ) -> None:
        """``weight``: of the nodes; 0: the disk decides alone. ``loaded``: what node 1 holds."""
        voters = [Acceptor(id=identity(node), weight=weight) for node in range(1, nodes + 1)]
        config = QuorumConfig(acceptors=(*voters, Acceptor(id=DISK, kind=kind)))
        self.now = 1_000 * MS
        self.page = LeasePage()
        self.core = QuorumCore(
            me=identity(1),
            loaded=loaded or Loaded(),
            config=config,
            page=lambda: self.page,
            promise_ns=PROMISE,
            now=self.now,
            rules=rules,
            boot=1,
        )
        self.calls: list[CallWitness] = []
        self.blocks: dict[int, DiskBlock] = {2: owned(3)}
        self.led: list[Ballot] = []
        self.renewed: list[Ballot] = []
        """Who led last (L6), by what was promised in each election that was won."""
        self.behind: list[Behind] = []
        self.bound = False
        """The own guard is bound to another leader for a moment."""
        for node in range(2, nodes + 1):
            self.core.peer_up(self.now, node)
        self.settle()

    def settle(self) -> None:
        """Let guard and log answer at once; calls of the disk wait for the test."""
        while effects := self.core.take_effects():
            for effect in effects:
                match effect:
                    case Write():
                        self.core.durable(self.now, effect.position)
                    case AskGuard(command=Fence(ballot)) if self.bound:
                        floor = self.page.floor
                        self.core.guard(self.now, FenceRefused(ballot, floor, floor, 5 * MS))
                    case AskGuard(command=Fence(ballot)):
                        told = Fenced(ballot, NO_BALLOT, freed=False, no_memory=False)
                        self.core.guard(self.now, told)
                    case AskGuard(command=Follow(ballot)):
                        self.page = self.page._replace(floor=ballot)
                        self.core.tick(self.now)
                    case CallWitness():
                        self.calls.append(effect)
                    case _:
                        pass
        signals = self.core.take_signals()
        won = [signal for signal in signals if isinstance(signal, MayLead)]
        self.led += [signal.ballot for signal in won]
        self.renewed += [max(one.renewed for one in signal.report) for signal in won]
        self.behind += [signal for signal in signals if isinstance(signal, Behind)]

    def pass_time(self, duration: int) -> None:
        """Let time pass in steps of a millisecond."""
        until = self.now + duration
        while self.now < until:
            self.now += MS
            self.core.tick(self.now)
            self.settle()

    def order(self) -> DiskCall:
        """Return the one call that is under way."""
        [call] = self.calls
        assert isinstance(call.call, DiskCall)
        return call.call

    def answer(self, region: Region | None = None) -> None:
        """End the call under way: what it writes stands there, all blocks are read."""
        block = self.order().block
        if block is not None:
            self.blocks[block.node] = block
        [call] = self.calls
        self.calls.clear()
        found = DiskResult(blocks=tuple(self.blocks.values()), region=region)
        self.core.witness(self.now, DISK.node, call.serial, self.now, found)
        self.settle()

    def until_reading(self) -> DiskBlock:
        """Answer all calls up to the one that reads a region; return the block that it names."""
        for _ in range(1_000):
            if self.calls and self.order().region is not None:
                return self.order().region.block
            if self.calls:
                self.answer()
            self.pass_time(MS)
        raise AssertionError("no region is read")


def test_a_region_begun_anew_while_it_was_read_is_read_by_its_new_name() -> None:
    """What was read may be of both contents: nothing of it counts."""
    bench = Bench()
    assert bench.until_reading() == owned(3)
    bench.blocks[2] = owned(4, generation=2, region=1, sequence=2)
    bench.answer(region=None)
    assert not bench.led
    assert bench.order().region is not None
    assert bench.order().region.block == bench.blocks[2]
    bench.answer(region=content(4))
    assert bench.led == [bench.blocks[1].promised]
    assert bench.core.last_key == Key(OWNER, 4)


def test_a_higher_promise_found_behind_a_region_refuses() -> None:
    """Another candidate wrote while the region was read: no office is tried for nothing."""
    bench = Bench()
    bench.until_reading()
    higher = Ballot(0, 99, 3)
    bench.blocks[3] = DiskBlock(node=NodeId(3), boot=1, sequence=1, promised=higher)
    bench.answer(region=content(3))
    assert not bench.led
    assert bench.core.last_key == Key(OWNER, 3), "what was read is kept"


def writes_though_outbid(rules: Rules) -> bool:
    """Another candidate promises more behind the welcome; return whether this one claims."""
    bench, running = Bench(rules=rules), None
    for _ in range(1_000):
        running = bench.core._candidate.campaign
        if running is not None and running.phase is Phase.PREPARE:
            break
        if bench.calls:
            bench.answer()
        bench.pass_time(MS)
    assert running is not None
    higher = Ballot(0, 99, 3)
    assert running.ballot < higher
    bench.blocks[3] = DiskBlock(node=NodeId(3), boot=1, sequence=1, promised=higher)
    while bench.core._candidate.campaign is running:
        bench.answer()
    assert not bench.led
    return 1 in bench.blocks


@pytest.mark.parametrize("rule", ["disk-outbid"])
def test_who_is_outbid_before_its_claim_writes_nothing(rule: str) -> None:
    """P1: it is refused by the reading alone; a claim would be refused by P3."""
    assert not writes_though_outbid(ALL_RULES)
    assert writes_though_outbid(Rules.without(rule))


def won_beside_a_late_stamp(rules: Rules) -> list[Ballot]:
    """Another candidate, which promised less, arms its stamp while the region is read."""
    bench = Bench(rules=rules)
    bench.blocks[2] = replace(owned(3), armed=True)
    late = DiskBlock(node=NodeId(3), boot=1, sequence=1, promised=Ballot(0, 6, 3))
    bench.blocks[3] = late
    bench.until_reading()
    assert bench.blocks[1].promised > late.promised > OWNER
    bench.blocks[3] = replace(late, sequence=2, accepted=late.promised, armed=True, stamp=1)
    bench.answer(region=content(3))
    while not bench.led:
        bench.answer(region=content(3))
    return bench.renewed


@pytest.mark.parametrize("rule", ["renewed-before-promise"])
def test_who_arms_behind_a_promise_was_never_the_last_leader(rule: str) -> None:
    """L6: it reads the promise behind its write; it may run by the lease of the leader before."""
    assert won_beside_a_late_stamp(ALL_RULES) == [OWNER]
    assert won_beside_a_late_stamp(Rules.without(rule)) == [Ballot(0, 6, 3)]


def test_what_was_read_for_a_campaign_that_is_over_is_not_read_again() -> None:
    """It is in the own log when the next campaign comes, which claims and is promised."""
    bench = Bench()
    bench.until_reading()
    bench.pass_time(2 * PROMISE)
    bench.answer(region=content(3))
    for _ in range(100):
        if bench.led:
            break
        if bench.calls:
            assert bench.order().region is None
            bench.answer()
        bench.pass_time(MS)
    assert bench.led == [bench.blocks[1].promised]
    assert bench.core.last_key == Key(OWNER, 3)


def test_nothing_read_is_adopted_behind_what_came_meanwhile() -> None:
    """A leader was heard while the region was read: its entries are not contradicted."""
    bench = Bench(nodes=4, weight=1)
    campaign(bench)
    leader = Ballot(0, 50, 3)
    entry = Entry(index=1, ballot=Ballot(0, 4, 3), payload=b"y")
    message = Append(ballot=leader, previous=Key(NO_BALLOT, 0), entries=(entry,), commit=1)
    bench.core.receive(bench.now, 3, message)
    bench.settle()
    assert bench.core.commit == 1
    bench.answer(region=content(3))
    assert bench.core.last_key == Key(entry.ballot, 1)


def welcome(bench: Bench) -> Campaign | None:
    """Have nodes 3 and 4 welcome the campaign under way, and return it."""
    running = bench.core._candidate.campaign
    if running is not None and running.phase is Phase.PROBE:
        for node in (3, 4):
            key = bench.core.last_key
            told = PreProbeReply(round=running.serial, willing=True, promised=NO_BALLOT, key=key)
            bench.core.receive(bench.now, node, told)
            bench.settle()
    return running


def campaign(bench: Bench) -> Ballot:
    """Go up to the reading of the region; return the ballot that is promised on the disk."""
    for _ in range(2_000):
        if bench.calls and bench.order().region is not None:
            return bench.blocks[1].promised
        welcome(bench)
        if bench.calls:
            bench.answer()
        bench.pass_time(MS)
    raise AssertionError("no region is read")


def second_campaign_is_promised(rules: Rules) -> bool:
    """A reading outlasts its campaign; return whether it answers the next one."""
    bench = Bench(nodes=4, weight=1, rules=rules)
    first = campaign(bench)
    for _ in range(2_000):
        running = welcome(bench)
        if running is not None and running.ballot > first:
            break
        bench.pass_time(MS)
    bench.answer(region=content(3))
    assert bench.blocks[1].promised == first, "the test itself wrote another promise"
    return running is not None and DISK.node in running.promises


@pytest.mark.parametrize("rule", ["adopted-in-ballot"])
def test_a_promise_stands_on_the_disk_before_it_counts(rule: str) -> None:
    """P2: what was read for a former campaign is no promise to the present one."""
    assert not second_campaign_is_promised(ALL_RULES)
    assert second_campaign_is_promised(Rules.without(rule))


COMMITTED = Entry(index=1, ballot=Ballot(0, 4, 3), payload=b"y")
"""By a leader of a later ballot than the owner's, and in the own log before the region is read."""


def candidate_knows_better(rules: Rules, region: Region) -> Bench:
    """A leader commits an entry below this candidate's ballot, and releases; then it reads this."""
    bench = Bench(nodes=4, weight=1, rules=rules)
    leader = Ballot(0, 50, 3)
    told = PreProbeReply(round=0, willing=False, promised=leader, key=Key(NO_BALLOT, 0))
    bench.core.receive(bench.now, 3, told)
    bench.bound = True
    for _ in range(2_000):
        running = welcome(bench)
        if running is not None and running.phase is Phase.FENCE:
            break
        if bench.calls:
            bench.answer()
        bench.pass_time(MS)
    start = Key(NO_BALLOT, 0)
    message = Append(ballot=leader, previous=start, entries=(COMMITTED,), commit=2)
    bench.core.receive(bench.now, 3, message)
    bench.settle()
    assert bench.core.commit == 1
    bench.bound = False
    assert campaign(bench) > leader
    bench.answer(region=region)
    return bench


@pytest.mark.parametrize("rule", ["committed-stays"])
@pytest.mark.parametrize("last", [1, 3])
def test_what_was_committed_elsewhere_stays(last: int, rule: str) -> None:
    """P4: a disk that was away holds entries of its last owner that never were committed."""
    bench = candidate_knows_better(ALL_RULES, content(last))
    running = bench.core._candidate.campaign
    assert (bench.core.last_key, bench.core.commit) == (Key(COMMITTED.ballot, 1), 1)
    assert DISK.node not in (running.promises if running is not None else {})
    assert bench.behind == [Behind(node=OWNER.node, key=Key(OWNER, last))]
    with pytest.raises(InvariantError, match="truncate"):
        candidate_knows_better(Rules.without(rule), content(last))


def test_two_committed_entries_that_differ_end_the_node() -> None:
    """That must never be: it is not taken for something old."""
    folded, behind = snapshot_at(Key(OWNER, 1), configuration(1)), content(3).entries[1:]
    with pytest.raises(InvariantError, match="is committed on a disk"):
        candidate_knows_better(ALL_RULES, replace(content(3), snapshot=folded, entries=behind))


@pytest.mark.parametrize("last", [3, 6])
def test_entries_do_not_follow_a_snapshot_that_they_contradict(last: int) -> None:
    """What a snapshot covers is committed, and counts as known though it is not held any more."""
    folded = snapshot_at(Key(COMMITTED.ballot, 5), configuration(1))
    for rules, refuted in ((ALL_RULES, True), (Rules.without("committed-stays"), False)):
        bench = Bench(rules=rules, loaded=Loaded(snapshot=folded))
        assert bench.core._standing.refutes(None, content(last).entries) is refuted
        assert not bench.core._standing.refutes(None, ())


class ObjectBench(Bench):
    """The same with an object that holds snapshot and entries."""

    def answer(self, region: Region | None = None) -> None:
        """End the call under way."""
        [call] = self.calls
        self.calls.clear()
        found: CasFound | CasWritten = CasFound(value=self.value, version=str(self.version))
        if isinstance(call.call, CasPut):
            self.value, self.version = call.call.value, self.version + 1
            found = CasWritten(version=str(self.version))
        self.core.witness(self.now, DISK.node, call.serial, self.now, found)
        self.settle()

    def __init__(self, rules: Rules) -> None:
        self.version = 1
        self.value = CasObject(
            cluster="c",
            storage=DISK.storage,
            mode=WitnessMode.FULL,
            promised=OWNER,
            accepted=OWNER,
            key=Key(OWNER, 3),
            holder=OWNER,
            entries=content(3).entries,
        )
        loaded = Loaded(entries=(COMMITTED,), commit=1)
        super().__init__(rules=rules, loaded=loaded, kind="object")


def object_after_campaigns(rules: Rules) -> ObjectBench:
    bench = ObjectBench(rules)
    for _ in range(1_000):
        if bench.calls:
            bench.answer()
        bench.pass_time(MS)
    return bench


def test_an_object_that_contradicts_what_is_committed_is_not_claimed() -> None:
    """The candidate is refused as behind before it writes there."""
    bench = object_after_campaigns(ALL_RULES)
    assert bench.value.promised == OWNER
    assert bench.behind
    assert {one.node for one in bench.behind} == {OWNER.node}
    with pytest.raises(InvariantError, match="truncate"):
        object_after_campaigns(Rules.without("committed-stays"))


def contents(payload: bytes, rules: Rules = ALL_RULES) -> list[int]:
    """Lead, write 200 entries one by one, and return how many writes each content got."""
    bench = Bench(rules=rules)
    bench.blocks.clear()
    for _ in range(1_000):
        if bench.led:
            break
        if bench.calls:
            bench.answer()
        bench.pass_time(MS)
    bench.core.guard(bench.now, Office(bench.led[0], ()))
    bench.settle()
    bench.core.begin(bench.now, b"first")
    counts: list[int] = []
    for _ in range(200):
        bench.settle()
        while bench.calls:
            write = bench.order().write
            if write is not None:
                counts += [0] * write.fresh
                counts[-1] += 1
            bench.answer()
        bench.core.propose(bench.now, payload)
    return counts


def test_a_region_is_begun_anew_before_it_is_long() -> None:
    """After so many writes, or so many bytes, of which the first write does not count."""
    assert contents(b"x") == [64, 64, 64, 8]
    assert contents(bytes(300 << 10)) == [4] * 50
    assert contents(b"x", Rules.without("region-bounded")) == [200]
