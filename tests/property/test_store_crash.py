"""The quorum log on a faulty disk: power cuts, failing calls and rot at any point.

A model knows the state after every record. Whatever happens, a log that opens must be exactly the
model's state after some record that is not before the last one acknowledged by a sync.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest

from leitwolf.model.errors import DiskFull, LogCorrupt, StorageError, SyncFailed
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
from leitwolf.sim.disk import FaultyDisk, PowerCut
from leitwolf.store import QuorumLog, StoreIdentity, StoreSizes
from leitwolf.wire.ballot import NO_BALLOT, Ballot, Key

FOLDER = Path("/disk/quorum")
IDENTITY = StoreIdentity(cluster="c", node=1, storage="s")
CONFIG = QuorumConfig(acceptors=(Acceptor(id=AcceptorId(NodeId(1), "s")),))
SIZES = StoreSizes(segment_bytes=16 << 10, reserve_bytes=2 << 10, history_bytes=32 << 10)


class Model:
    """What the log must say after each record; ``acknowledged`` is the last durable one."""

    def __init__(self) -> None:
        self.states: list[Loaded] = [Loaded()]
        self.chains: dict[int, bytes] = {}
        self.acknowledged = 0

    @property
    def now(self) -> Loaded:
        return self.states[-1]

    def ballot_at(self, index: int) -> Ballot:
        for entry in self.now.entries:
            if entry.index == index:
                return entry.ballot
        return self.now.snapshot.last.ballot if self.now.snapshot else NO_BALLOT

    @property
    def last(self) -> int:
        if self.now.entries:
            return self.now.entries[-1].index
        return self.now.snapshot.last.index if self.now.snapshot else 0

    def add(self, record: Record) -> None:
        now = self.now
        promised, snapshot, entries, commit = (
            now.promised, now.snapshot, now.entries, now.commit
        )  # fmt: skip
        if isinstance(record, PromisedRecord):
            promised = record.ballot
        elif isinstance(record, EntryRecord):
            entries = (*entries, record.entry)
            promised = max(promised, record.entry.ballot)
        elif isinstance(record, TruncateRecord):
            entries = tuple(entry for entry in entries if entry.index < record.index)
        else:
            commit = max(commit, record.index)
        self.states.append(
            Loaded(promised=promised, snapshot=snapshot, entries=entries, commit=commit)
        )

    def add_snapshot(self, snapshot: Snapshot, reset: bool) -> None:
        now, last = self.now, snapshot.last
        entries = tuple(e for e in now.entries if e.index > last.index and not reset)
        self.states.append(
            Loaded(
                promised=max(now.promised, last.ballot),
                snapshot=snapshot,
                entries=entries,
                commit=last.index if reset else max(now.commit, last.index),
            )
        )

    def verify(self, log: QuorumLog) -> None:
        """Compare an opened log, and go on from where it stands."""
        assert self.acknowledged <= log.position < len(self.states)
        assert log.loaded == self.states[log.position]
        assert log.chain == self.chains.get(log.position, log.chain)
        if self.acknowledged in self.chains:
            assert log.remembers(self.acknowledged, self.chains[self.acknowledged]) is not False
        live = {entry.index: entry for entry in log.loaded.entries}
        told = list(log.history(0, 10_000))
        assert [entry.index for entry in told] == sorted({entry.index for entry in told})
        assert {e.index: e for e in told if e.index in live} == live
        del self.states[log.position + 1 :]
        self.chains = {p: c for p, c in self.chains.items() if p <= log.position}
        self.acknowledged = log.position


class Operator:
    """Does random but legal things to a log and its model."""

    def __init__(self, random: Random, model: Model) -> None:
        self.random = random
        self.model = model
        self.round = 0

    def records(self) -> list[Record]:
        model, random = self.model, self.random
        records: list[Record] = []
        for _ in range(random.choice([1, 1, 1, 2, 4])):
            now, last = model.now, model.last
            self.round += 1
            ballot = Ballot(0, now.promised.round, 1)
            ballot = max(ballot, now.promised)
            what = random.random()
            record: Record
            if what < 0.6:
                size = random.choice([10, 300, 300, 900])
                payload = f"{self.round} ".encode() * (size // 3)
                entry = Entry(index=last + 1, ballot=ballot, payload=payload)
                record = EntryRecord(entry=entry)
            elif what < 0.75:
                record = PromisedRecord(ballot=Ballot(0, now.promised.round + 1, 2))
            elif what < 0.85 and last > now.commit:
                record = TruncateRecord(index=random.randint(now.commit + 1, last))
            else:
                record = CommitRecord(index=random.randint(now.commit, last))
            model.add(record)
            records.append(record)
        return records

    def snapshot(self) -> tuple[Snapshot, bool]:
        now, random = self.model.now, self.random
        reset = random.random() < 0.15
        covered = now.snapshot.last.index if now.snapshot else 0
        if reset:
            index = self.model.last + random.randint(0, 5)
            ballot = max(now.promised, Ballot(0, 1, 1))
        else:
            index = random.randint(covered, max(covered, now.commit))
            ballot = self.model.ballot_at(index)
        state = f"state {index} {self.round}".encode() * random.choice([1, 60])
        return (
            Snapshot(
                last=Key(ballot, index),
                config=CONFIG,
                state=state,
                state_hash=sha256(state).hexdigest(),
            ),
            reset,
        )

    def act(self, log: QuorumLog) -> None:
        """Do one thing; the model knows it before the log does, as it may crash within."""
        model, what = self.model, self.random.random()
        before = len(model.states)
        try:
            if what < 0.55:
                log.write(self.records())
            elif what < 0.92:
                log.sync()
                model.acknowledged = log.position
            else:
                snapshot, reset = self.snapshot()
                model.add_snapshot(snapshot, reset)
                log.save_snapshot(snapshot, reset=reset)
                model.acknowledged = log.position
        except DiskFull:
            if log.position == before - 1:
                del model.states[before:]
        assert log.position == len(model.states) - 1
        model.chains[log.position] = log.chain


def opened(disk: FaultyDisk) -> QuorumLog:
    return QuorumLog.open(FOLDER, IDENTITY, disk, sizes=SIZES)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_acknowledged_survives_power_cuts_and_failing_calls(seed: int) -> None:
    """Random operations, with a power cut or failing call at a random operation of the disk."""
    random = Random(seed)
    disk, model = FaultyDisk(), Model()
    operator = Operator(random, model)
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    for _ in range(25):
        fate = random.random()
        at = disk.operations + random.randint(0, 60)
        if fate < 0.6:
            disk.cut_at = at
        elif fate < 0.9:
            disk.fail[at] = random.choice([errno.EIO, errno.EIO, errno.ENOSPC])
        try:
            for _ in range(random.randint(5, 40)):
                operator.act(log)
            if random.random() < 0.3:
                log.close()
        except (PowerCut, StorageError):
            pass
        if fate < 0.6 or random.random() < 0.5:
            disk.crash(random.randrange)
        else:
            disk.kill()
        if random.random() < 0.4:
            disk.cut_at = disk.operations + random.randint(0, 12)
        try:
            log = opened(disk)
        except PowerCut:
            disk.crash(random.randrange)
            log = opened(disk)
        disk.cut_at = -1
        model.verify(log)


def script(log: QuorumLog, model: Model) -> None:
    """A short life with every kind of operation and some segments."""
    operator = Operator(Random(7), model)
    for _ in range(45):
        operator.act(log)


def cuts() -> Iterator[int]:
    disk, model = FaultyDisk(), Model()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    begin = disk.operations
    script(log, model)
    assert sum(what.startswith("rename quolog.spare quolog") for what in disk.trace) >= 3
    assert any(what.startswith("remove") for what in disk.trace)
    yield from range(begin, disk.operations)


def test_a_power_cut_in_every_single_operation_of_the_disk() -> None:
    """Write, sync, create, rename, remove, folder sync: each is cut, with several outcomes."""
    for at in cuts():
        for seed in range(3):
            random = Random(seed)
            disk, model = FaultyDisk(), Model()
            log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
            disk.cut_at = at
            with pytest.raises(PowerCut):
                script(log, model)
            if seed == 0:
                disk.crash(lambda _: 0)  # nothing unsynced survives
            elif seed == 1:
                disk.crash(lambda n: n - 1)  # everything does
            else:
                disk.crash(random.randrange)
            log = opened(disk)
            model.verify(log)
            Operator(random, model).act(log)


def test_a_power_cut_anywhere_in_creation_leaves_nothing_or_a_log() -> None:
    """Creation is done again when it did not finish, and refused when it did."""
    disk = FaultyDisk()
    QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    for at in range(disk.operations):
        for seed in range(3):
            fresh = FaultyDisk()
            fresh.cut_at = at
            with pytest.raises(PowerCut):
                QuorumLog.create(FOLDER, IDENTITY, fresh, sizes=SIZES)
            fresh.crash(Random(seed).randrange)
            if "identity.json" in fresh.names(FOLDER):
                log = opened(fresh)
            else:
                with pytest.raises(StorageError) as caught:
                    opened(fresh)
                assert caught.value.code == "no-log"
                log = QuorumLog.create(FOLDER, IDENTITY, fresh, sizes=SIZES)
            assert log.position == 0


def test_a_torn_batch_of_every_length_is_cut() -> None:
    """However many bytes of an unsynced batch reached the disk, whole records of it remain."""
    random = Random(1)
    disk, model = FaultyDisk(), Model()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    operator = Operator(random, model)
    log.write(operator.records())
    log.sync()
    model.acknowledged = log.position
    model.chains[log.position] = log.chain
    path = FOLDER / "quolog.0000000001"
    before = disk.content(path)
    for _ in range(3):
        log.write(operator.records())
    after = disk.content(path)
    start = next(i for i in range(8192, len(after)) if before[i] != after[i])
    end = max(i for i in range(len(after)) if before[i] != after[i]) + 1
    for length in range(0, end - start + 1, 7):
        torn = FaultyDisk()
        for name in disk.names(FOLDER):
            file = torn.open(FOLDER / name, create=True)
            content = disk.content(FOLDER / name)
            file.write(0, before[:start] + after[start : start + length] + before[start + length :]
                       if name == path.name else content)  # fmt: skip
            file.sync()
        again = opened(torn)
        assert model.acknowledged <= again.position < len(model.states)
        assert again.loaded == model.states[again.position]


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_noticed_or_harmless(seed: int) -> None:
    """Rot anywhere in any file: the log is refused, or it is exactly what was written."""
    random = Random(seed)
    outcomes = {"refused": 0, "harmless": 0}
    for _ in range(40):
        disk, model = FaultyDisk(), Model()
        operator = Operator(Random(seed), model)
        log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
        for _ in range(60):
            operator.act(log)
        log.close()
        names = [name for name in disk.names(FOLDER) if name != "lock"]
        name = random.choice(names)
        content = disk.content(FOLDER / name).rstrip(b"\0") or b"\0"
        disk.flip(FOLDER / name, random.randrange(len(content) * 8))
        disk.kill()
        model.acknowledged = len(model.states) - 1  # closing made it durable
        try:
            log = opened(disk)
        except StorageError:
            outcomes["refused"] += 1
        else:
            outcomes["harmless"] += 1
            if log.loaded.snapshot == model.now.snapshot:
                assert log.loaded == model.now
            else:  # bridged by the older snapshot
                assert log.notes
                assert log.loaded.entries[-1:] == model.now.entries[-1:] or not model.now.entries
                assert log.loaded.promised == model.now.promised
            wrong = {e.index: e for e in log.history(0, 10_000)}
            assert all(wrong[e.index] == e for e in model.now.entries)
    assert outcomes["refused"]


def test_every_bit_of_a_durable_record_matters() -> None:
    """No bit of a durable record can turn over unnoticed while something durable follows it."""
    disk = FaultyDisk()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    entries = [
        EntryRecord(entry=Entry(index=i, ballot=Ballot(0, 1, 1), payload=b"payload"))
        for i in (1, 2)
    ]
    for entry in entries:
        log.write([entry])
        log.sync()
    log.close()
    path = FOLDER / "quolog.0000000001"
    for offset in (8192, 8192 + 512):
        length = len(disk.content(path)[offset : offset + 512].rstrip(b"\0"))
        for bit in range(offset * 8, (offset + length) * 8):
            disk.kill()
            disk.flip(path, bit)
            with pytest.raises(LogCorrupt, match=r"Record [12] .*Nothing was changed"):
                opened(disk)
            disk.flip(path, bit)
    disk.kill()
    assert len(opened(disk).loaded.entries) == 2


def test_rot_behind_an_unsynced_mark_is_known_from_the_next_record() -> None:
    """Without the ring, a later record's claim alone tells rotten from torn."""
    disk = FaultyDisk()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    for index in (1, 2):
        entry = Entry(index=index, ballot=Ballot(0, 1, 1), payload=b"x")
        log.write([EntryRecord(entry=entry)])
        log.sync()
    path = FOLDER / "quolog.0000000001"
    file = disk.open(path)
    file.write(4096, bytes(4096))
    disk.kill()
    disk.flip(path, (8192 + 20) * 8)
    with pytest.raises(LogCorrupt, match="record 2 behind it says so"):
        opened(disk)


