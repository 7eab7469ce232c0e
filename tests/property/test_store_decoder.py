"""The decoders of the store against arbitrary and damaged bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leitwolf.model.errors import StorageError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import CommitRecord, Entry, EntryRecord, PromisedRecord, TruncateRecord
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.sim.disk import FaultyDisk
from leitwolf.store.identity import IDENTITY_NAME, StoreIdentity, read_identity, write_identity
from leitwolf.store.record import (
    NO_CHAIN,
    decode_entry,
    decode_record,
    encode_record,
    fields_of,
    find_records,
    scan,
    seed_of,
)
from leitwolf.store.segment import newest_mark, sequence_of, unpack_header
from leitwolf.wire.ballot import Ballot

SEED = seed_of("storage")
CONFIG = QuorumConfig(acceptors=(Acceptor(id=AcceptorId(NodeId(1), "storage")),))
numbers = st.integers(0, (1 << 64) - 1)
ballots = st.builds(Ballot, st.integers(0, (1 << 32) - 1), numbers, st.integers(0, (1 << 32) - 1))
entries = st.builds(
    Entry,
    index=numbers,
    ballot=ballots,
    payload=st.binary(max_size=600),
    config=st.sampled_from([None, CONFIG]),
)
records = st.one_of(
    st.builds(EntryRecord, entry=entries),
    st.builds(PromisedRecord, ballot=ballots),
    st.builds(TruncateRecord, index=numbers),
    st.builds(CommitRecord, index=numbers),
)


def chained(items: list[object]) -> bytes:
    data, chain = b"", NO_CHAIN
    for number, item in enumerate(items):
        part, chain = encode_record(
            fields_of(item), position=number + 1, synced=0, chain=chain, seed=SEED
        )  # type: ignore[arg-type]
        data += part
    return data


@given(st.lists(records, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_records_come_back_as_they_were(items: list[object]) -> None:
    """Every kind of record, with every ballot and index that fits, in its order."""
    found = list(scan(chained(items) + bytes(200), 0, 0, NO_CHAIN, SEED))
    assert [fields_of(item) for item in items] == [  # type: ignore[arg-type]
        (record.kind, record.ballot, record.entry_index, record.payload) for record in found
    ]
    for item, record in zip(items, found, strict=True):
        if isinstance(item, EntryRecord):
            assert decode_entry(record) == item.entry


@given(st.lists(records, min_size=1, max_size=4), st.data())
@settings(max_examples=200, deadline=None)
def test_damage_cuts_the_sequence_and_changes_nothing(
    items: list[object], data: st.DataObject
) -> None:
    """Whatever bytes are overwritten, what the scan still gives is a prefix of the truth."""
    content = chained(items)
    truth = list(scan(content, 0, 0, NO_CHAIN, SEED))
    start = data.draw(st.integers(0, len(content) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=40))
    damaged = (content[:start] + junk + content[start + len(junk) :])[: len(content)]
    found = list(scan(damaged, 0, 0, NO_CHAIN, SEED))
    assert found == truth[: len(found)]
    if damaged != content:
        assert len(found) < len(truth)


@given(st.binary(max_size=3000), st.integers(-10, 3000))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_no_record_and_no_crash(content: bytes, offset: int) -> None:
    """Decoders answer None or nothing; they never raise."""
    decode_record(content, offset, SEED)
    assert list(scan(content, 0, 0, NO_CHAIN, SEED)) == []
    list(find_records(content, 0, SEED))
    assert unpack_header(content.ljust(4096, b"\0")) is None
    assert unpack_header(content) is None
    newest_mark(bytes(4096) + content)


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_only_segment_names_have_a_sequence(name: str) -> None:
    """Foreign files in the folder are left alone."""
    sequence = sequence_of(f"quolog.{name}")
    assert sequence is None or f"{sequence:010d}" == name


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_a_damaged_identity_is_reported_as_such(content: bytes) -> None:
    """The identity file is checked before anything is believed."""
    disk, folder = FaultyDisk(), Path("/q")
    identity = StoreIdentity(cluster="c", node=1, storage="s")
    write_identity(folder, identity, disk)
    assert read_identity(folder, disk) == identity
    file = disk.open(folder / IDENTITY_NAME, create=True)
    file.write(0, content)
    with pytest.raises(StorageError) as caught:
        read_identity(folder, disk)
    assert caught.value.code in {"identity-damaged", "format-unknown"}


@given(records, records, records)
@settings(max_examples=50, deadline=None)
def test_a_whole_record_of_another_past_does_not_continue_this_one(
    first: object, second: object, other: object
) -> None:
    """Position and checksum may fit: only the chain shows that a tail belongs to a cut past."""
    past = chained([other, second])
    now = chained([first])
    stale = past[len(chained([other])) :]
    found = list(scan(now + stale, 0, 0, NO_CHAIN, SEED))
    assert len(found) == (2 if fields_of(first) == fields_of(other) else 1)  # type: ignore[arg-type]
