"""Every record of a log for people and JSON, also of a damaged log. Changes nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from leitwolf.model.errors import StorageError
from leitwolf.ports.files import FileSystem
from leitwolf.store.files import OsFileSystem
from leitwolf.store.identity import StoreIdentity, read_identity
from leitwolf.store.record import Kind, StoredRecord, decode_entry, find_records, scan, seed_of
from leitwolf.store.recovery import read_whole
from leitwolf.store.segment import (
    DATA_OFFSET,
    SEALED,
    SegmentHeader,
    SnapshotReference,
    newest_mark,
    read_header,
    segment_name,
    sequence_of,
    unpack_header,
)
from leitwolf.store.snapshots import read_snapshot

__all__ = ["dump"]

_OS_FILES = OsFileSystem()
_reference = msgspec.msgpack.Decoder(SnapshotReference)


def dump(directory: Path, files: FileSystem = _OS_FILES) -> Iterator[dict[str, Any]]:
    """Yield what a folder holds, oldest first, one dictionary per segment, record and gap.

    ``what`` is ``identity``, ``segment``, ``missing`` (a segment), ``record``, ``unreadable`` or
    ``snapshot``. What is bad has ``bad``: in words, why. A record has ``chained``: whether it
    continues the ones before; one that does not is a leftover, or stands behind damage. Heartbeat
    keys are left out. Works beside the process that writes the log; then the last batch may look
    unfinished.

    Raises:
        StorageError: ``no-log``, there is nothing to be read.
        OSError: a file cannot be read.
    """
    names = [name for name in files.names(directory) if sequence_of(name)]
    headers = {name: _header(directory, name, files) for name in names}
    identity, fault = _identity(directory, headers, files)
    yield {"what": "identity", **msgspec.to_builtins(identity), **({"bad": fault} if fault else {})}
    seed = seed_of(identity.storage)
    expected = 0
    snapshots: tuple[SnapshotReference, ...] = ()
    for name in names:
        sequence = sequence_of(name) or 0
        for number in range(expected, sequence) if expected else ():
            yield {"what": "missing", "segment": segment_name(number), "bad": "no such file"}
        expected = sequence + 1
        data = _content(directory / name, files)
        if data is None:
            continue  # it became history that is not kept while this was read
        header = unpack_header(data)
        snapshots = header.snapshots if header is not None else snapshots
        next_name = segment_name(sequence + 1)
        after = headers.get(next_name)
        last = name == names[-1] and next_name not in files.names(directory)  # as it is by now
        for line in _segment(name, data, seed, after=after, last=last):
            reference = line.pop("reference", None)
            if reference is not None:
                snapshots = (*snapshots, reference)[-2:]
            yield line
    for reference in snapshots:
        whole = read_snapshot(directory, reference, files) is not None
        line = {"what": "snapshot", "name": reference.name, "index": reference.last.index}
        yield line if whole else {**line, "bad": "damaged or missing"}


def _content(path: Path, files: FileSystem) -> bytes | None:
    try:
        file = files.open(path, write=False)
    except FileNotFoundError:
        return None
    try:
        return read_whole(file)
    finally:
        file.close()


def _header(directory: Path, name: str, files: FileSystem) -> SegmentHeader | None:
    try:
        file = files.open(directory / name, write=False)
    except FileNotFoundError:
        return None
    try:
        return read_header(file)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    finally:
        file.close()


def _identity(
    directory: Path, headers: Mapping[str, SegmentHeader | None], files: FileSystem
) -> tuple[StoreIdentity, str]:
    """Return whose log it is: what its file says, or else a segment, and what is wrong."""
    try:
        return read_identity(directory, files), ""
    except StorageError as error:
        for header in headers.values():
            if header is not None:
                return header.identity, error.text
        raise


def _segment(
    name: str, data: bytes, seed: int, *, after: SegmentHeader | None, last: bool
) -> Iterator[dict[str, Any]]:
    """Yield what a segment holds; ``after``: header of the next one, ``last``: there is none."""
    header = unpack_header(data)
    mark = newest_mark(data)
    first = {
        "what": "segment",
        "segment": name,
        "header": None if header is None else msgspec.to_builtins(header),
        "durable": None if mark is None else mark.position,
    }
    yield first if header is not None else {**first, "bad": "its header is damaged"}
    end, position = DATA_OFFSET, 0
    if header is not None:
        position = header.position
        for record in scan(data, end, header.position, header.chain, seed):
            yield _record(name, record, chained=True)
            end, position = record.end, record.position
    rest = data[end:].rstrip(b"\0")
    later = list(find_records(data, end, seed))
    sealed = mark is not None and mark.end == SEALED
    confirmed = (
        (mark is not None and mark.position > position)
        or any(record.synced > position for record in later)
        or (header is None and bool(later))
        or (after is not None and after.position > position)
    )
    if rest.lstrip(b"\0") or confirmed:
        line = {"what": "unreadable", "segment": name, "offset": end, "bytes": len(rest)}
        if confirmed:
            line["bad"] = f"record {position + 1} was durable" if position else "records are lost"
        yield line
    elif last and sealed:
        yield {"what": "missing", "segment": name, "bad": "the segment behind it is gone"}
    for record in later:
        yield _record(name, record, chained=False)


def _record(name: str, record: StoredRecord, *, chained: bool) -> dict[str, Any]:
    line: dict[str, Any] = {
        "what": "record",
        "segment": name,
        "offset": record.offset,
        "position": record.position,
        "durable_before": record.synced,
        "kind": record.kind.name.lower(),
        "ballot": str(record.ballot),
        "index": record.entry_index,
        "chain": record.chain.hex(),
        "chained": chained,
    }
    if record.kind is Kind.ENTRY:
        entry = decode_entry(record)
        if entry is None:
            line["bad"] = "no entry of this version"
        line["change"] = None if entry is None else _public(_readable(entry.payload))
        line["config"] = None if entry is None else msgspec.to_builtins(entry.config)
    elif record.kind is Kind.FORCED:
        line["lineage"] = _readable(record.payload)
    elif record.kind is Kind.SNAPSHOT:
        line["snapshot"] = _readable(record.payload)
        if chained:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                line["reference"] = _reference.decode(record.payload)
    elif record.kind is Kind.WITNESS:
        line["witness"] = _readable(record.payload)
    return line


def _readable(payload: bytes) -> Any:
    try:
        return msgspec.to_builtins(msgspec.msgpack.decode(payload))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return payload.hex()


def _public(change: Any) -> Any:
    """Leave the heartbeat keys out of a change; dumps are shown around."""
    if isinstance(change, dict):
        for event in change.get("events", ()):
            if isinstance(event, dict) and event.get("kind") == "KeysSet":
                event["keys"] = len(event["keys"])
    return change
