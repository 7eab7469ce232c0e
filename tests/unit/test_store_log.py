"""The quorum log on a real file system: what is written is read back, and misuse is refused."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from leitwolf.model.errors import InvariantError, LogCorrupt, StorageError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import (
    CommitRecord,
    Entry,
    EntryRecord,
    PromisedRecord,
    Snapshot,
    TruncateRecord,
)
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.store import (
    LocalRecorder,
    OsFileSystem,
    QuorumLog,
    StoreIdentity,
    StoreSizes,
    dump,
    quarantine,
)
from leitwolf.wire.ballot import Ballot, Key

IDENTITY = StoreIdentity(cluster="cluster-1", node=3, storage="storage-1")
CONFIG = QuorumConfig(acceptors=(Acceptor(id=AcceptorId(NodeId(3), "storage-1")),))
SMALL = StoreSizes(segment_bytes=32 << 10, reserve_bytes=4 << 10, history_bytes=64 << 10)
B1, B2 = Ballot(0, 1, 3), Ballot(0, 2, 1)


def entry(index: int, ballot: Ballot = B1, size: int = 20, config: bool = False) -> EntryRecord:
    payload = f"{index}@{ballot}".encode().ljust(size, b".")
    return EntryRecord(
        entry=Entry(index=index, ballot=ballot, payload=payload, config=CONFIG if config else None)
    )


def snapshot(index: int, ballot: Ballot = B1, size: int = 100) -> Snapshot:
    state = f"state {index} ".encode().ljust(size, b"s")
    return Snapshot(
        last=Key(ballot, index),
        config=CONFIG,
        state=state,
        state_hash=sha256(state).hexdigest(),
    )


def reopened(log: QuorumLog, folder: Path, sizes: StoreSizes = SMALL) -> QuorumLog:
    log.close()
    return QuorumLog.open(folder, IDENTITY, sizes=sizes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "quorum"


def test_everything_written_is_read_back(folder: Path) -> None:
    """Promise, entries with and without configuration, truncation and commit hint survive."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    log.write([PromisedRecord(ballot=B1), entry(1, config=True), entry(2), entry(3)])
    log.sync()
    log.write([CommitRecord(index=1), PromisedRecord(ballot=B2), TruncateRecord(index=3)])
    log.write([entry(3, B2)])
    log.sync()
    chain, position = log.chain, log.position
    log = reopened(log, folder)
    assert log.loaded.promised == B2
    assert log.loaded.commit == 1
    assert log.loaded.entries == (entry(1, config=True).entry, entry(2).entry, entry(3, B2).entry)
    assert (log.chain, log.position) == (chain, position)
    assert log.notes == ()
    log.close()


def test_an_entry_raises_the_promise_to_its_ballot(folder: Path) -> None:
    """R3: a log that accepted an entry of a ballot helps no lower one."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    log.write([entry(1, B2)])
    log.sync()
    log = reopened(log, folder)
    assert log.loaded.promised == B2
    log.close()


def test_many_segments_and_snapshots_keep_what_a_restart_needs(folder: Path) -> None:
    """Entries behind the newest snapshot are loaded; history stays within its size."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    for index in range(1, 1001):
        log.write([entry(index, size=300), CommitRecord(index=index)])
        log.sync()
        if index % 100 == 0:
            log.save_snapshot(snapshot(index - 10), reset=False)
    names = sorted(path.name for path in folder.iterdir())
    segments = [name for name in names if name.startswith("quolog.0")]
    assert sum(name.startswith("snapshot.") for name in names) == 2
    # 600 entries of 1 KiB each in segments of 24 KiB; two of history, those of 200 entries, slack.
    assert len(segments) <= 2 + 200 // 23 + 4
    log = reopened(log, folder)
    assert log.loaded.snapshot == snapshot(990)
    assert [item.index for item in log.loaded.entries] == list(range(991, 1001))
    assert log.loaded.commit == 1000
    log.close()