def test_rot_of_the_last_record_is_known_from_the_ring() -> None:
    """Without a later record, the mark alone tells rotten from torn; unreadable counts as rot."""
    disk = FaultyDisk()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    log.write([PromisedRecord(ballot=Ballot(0, 1, 1))])
    log.sync()
    log.close()
    path = FOLDER / "quolog.0000000001"
    disk.kill()
    disk.make_unreadable(path, 8192 // 512)
    with pytest.raises(LogCorrupt, match="a mark says so"):
        opened(disk)


def test_a_failed_sync_is_final_and_the_next_process_writes_again() -> None:
    """The kernel forgets what it could not write: only writing it again makes it durable."""
    disk = FaultyDisk()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    log.write([PromisedRecord(ballot=Ballot(0, 5, 1))])
    disk.fail[disk.operations] = errno.EIO
    with pytest.raises(SyncFailed):
        log.sync()
    for action in (log.sync, lambda: log.write([PromisedRecord(ballot=Ballot(0, 6, 1))])):
        with pytest.raises(SyncFailed):
            action()
    disk.kill()
    log = opened(disk)
    assert log.loaded.promised == Ballot(0, 5, 1)  # told to others from now on
    disk.crash(lambda _: 0)
    assert opened(disk).loaded.promised == Ballot(0, 5, 1)


def test_a_failed_write_is_final() -> None:
    """EIO on write: nothing more is taken, and nothing acknowledged is lost."""
    disk = FaultyDisk()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    disk.fail[disk.operations] = errno.EIO
    with pytest.raises(StorageError) as caught:
        log.write([PromisedRecord(ballot=Ballot(0, 5, 1))])
    assert caught.value.code == "storage-io"
    with pytest.raises(StorageError):
        log.sync()
    disk.kill()
    assert opened(disk).position == 0


def test_a_full_disk_takes_no_entry_but_still_lets_the_node_step_down() -> None:
    """Entries are refused whole, promises fit the reserve, and with space the log goes on."""
    disk = FaultyDisk()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    disk.capacity = 0
    index, entry = 0, Entry(index=1, ballot=Ballot(0, 1, 1), payload=b"")

    def fill() -> None:
        nonlocal index, entry
        for index in range(1, 1000):
            entry = Entry(index=index, ballot=Ballot(0, 1, 1), payload=bytes(400))
            log.write([EntryRecord(entry=entry)])
            log.sync()

    with pytest.raises(DiskFull) as caught:
        fill()
    assert caught.value.hint
    assert index > 16  # the spare was used, too
    assert log.position == index - 1
    for round_ in range(2, 6):
        log.write([PromisedRecord(ballot=Ballot(0, round_, 1))])
        log.sync()
    with pytest.raises(DiskFull):
        log.write([EntryRecord(entry=entry)])
    state = b"s" * 5000
    with pytest.raises(DiskFull):
        log.save_snapshot(
            Snapshot(
                last=Key(Ballot(0, 1, 1), index - 1),
                config=CONFIG,
                state=state,
                state_hash=sha256(state).hexdigest(),
            ),
            reset=False,
        )
    disk.capacity = 1 << 30
    log.write([EntryRecord(entry=entry)])
    log.sync()
    disk.crash(lambda _: 0)
    log = opened(disk)
    assert log.loaded.promised == Ballot(0, 5, 1)
    assert [item.index for item in log.loaded.entries] == list(range(1, index + 1))


def test_a_full_disk_costs_history_first() -> None:
    """Segments that only history needs give way to new entries."""
    disk = FaultyDisk()
    roomy = StoreSizes(segment_bytes=16 << 10, reserve_bytes=2 << 10, history_bytes=1 << 30)
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=roomy)
    disk.capacity = 200 << 10
    for index in range(1, 401):
        entry = Entry(index=index, ballot=Ballot(0, 1, 1), payload=bytes(400))
        log.write([EntryRecord(entry=entry), CommitRecord(index=index)])
        log.sync()
        if index % 10 == 0:
            state = b"s%d" % index
            log.save_snapshot(
                Snapshot(
                    last=Key(Ballot(0, 1, 1), index),
                    config=CONFIG,
                    state=state,
                    state_hash=sha256(state).hexdigest(),
                ),
                reset=False,
            )
    told = [entry.index for entry in log.history(0, 1000)]
    assert told[-1] == 400
    assert 20 < len(told) < 400


def test_unsynced_writes_out_of_order_are_torn_not_rotten() -> None:
    """Two writes before one sync: the second on disk and not the first is an honest crash."""
    disk = FaultyDisk()
    log = QuorumLog.create(FOLDER, IDENTITY, disk, sizes=SIZES)
    log.write([PromisedRecord(ballot=Ballot(0, 1, 1))])
    log.sync()
    log.write([PromisedRecord(ballot=Ballot(0, 2, 1))])
    log.write([PromisedRecord(ballot=Ballot(0, 3, 1))])
    kept = iter([0, 0, 0, 1])  # names, mark, the first write, the second
    disk.crash(lambda _: next(kept, 0))
    log = opened(disk)
    assert log.loaded.promised == Ballot(0, 1, 1)
    assert "cut" in log.notes[0]
    log.write([PromisedRecord(ballot=Ballot(0, 4, 1))])
    disk.crash(lambda _: 0)
    assert opened(disk).loaded.promised == Ballot(0, 1, 1)  # what was cut does not return
