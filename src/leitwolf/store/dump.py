"""Every record of a log for people and JSON, also of a damaged log. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from leitwolf.ports.files import FileSystem
from leitwolf.store.files import OsFileSystem
from leitwolf.store.identity import read_identity
from leitwolf.store.record import Kind, StoredRecord, decode_entry, find_records, scan, seed_of
from leitwolf.store.recovery import read_whole
from leitwolf.store.segment import (
    DATA_OFFSET,
    newest_mark,
    segment_name,
    sequence_of,
    unpack_header,
)

__all__ = ["dump"]

_OS_FILES = OsFileSystem()


def dump(directory: Path, files: FileSystem = _OS_FILES) -> Iterator[dict[str, Any]]:
    """Yield what the segments hold, oldest first, one dictionary per segment, record and gap.

    ``what`` is ``segment``, ``record`` or ``unreadable``. A record has ``chained``: whether it
    continues the ones before; one that does not is a leftover, or stands behind damage.

    Raises:
        StorageError: the log's identity cannot be read.
        OSError: a file cannot be read.
    """
    seed = seed_of(read_identity(directory, files).storage)
    for name in files.names(directory):
        sequence = sequence_of(name)
        if sequence is None:
            continue
        file = files.open(directory / segment_name(sequence), write=False)
        try:
            data = read_whole(file)
        finally:
            file.close()
        yield from _segment(name, data, seed)


def _segment(name: str, data: bytes, seed: int) -> Iterator[dict[str, Any]]:
    header = unpack_header(data)
    mark = newest_mark(data)
    yield {
        "what": "segment",
        "segment": name,
        "header": None if header is None else msgspec.to_builtins(header),
        "durable": None if mark is None else mark.position,
    }
    end = DATA_OFFSET
    if header is not None:
        for record in scan(data, end, header.position, header.chain, seed):
            yield _record(name, record, chained=True)
            end = record.end
    rest = data[end:].rstrip(b"\0")
    if rest.lstrip(b"\0"):
        yield {"what": "unreadable", "segment": name, "offset": end, "bytes": len(rest)}
        for record in find_records(data, end, seed):
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
        line["change"] = None if entry is None else _readable(entry.payload)
        line["config"] = None if entry is None else msgspec.to_builtins(entry.config)
    elif record.kind is Kind.FORCED:
        line["lineage"] = _readable(record.payload)
    elif record.kind is Kind.SNAPSHOT:
        line["snapshot"] = _readable(record.payload)
    return line


def _readable(payload: bytes) -> Any:
    try:
        return msgspec.to_builtins(msgspec.msgpack.decode(payload))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return payload.hex()