def test_history_reaches_behind_the_snapshot_and_ends_at_its_limit(folder: Path) -> None:
    """Old entries come in order, without those that were truncated."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    for index in range(1, 41):
        log.write([entry(index, size=900)])
    log.write([CommitRecord(index=30), PromisedRecord(ballot=B2), TruncateRecord(index=35)])
    log.write([entry(35, B2), CommitRecord(index=35), entry(36, B2)])
    log.sync()
    log.save_snapshot(snapshot(32), reset=False)
    found = list(log.history(0, 1000))
    assert [item.index for item in found] == list(range(1, 37))
    assert [item.ballot for item in found] == [B1] * 34 + [B2] * 2
    assert [item.index for item in log.history(20, 5)] == [21, 22, 23, 24, 25]
    assert list(log.history(36, 5)) == []
    log = reopened(log, folder)
    assert list(log.history(0, 1000)) == found
    log.close()


def test_damaged_history_gives_a_gap_and_never_a_void_entry(folder: Path) -> None:
    """A truncation lost in a damaged history segment must not bring the truncated back."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    for index in range(1, 21):
        log.write([entry(index, size=900)])
    log.write([TruncateRecord(index=10)])
    for index in range(10, 41):
        log.write([entry(index, B2, size=900)])
    log.write([CommitRecord(index=40)])
    log.sync()
    for index in range(41, 101):
        log.write([entry(index, B2, size=900), CommitRecord(index=index)])
    log.save_snapshot(snapshot(90, B2), reset=False)
    log.save_snapshot(snapshot(95, B2), reset=False)
    victim = next(
        line for line in log.dump() if line["what"] == "record" and line["kind"] == "truncate"
    )
    path = folder / victim["segment"]
    data = bytearray(path.read_bytes())
    data[victim["offset"] + 20] ^= 4
    path.write_bytes(data)
    found = list(log.history(0, 1000))
    assert {item.ballot for item in found if item.index >= 10} == {B2}
    assert 100 in {item.index for item in found}
    log.close()


