"""The executor keeps the order of effects, whatever is submitted and however slow the disk is."""

from __future__ import annotations

import random

import pytest
from tests.quorum_world import configuration

from leitwolf.core.effects import (
    Applied,
    AskGuard,
    Effect,
    OrderHost,
    Reply,
    SaveSnapshot,
    Send,
    Write,
)
from leitwolf.core.executor import Executor
from leitwolf.core.messages import Gap
from leitwolf.model.commands import Answer
from leitwolf.model.errors import InvariantError
from leitwolf.model.ids import GroupId
from leitwolf.model.log import CommitRecord, Entry, Snapshot
from leitwolf.model.observations import CloseGroup
from leitwolf.wire.ballot import NO_BALLOT, Ballot, Key
from leitwolf.wire.guard import Fence


class Recorder:
    """Remembers what left, with the position that was durable then."""

    def __init__(self) -> None:
        self.left: list[tuple[str, int, int]] = []
        self.executor = Executor(self)

    def send(self, node: int, message: object) -> None:
        assert isinstance(message, Gap)
        self.left.append(("send", message.hint, self.executor.durable))

    def ask_guard(self, command: object) -> None:
        assert isinstance(command, Fence)
        self.left.append(("guard", command.ballot.round, self.executor.durable))

    def applied(self, entries: tuple[Entry, ...]) -> None:
        self.left.append(("applied", entries[0].index, self.executor.durable))

    def order_host(self, order: object) -> None:
        assert isinstance(order, CloseGroup)
        self.left.append(("host", order.generation, self.executor.durable))

    def reply(self, request: int, answer: Answer) -> None:
        self.left.append(("reply", request, self.executor.durable))


def send(serial: int, after: int = 0) -> Send:
    return Send(node=2, message=Gap(ballot=NO_BALLOT, hint=serial), after=after)


def ask(serial: int, after: int = 0) -> AskGuard:
    return AskGuard(command=Fence(Ballot(0, serial, 1)), after=after)


def write(position: int, count: int = 1) -> Write:
    records = tuple(CommitRecord(index=position * 100 + number) for number in range(count))
    return Write(position=position, records=records)


def save(position: int) -> SaveSnapshot:
    snapshot = Snapshot(
        last=Key(NO_BALLOT, position), config=configuration(1), state=b"", state_hash=""
    )
    return SaveSnapshot(position=position, snapshot=snapshot, reset=False)


def applied(serial: int) -> Applied:
    return Applied(entries=(Entry(index=serial, ballot=NO_BALLOT, payload=b""),))


def host(serial: int) -> OrderHost:
    return OrderHost(order=CloseGroup(group=GroupId("g"), generation=serial))


def reply(serial: int) -> Reply:
    return Reply(id=serial, answer=Answer())


@pytest.mark.parametrize("seed", range(200))
def test_order_holds_for_any_schedule(seed: int) -> None:
    """Nothing leaves before its position is durable; all leaves once; writes keep their order."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    recorder = Recorder()
    executor = recorder.executor
    after_of: dict[tuple[str, int], int] = {}
    position, serial, under_way = 0, 0, 0
    written: list[int] = []
    expected_writes: list[int] = []
    for _ in range(chance.randrange(10, 60)):
        if chance.random() < 0.5:
            effects: list[Effect] = []
            first = len(recorder.left)
            for _ in range(chance.randrange(6)):
                serial += 1
                make = chance.choice((send, ask, write, save, applied, host, reply))
                if make in (write, save):
                    position += 1
                    effects.append(make(position))
                    expected_writes.append(position)
                elif make in (send, ask):
                    after = chance.choice((0, position, chance.randrange(position + 1)))
                    effects.append(make(serial, after))
                    after_of[("send" if make is send else "guard", serial)] = after
                else:
                    effects.append(make(serial))
            executor.submit(effects)
            kinds = [kind for kind, _, _ in recorder.left[first:]]
            rank = {"send": 0, "guard": 0, "applied": 1, "host": 2, "reply": 3}
            assert [rank[kind] for kind in kinds] == sorted(rank[kind] for kind in kinds)
        elif under_way:
            executor.synced(under_way)
            assert executor.durable == under_way
            under_way = 0
        elif (batch := executor.next_batch()) is not None:
            under_way = batch.position
            assert (batch.snapshot is None) != (not batch.records)
            if batch.snapshot is not None:
                written.append(batch.snapshot.position)
            written.extend(r.index // 100 for r in batch.records if isinstance(r, CommitRecord))
            assert executor.next_batch() is None
    while under_way or (batch := executor.next_batch()) is not None:
        if not under_way and batch is not None:
            under_way = batch.position
            if batch.snapshot is not None:
                written.append(batch.snapshot.position)
            written.extend(r.index // 100 for r in batch.records if isinstance(r, CommitRecord))
        executor.synced(under_way)
        under_way = 0
    assert executor.idle
    assert written == expected_writes
    waited = [(kind, number, durable) for kind, number, durable in recorder.left]
    for kind, number, durable in waited:
        assert durable >= after_of.get((kind, number), 0), (kind, number)
    left = [(kind, number) for kind, number, _ in waited]
    assert len(set(left)) == len(left)
    assert set(after_of) <= set(left)


def test_what_is_ready_together_keeps_its_order() -> None:
    """Messages that wait for the same position leave in the order of their submission."""
    recorder = Recorder()
    recorder.executor.submit([write(1), send(1, 1), ask(2, 1), send(3), send(4, 1)])
    batch = recorder.executor.next_batch()
    assert batch is not None
    recorder.executor.synced(batch.position)
    assert [number for _, number, _ in recorder.left] == [3, 1, 2, 4]


def test_one_sync_covers_what_is_queued() -> None:
    """Writes that gather while a batch is under way share the next one; a snapshot stands alone."""
    executor = Recorder().executor
    executor.submit([write(1)])
    first = executor.next_batch()
    for position in range(2, 6):
        executor.submit([write(position, count=3)])
    executor.submit([save(6), write(7)])
    assert first is not None
    assert first.position == 1
    executor.synced(1)
    second = executor.next_batch()
    assert second is not None
    assert (second.position, len(second.records)) == (5, 12)
    executor.synced(5)
    third = executor.next_batch()
    assert third is not None
    assert third.snapshot is not None
    executor.synced(6)
    fourth = executor.next_batch()
    assert fourth is not None
    assert fourth.position == 7


def test_a_failed_write_ends_everything() -> None:
    """After a failed sync nothing that waited leaves, and nobody can go on (A2)."""
    recorder = Recorder()
    executor = recorder.executor
    executor.submit([write(1), send(1, 1), applied(2)])
    executor.next_batch()
    executor.failed()
    for call in (
        lambda: executor.synced(1),
        lambda: executor.submit([send(3)]),
        executor.next_batch,
    ):
        with pytest.raises(InvariantError):
            call()
    assert [kind for kind, _, _ in recorder.left] == ["applied"]


def test_broken_positions_are_noticed() -> None:
    """Positions must follow each other, and nobody waits for what is never written."""
    for effects in ([write(2)], [write(1), write(3)], [send(1, 1)]):
        with pytest.raises(InvariantError):
            Recorder().executor.submit(effects)
    with pytest.raises(InvariantError):
        Recorder().executor.synced(1)