def test_reset_voids_everything_before(folder: Path) -> None:
    """A snapshot installed from the leader replaces entries and snapshots, but not the promise."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    log.write([PromisedRecord(ballot=B2), entry(1), entry(2), entry(3)])
    log.sync()
    log.save_snapshot(snapshot(50, B1), reset=True)
    log.write([entry(51, B2)])
    log.sync()
    log = reopened(log, folder)
    assert log.loaded.promised == B2
    assert log.loaded.snapshot == snapshot(50, B1)
    assert log.loaded.entries == (entry(51, B2).entry,)
    assert log.loaded.commit == 50
    assert [item.index for item in log.history(0, 10)] == [51]
    log.close()


def test_a_damaged_snapshot_is_bridged_by_the_one_before(folder: Path) -> None:
    """Two snapshots are kept; entries between them are not removed."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    for index in range(1, 301):
        log.write([entry(index, size=400)])
        if index in {100, 200}:
            log.sync()
            log.save_snapshot(snapshot(index), reset=False)
    log.sync()
    newest = max(folder.glob("snapshot.*"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    log = reopened(log, folder)
    assert log.loaded.snapshot == snapshot(100)
    assert [item.index for item in log.loaded.entries] == list(range(101, 301))
    assert "damaged" in log.notes[0]
    log.close()
    for path in folder.glob("snapshot.*"):
        path.unlink()
    (folder / "quolog.0000000001").unlink()
    with pytest.raises(LogCorrupt):
        QuorumLog.open(folder, IDENTITY, sizes=SMALL)


def test_a_snapshot_that_does_not_fit_its_hash_is_refused(folder: Path) -> None:
    """Nothing is stored, and the log goes on."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    log.write([entry(1)])
    wrong = msgspec.structs.replace(snapshot(1), state=b"other")
    with pytest.raises(StorageError) as caught:
        log.save_snapshot(wrong, reset=False)
    assert caught.value.code == "snapshot-damaged"
    log.write([entry(2)])
    log.sync()
    log.close()


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([entry(2)], "entry 2 follows entry 0"),
        ([PromisedRecord(ballot=B2), PromisedRecord(ballot=B1)], "below"),
        ([CommitRecord(index=1)], "commit 1, last entry is 0"),
        ([entry(1), CommitRecord(index=1), TruncateRecord(index=1)], "committed is 1"),
    ],
)
def test_records_that_contradict_the_log_are_refused_whole(
    folder: Path, records: list[EntryRecord], text: str
) -> None:
    """An invariant breaks loudly, before a byte is written."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    with pytest.raises(InvariantError, match=text):
        log.write(records)
    assert log.position == 0
    log.write([entry(1)])
    log.sync()
    log = reopened(log, folder)
    assert log.loaded.entries == (entry(1).entry,)
    log.close()


@pytest.mark.parametrize("change", [{"cluster": "x"}, {"node": 4}, {"storage": "y"}])
def test_a_log_of_somebody_else_is_refused(folder: Path, change: dict[str, object]) -> None:
    """A state directory restored from another node or cluster is named as such."""
    QuorumLog.create(folder, IDENTITY, sizes=SMALL).close()
    mine = msgspec.structs.replace(IDENTITY, **change)
    with pytest.raises(StorageError) as caught:
        QuorumLog.open(folder, mine, sizes=SMALL)
    assert caught.value.code == "foreign-storage"
    assert next(iter(change)) in caught.value.text


def test_a_segment_of_another_log_is_refused(folder: Path, tmp_path: Path) -> None:
    """Mixing the files of two nodes is noticed although the identity file fits."""
    QuorumLog.create(folder, IDENTITY, sizes=SMALL).close()
    other = msgspec.structs.replace(IDENTITY, node=9)
    QuorumLog.create(tmp_path / "other", other, sizes=SMALL).close()
    (tmp_path / "other" / "quolog.0000000001").rename(folder / "quolog.0000000001")
    with pytest.raises(StorageError) as caught:
        QuorumLog.open(folder, IDENTITY, sizes=SMALL)
    assert caught.value.code == "foreign-storage"


def test_there_is_one_log_per_folder_and_one_process_per_log(folder: Path) -> None:
    """Creating over a log, opening none, and opening twice are refused with their codes."""
    with pytest.raises(StorageError) as caught:
        QuorumLog.open(folder, IDENTITY)
    assert caught.value.code == "no-log"
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    with pytest.raises(StorageError) as caught:
        QuorumLog.open(folder, IDENTITY)
    assert caught.value.code == "log-busy"
    log.close()
    with pytest.raises(StorageError) as caught:
        QuorumLog.create(folder, IDENTITY)
    assert caught.value.code == "log-exists"
    log = QuorumLog.open(folder, None, sizes=SMALL)
    assert log.identity == IDENTITY
    log.close()


def test_quarantine_sets_aside_and_never_overwrites(folder: Path) -> None:
    """Every quarantined log gets its own place and can be opened there."""
    targets = []
    for _ in range(2):
        QuorumLog.create(folder, IDENTITY, sizes=SMALL).close()
        targets.append(quarantine(folder))
        assert not folder.exists()
    assert targets[0] != targets[1]
    for target in targets:
        assert target.parent.name == "quarantine"
        QuorumLog.open(target, IDENTITY, sizes=SMALL).close()


def test_a_copy_from_before_is_recognised_by_the_chain(folder: Path) -> None:
    """A restored or forked log does not remember what a peer saw acknowledged."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    log.write([entry(1)])
    log.sync()
    seen_first = (log.position, log.chain)
    log.write([entry(2)])
    log.sync()
    seen = (log.position, log.chain)
    assert log.remembers(*seen)
    assert log.remembers(*seen_first)
    log.close()
    path = folder / "quolog.0000000001"
    data = bytearray(path.read_bytes())
    data[4096:8192] = bytes(4096)  # marks
    data[8192 + 512 :] = bytes(len(data) - 8192 - 512)
    path.write_bytes(data)
    log = QuorumLog.open(folder, IDENTITY, sizes=SMALL)
    assert log.remembers(*seen_first)
    assert log.remembers(*seen) is False
    log.write([entry(2, B2)])
    log.write([entry(3, B2)])
    log.sync()
    assert log.remembers(*seen) is False
    log.close()


def test_an_entry_longer_than_a_segment_gets_one_of_its_own(folder: Path) -> None:
    """One batch is one write, whatever its length."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    log.write([entry(1)])
    log.write([entry(2, size=100_000), entry(3, size=70_000)])
    log.write([entry(4)])
    log.sync()
    log = reopened(log, folder)
    assert [len(item.payload) for item in log.loaded.entries] == [20, 100_000, 70_000, 20]
    log.close()


def test_dump_shows_records_also_behind_damage(folder: Path) -> None:
    """People see what is there, what is unreadable, and what stands behind it."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    for index in range(1, 6):
        log.write([entry(index)])
        log.sync()
    log.close()
    assert [line["what"] for line in dump(folder)] == ["identity", "segment"] + ["record"] * 5
    assert not [line for line in dump(folder) if "bad" in line]
    path = folder / "quolog.0000000001"
    data = bytearray(path.read_bytes())
    data[8192 + 2 * 512 + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogCorrupt) as caught:
        QuorumLog.open(folder, IDENTITY, sizes=SMALL)
    assert "Record 3" in caught.value.text
    assert "entries up to 2" in caught.value.text
    assert caught.value.hint
    assert path.read_bytes() == data
    lines = list(dump(folder))
    assert [line["what"] for line in lines] == (
        ["identity", "segment", "record", "record", "unreadable", "record", "record"]
    )
    assert [line.get("chained") for line in lines[2:]] == [True, True, None, False, False]
    assert [line["what"] for line in lines if "bad" in line] == ["unreadable"]
    assert msgspec.json.encode(lines)


def several_segments(folder: Path) -> list[Path]:
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    for index in range(1, 41):
        log.write([entry(index, size=900)])
    log.sync()
    log.close()
    return sorted(folder.glob("quolog.0*"))


def test_dump_misses_what_a_later_segment_goes_on_behind(folder: Path) -> None:
    """The end of a segment is gone, and all that it says of itself: the next one tells."""
    path = several_segments(folder)[0]
    records = [line for line in dump(folder) if line["what"] == "record"]
    end = [line["offset"] for line in records if line["segment"] == path.name][-1]
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(4096) + data[8192:end] + bytes(len(data) - end))
    [bad] = [line for line in dump(folder) if "bad" in line]
    assert (bad["what"], bad["segment"]) == ("unreadable", path.name)


def test_dump_beside_a_writer_that_begins_a_segment(folder: Path) -> None:
    """A segment that came while the log was read is not missing."""
    newest = several_segments(folder)[-1]

    class Early(OsFileSystem):
        calls = 0

        def names(self, folder: Path) -> list[str]:
            self.calls += 1
            return [name for name in super().names(folder) if self.calls > 1 or name != newest.name]

    assert not [line for line in dump(folder, Early()) if "bad" in line]
    newest.unlink()
    assert [line["what"] for line in dump(folder) if "bad" in line] == ["missing"]


def test_losing_the_newest_segment_is_noticed(folder: Path) -> None:
    """The seal in the segment before says that there was another one."""
    several_segments(folder)[-1].unlink()
    with pytest.raises(LogCorrupt, match="missing"):
        QuorumLog.open(folder, IDENTITY, sizes=SMALL)


def test_recorder_keeps_the_newest_lines(tmp_path: Path) -> None:
    """A bounded ring: the oldest lines go, long ones are cut, cleared ones do not return."""
    path = tmp_path / "recorder"
    recorder = LocalRecorder(path)
    for number in range(600):
        recorder.append(number, f"line {number}")
    recorder.append(600, "ä" * 300)
    recorder.close()
    recorder = LocalRecorder(path)
    lines = recorder.read()
    assert len(lines) == 512
    assert [line.at_wall_ns for line in lines] == list(range(89, 601))
    assert lines[0].text == "line 89"
    assert lines[-1].text.endswith("ä…")
    recorder.clear(up_to=lines[-2].serial)
    assert recorder.read() == lines[-1:]
    recorder.append(601, "after")
    recorder.close()
    recorder = LocalRecorder(path)
    assert [line.serial for line in recorder.read()] == [601, 602]
    recorder.clear()
    assert recorder.read() == []
    recorder.close()


def test_recorder_leaves_out_a_torn_line(tmp_path: Path) -> None:
    """Half a line is no line."""
    path = tmp_path / "recorder"
    recorder = LocalRecorder(path)
    recorder.append(1, "whole")
    recorder.append(2, "torn")
    recorder.close()
    data = bytearray(path.read_bytes())
    data[2 * 256 + 24] ^= 1
    path.write_bytes(data)
    recorder = LocalRecorder(path)
    assert [line.text for line in recorder.read()] == ["whole"]
    recorder.close()


def test_the_only_snapshot_may_be_lost_as_long_as_nothing_was_dropped_for_it(folder: Path) -> None:
    """Segments go only when two snapshots stand for them."""
    sizes = StoreSizes(segment_bytes=32 << 10, reserve_bytes=4 << 10, history_bytes=0)
    log = QuorumLog.create(folder, IDENTITY, sizes=sizes)
    for index in range(1, 101):
        log.write([entry(index, size=900)])
    log.save_snapshot(snapshot(100), reset=False)
    for index in range(101, 201):
        log.write([entry(index, size=900)])
    log.close()
    next(folder.glob("snapshot.*")).unlink()
    log = QuorumLog.open(folder, IDENTITY, sizes=sizes)
    assert log.loaded.snapshot is None
    assert [item.index for item in log.loaded.entries] == list(range(1, 201))
    log.close()


def test_the_last_record_of_a_full_segment_cannot_vanish(folder: Path) -> None:
    """The next segment, even an empty one, says how far the one before went."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    index = 0
    while not (folder / "quolog.0000000002").exists():
        index += 1
        log.write([entry(index, size=900)])
    log.close()
    second = folder / "quolog.0000000002"
    data = second.read_bytes()
    second.write_bytes(data[:4096] + bytes(len(data) - 4096))  # what came after never arrived
    first = folder / "quolog.0000000001"
    content = bytearray(first.read_bytes())
    content[len(bytes(content).rstrip(b"\0")) - 1] ^= 1
    first.write_bytes(content)
    with pytest.raises(LogCorrupt, match="a later segment goes on behind it"):
        QuorumLog.open(folder, IDENTITY, sizes=SMALL)


def test_a_damaged_history_segment_stops_nobody(folder: Path) -> None:
    """What only `why` and `log` would read does not keep a node from voting."""
    log = QuorumLog.create(folder, IDENTITY, sizes=SMALL)
    for index in range(1, 101):
        log.write([entry(index, size=900), CommitRecord(index=index)])
        if index in {70, 80}:
            log.save_snapshot(snapshot(index), reset=False)
    log.close()
    oldest = min(folder.glob("quolog.0*"))
    oldest.write_bytes(b"x" + oldest.read_bytes()[1:])
    log = QuorumLog.open(folder, IDENTITY, sizes=SMALL)
    assert [item.index for item in log.loaded.entries] == list(range(81, 101))
    assert "unreachable" in log.notes[0]
    assert list(log.history(0, 1000))[-1].index == 100
    log.close()
