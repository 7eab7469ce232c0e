"""The quorum log of a node on disk.

Rules
    - R4: what :meth:`QuorumLog.write` took is durable when :meth:`QuorumLog.sync` returned.
    - A2: a sync that failed is never retried; the log refuses everything afterwards. The next
      process writes again what no mark vouches for, since a kernel may forget a failed page.
    - No sector with a durable record is ever written again.
    - Nothing needed is removed before what replaces it is durable.
    - A full disk is noticed before anything is written: the next segment is allocated ahead.

Theory of operation
    Records go into segments (:mod:`leitwolf.store.segment`), one write per batch. Beside the newest
    segment a zeroed spare waits; when a batch does not fit, the log is synced, the spare gets its
    header and its name, and another spare is made. Without space for another spare the log goes on
    until its last segment is full but for a reserve that takes no entries.
    :mod:`leitwolf.store.recovery` reads it all back.

What this does not guarantee: see :mod:`leitwolf.store.recovery`. One thread writes; ``history`` and
``dump`` may run in others.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from leitwolf.model.errors import DiskFull, StorageError, SyncFailed, check
from leitwolf.model.log import Entry, EntryRecord, Loaded, Record, Snapshot
from leitwolf.ports.files import File, FileSystem
from leitwolf.store.dump import dump
from leitwolf.store.files import OsFileSystem
from leitwolf.store.head import Contradiction, Head
from leitwolf.store.history import chain_at, history
from leitwolf.store.identity import (
    IDENTITY_NAME,
    StoreIdentity,
    read_identity,
    same_identity,
    write_identity,
)
from leitwolf.store.record import Kind, encode_record, fields_of, next_sector, seed_of
from leitwolf.store.recovery import Recovery, recover
from leitwolf.store.retention import drop_history, is_expendable, replay_start
from leitwolf.store.segment import (
    DATA_OFFSET,
    SEALED,
    SPARE_NAME,
    Mark,
    Segment,
    SegmentHeader,
    SnapshotReference,
    pack_header,
    pack_mark,
    segment_name,
    sequence_of,
)
from leitwolf.store.sizes import StoreSizes
from leitwolf.store.snapshots import check_snapshot, is_snapshot_name, write_snapshot
from leitwolf.wire.ballot import Ballot

__all__ = ["QuorumLog"]

_LOCK_NAME = "lock"
_OS_FILES = OsFileSystem()
_DEFAULT_SIZES = StoreSizes()
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ZEROS = bytes(1 << 20)


def _storage_error(error: OSError, action: str) -> StorageError:
    if error.errno in _NO_SPACE:
        return DiskFull(
            f"No space to {action}: {error}.",
            hint="Free space on the file system of the state directory; the log goes on by itself.",
        )
    return StorageError(f"Failed to {action}: {error}.", code="storage-io")


class QuorumLog:
    """The log of one acceptor. Made by :meth:`create` and :meth:`open` only."""

    def __init__(
        self,
        directory: Path,
        identity: StoreIdentity,
        files: FileSystem,
        sizes: StoreSizes,
        lock: File,
    ) -> None:
        self.identity = identity
        self.loaded = Loaded()
        self.notes: tuple[str, ...] = ()
        """What opening repaired, in words."""
        self._directory = directory
        self._files = files
        self._sizes = sizes
        self._lock = lock
        self._seed = seed_of(identity.storage)
        self._head = Head()
        self._synced = 0
        self._offset = DATA_OFFSET
        self._segments: tuple[Segment, ...] = ()
        self._file: File | None = None
        self._spare_size = 0
        self._marks = 0
        self._failed = ""

    # --- making and opening ----------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        directory: Path,
        identity: StoreIdentity,
        files: FileSystem = _OS_FILES,
        *,
        sizes: StoreSizes = _DEFAULT_SIZES,
    ) -> QuorumLog:
        """Make an empty log; the folder may exist, but must hold no log.

        Raises:
            StorageError: ``log-exists``; ``log-busy`` another process holds it.
            DiskFull: no space for the first segments.
        """
        try:
            files.make_folder(directory)
            log = cls(directory, identity, files, sizes, _take_lock(directory, files))
            try:
                log._begin()
            except BaseException:
                log.close()
                raise
        except OSError as error:
            raise _storage_error(error, f"create a quorum log in {directory}") from error
        return log

    @classmethod
    def open(
        cls,
        directory: Path,
        identity: StoreIdentity | None,
        files: FileSystem = _OS_FILES,
        *,
        sizes: StoreSizes = _DEFAULT_SIZES,
    ) -> QuorumLog:
        """Read a log and make it ready to be written.

        Args:
            directory: the folder of the log.
            identity: whose log it must be; None: whatever is there.
            files: the file system.
            sizes: limits of space.

        Raises:
            LogCorrupt: a record that was durable is unreadable; says which, what can be read, and
                how to go on. Nothing was changed.
            StorageError: ``no-log``, ``foreign-storage``, ``identity-damaged``, ``format-unknown``,
                ``log-busy``, ``storage-io``.
            SyncFailed: the tail could not be made durable.
        """
        try:
            found = read_identity(directory, files)
            if identity is not None:
                same_identity(directory, found, identity)
            log = cls(directory, found, files, sizes, _take_lock(directory, files))
            try:
                log._resume(recover(directory, found, files))
            except BaseException:
                log.close()
                raise
        except OSError as error:
            raise _storage_error(error, f"open the quorum log in {directory}") from error
        return log

    def _begin(self) -> None:
        names = self._files.names(self._directory)
        leftovers = [name for name in names if sequence_of(name) or is_snapshot_name(name)]
        if IDENTITY_NAME in names or any(not self._is_empty(name) for name in leftovers):
            raise StorageError(
                f"There is a quorum log in {self._directory} already.",
                code="log-exists",
                hint="Set it aside first if this node is to begin anew.",
            )
        for name in (*leftovers, *(name for name in names if name.endswith(".tmp"))):
            self._files.remove(self._directory / name)
        self._make_spare(self._sizes.segment_bytes)
        self._activate()
        self._make_spare(self._sizes.segment_bytes)
        write_identity(self._directory, self.identity, self._files)

    def _is_empty(self, name: str) -> bool:
        """Return whether a file is a segment without records, left by a creation that crashed."""
        file = self._files.open(self._directory / name, write=False)
        try:
            return not file.read(DATA_OFFSET, file.size()).strip(b"\0") and bool(sequence_of(name))
        finally:
            file.close()

    def _resume(self, recovery: Recovery) -> None:
        self._segments = recovery.segments
        self._head = recovery.head
        self._offset = recovery.tail.end
        self._marks = recovery.tail.mark_serial
        self.notes = recovery.notes
        self._file = self._files.open(recovery.segments[-1].path)
        if recovery.tail.content:
            self._file.write(recovery.tail.offset, recovery.tail.content)
        # The process before may have died between a write and its sync: what was read here came
        # from memory, perhaps. It is told to nobody before it is durable.
        self._sync_file()
        self._sync_names()
        self._note_synced()
        self._tidy()
        self._ensure_spare()
        self.loaded = Loaded(
            promised=self._head.promised,
            snapshot=recovery.snapshot,
            entries=recovery.entries,
            commit=self._head.commit,
            witnesses=self._head.witnesses,
            lineage=self._head.lineage,
        )

    def _tidy(self) -> None:
        """Remove what crashes left behind, and history that cannot be reached any more."""
        kept = {segment.path.name for segment in self._segments}
        lost = [name for name in self._files.names(self._directory) if sequence_of(name)]
        if len(lost) > len(kept):
            self.notes = (*self.notes, f"removed {len(lost) - len(kept)} unreachable segments")
        kept.update(reference.name for reference in self._head.snapshots)
        for name in self._files.names(self._directory):
            ours = name.endswith(".tmp") or sequence_of(name) is not None or is_snapshot_name(name)
            if ours and name not in kept:
                self._files.remove(self._directory / name)
            elif name == SPARE_NAME:
                spare = self._files.open(self._directory / name, write=False)
                self._spare_size = spare.size()
                spare.close()

    # --- reading ---------------------------------------------------------------------------------

    @property
    def chain(self) -> bytes:
        """Head of the hash chain over everything written; durable after :meth:`sync`."""
        return self._head.chain

    @property
    def position(self) -> int:
        """Number of the last record written; grows by one per record for the life of the log."""
        return self._head.position

    @property
    def short_of_space(self) -> bool:
        """Whether no further segment could be made: soon no entry can be written any more."""
        return self._spare_size == 0

    def remembers(self, position: int, chain: bytes) -> bool | None:
        """Return whether this log held ``chain`` at ``position``, as a peer saw it acknowledged.

        False: this log forgot what it acknowledged (restored copy, cloned disk): it must not vote.
        None: the record is no longer kept, so nobody can say.
        """
        if position > self._head.position:
            return False
        if position == self._head.position:
            return chain == self._head.chain
        found = chain_at(self._segments, position, self._files, self._seed)
        return None if found is None else found == chain

    def history(self, after: int, limit: int) -> Iterator[Entry]:
        """Yield up to ``limit`` entries with an index above ``after``, oldest first.

        Also those behind the snapshot, as far as they are kept. A gap in the indices means that
        entries are not kept, were never here, or that old history is damaged; none is invented.
        """
        return history(self._segments, after, limit, self._files, self._seed)

    def dump(self) -> Iterator[dict[str, Any]]:
        """Yield every record for people; see :func:`leitwolf.store.dump.dump`."""
        return dump(self._directory, self._files)

    # --- writing ---------------------------------------------------------------------------------

    def write(self, records: Sequence[Record]) -> None:
        """Append records in one write; not durable before :meth:`sync`.

        Raises:
            InvariantError: a record contradicts the log; nothing was written.
            DiskFull: no space; nothing was written, and the log goes on when there is some.
            StorageError: the disk refused to write; the log refuses everything afterwards.
        """
        self._write(
            [fields_of(record) for record in records],
            small=not any(isinstance(record, EntryRecord) for record in records),
        )

    def _write(self, batch: Sequence[tuple[Kind, Ballot, int, bytes]], *, small: bool) -> None:
        self._usable()
        if not batch:
            return
        head, parts = self._head.copy(), []
        for fields in batch:
            try:
                head.take(*fields)
            except Contradiction as error:
                check(condition=False, text=f"record contradicts the log: {error}")
            head.position += 1
            data, head.chain = encode_record(
                fields, position=head.position, synced=self._synced, chain=head.chain,
                seed=self._seed,
            )  # fmt: skip
            parts.append(data)
        data = b"".join(parts)
        length = next_sector(len(data))
        self._make_room(length, small=small)
        try:
            self._newest().write(self._offset, data.ljust(length, b"\0"))
        except OSError as error:  # also of space: it was allocated, so part may be written
            self._failed = f"Failed to write to the quorum log: {error}."
            raise StorageError(self._failed, code="storage-io") from error
        self._head = head
        self._offset += length

    def sync(self) -> None:
        """Make everything written durable.

        Raises:
            SyncFailed: what was written may be lost. Fatal: every call raises from now on.
        """
        self._usable()
        if self._synced < self._head.position:
            self._sync_file()
            self._note_synced()

    def _sync_file(self) -> None:
        try:
            self._newest().sync()
        except OSError as error:
            self._failed = f"Failed to sync the quorum log: {error}."
            raise SyncFailed(self._failed) from error

    def _sync_names(self) -> None:
        """Make names durable; as after any sync, nobody knows what a failure left behind."""
        try:
            self._files.sync_folder(self._directory)
        except OSError as error:
            self._failed = f"Failed to sync the folder of the quorum log: {error}."
            raise SyncFailed(self._failed) from error

    def _note_synced(self) -> None:
        """Leave a mark; it becomes durable with the next sync."""
        self._synced = self._head.position
        mark = Mark(self._marks, self._head.position, self._offset, self._head.chain)
        try:
            self._newest().write(*pack_mark(mark))
        except OSError as error:
            self._failed = f"Failed to mark what is durable in the quorum log: {error}."
            raise StorageError(self._failed, code="storage-io") from error
        self._marks += 1

    def _break(self, error: OSError, action: str) -> StorageError:
        """Refuse everything from now on, unless only space is missing; return what to raise."""
        failure = _storage_error(error, action)
        if not isinstance(failure, DiskFull):
            self._failed = failure.text
        return failure

    def _usable(self) -> None:
        if self._failed:
            raise SyncFailed(f"The quorum log failed before: {self._failed}")
        check(self._file is not None, "the quorum log is closed")

    def _newest(self) -> File:
        check(self._file is not None, "no segment is open")
        return self._file  # type: ignore[return-value]  # checked

    def close(self) -> None:
        """Make everything durable if possible, and release the log."""
        if self._file is not None:
            if not self._failed:
                with suppress(StorageError, OSError):  # nobody was told that the rest is durable
                    self.sync()
                    self._file.sync()  # the mark
            self._file.close()
            self._file = None
        self._lock.close()

    # --- segments --------------------------------------------------------------------------------

    def _make_room(self, length: int, *, small: bool) -> None:
        """Make sure that ``length`` bytes fit into the newest segment.

        Entries leave the reserve alone, unless a spare stands ready behind this segment.
        """
        room = self._segments[-1].header.size - self._offset
        if length <= room - (0 if self._spare_size else self._sizes.reserve_bytes):
            return
        needed = max(self._sizes.segment_bytes, DATA_OFFSET + length + self._sizes.reserve_bytes)
        try:
            if self._spare_size < needed:
                self._make_spare_or_forget(needed)
            self.sync()
            self._activate()
        except OSError as error:
            failure = self._break(error, "begin another segment of the quorum log")
            if self._failed or not small or length > room:
                raise failure from error
            return
        try:
            self._ensure_spare()
        except OSError as error:
            raise self._break(error, "prepare another segment of the quorum log") from error

    def _ensure_spare(self) -> None:
        """Make the next segment ahead; without space the log goes on without it."""
        if self._spare_size >= self._sizes.segment_bytes:
            return
        try:
            self._make_spare_or_forget(self._sizes.segment_bytes)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise

    def _make_spare_or_forget(self, size: int) -> None:
        """Make a spare, at the cost of history if there is no space otherwise."""
        while True:
            try:
                self._make_spare(size)
            except OSError as error:
                if error.errno not in _NO_SPACE or not self._drop_oldest():
                    raise
            else:
                return

    def _make_spare(self, size: int) -> None:
        temporary = self._directory / f"{SPARE_NAME}.tmp"
        try:
            file = self._files.open(temporary, create=True)
            try:
                for offset in range(0, size, len(_ZEROS)):
                    file.write(offset, _ZEROS[: size - offset])
                file.sync()
            finally:
                file.close()
        except OSError:
            with suppress(OSError):  # the first error is the one to tell
                self._files.remove(temporary)
            raise
        self._files.rename(temporary, self._directory / SPARE_NAME)
        self._files.sync_folder(self._directory)
        self._spare_size = size

    def _activate(self) -> None:
        """Give the spare its header and its name: it is the newest segment now."""
        sequence = self._segments[-1].header.sequence + 1 if self._segments else 1
        header = SegmentHeader(
            sequence=sequence,
            size=self._spare_size,
            identity=self.identity,
            position=self._head.position,
            chain=self._head.chain,
            promised=self._head.promised,
            commit=self._head.commit,
            last_index=self._head.last_index,
            snapshots=self._head.snapshots,
            witnesses=self._head.witnesses,
            replay_from=self._replay_from(sequence),
            lineage=self._head.lineage,
        )
        file = self._files.open(self._directory / SPARE_NAME)
        path = self._directory / segment_name(sequence)
        try:
            file.write(0, pack_header(header))
            file.sync()
            self._files.rename(self._directory / SPARE_NAME, path)
            self._sync_names()
        except BaseException:
            file.close()
            raise
        former, seal = self._file, Mark(self._marks, self._head.position, SEALED, self._head.chain)
        self._file, self._spare_size, self._offset, self._marks = file, 0, DATA_OFFSET, 0
        self._segments = (*self._segments, Segment(path, header))
        if former is None:
            return
        try:
            former.write(*pack_mark(seal))
        except OSError as error:
            self._failed = f"Failed to seal a segment of the quorum log: {error}."
            raise StorageError(self._failed, code="storage-io") from error
        finally:
            former.close()

    def _replay_from(self, sequence: int) -> int:
        return replay_start(self._segments, self._head) if self._segments else sequence

    # --- snapshots and history -------------------------------------------------------------------

    def save_snapshot(self, snapshot: Snapshot, *, reset: bool) -> None:
        """Store a snapshot durably; what it covers becomes history.

        Everything written before is durable afterwards, too.

        Args:
            snapshot: own, or installed from the leader.
            reset: the log before it is void as a whole.

        Raises:
            StorageError: ``snapshot-damaged``: it does not fit its own hash; nothing was changed.
            DiskFull: no space; nothing was changed.
            SyncFailed: fatal.
        """
        self._usable()
        check_snapshot(snapshot)
        try:
            name, digest = self._write_snapshot(snapshot)
        except OSError as error:
            raise self._break(error, "store a snapshot") from error
        reference = SnapshotReference(last=snapshot.last, name=name, digest=digest, reset=reset)
        payload = msgspec.msgpack.encode(reference)
        fields = (Kind.SNAPSHOT, snapshot.last.ballot, snapshot.last.index, payload)
        self._write([fields], small=True)
        self.sync()
        try:
            self._drop_old()
        except OSError as error:
            raise self._break(error, "remove old segments of the quorum log") from error

    def _write_snapshot(self, snapshot: Snapshot) -> tuple[str, bytes]:
        while True:
            try:
                return write_snapshot(
                    self._directory, snapshot, self._head.position + 1, self._files
                )
            except OSError as error:
                if error.errno not in _NO_SPACE or not self._drop_oldest():
                    raise

    def _drop_old(self) -> None:
        kept = {reference.name for reference in self._head.snapshots}
        for name in self._files.names(self._directory):
            if is_snapshot_name(name) and name not in kept:
                self._files.remove(self._directory / name)
        first = replay_start(self._segments, self._head)
        count = drop_history(self._segments, first, self._sizes, self._files)
        for _ in range(count):
            self._drop_oldest()
        self._ensure_spare()

    def _drop_oldest(self) -> bool:
        """Remove the oldest segment if a restart does not need it."""
        if not is_expendable(self._segments, self._head):
            return False
        oldest, *rest = self._segments
        self._files.remove(oldest.path)
        self._segments = tuple(rest)
        self._sync_names()
        return True


def _take_lock(directory: Path, files: FileSystem) -> File:
    try:
        return files.lock(directory / _LOCK_NAME)
    except BlockingIOError as error:
        raise StorageError(
            f"Another process uses the quorum log in {directory}.",
            code="log-busy",
            hint="Is another daemon running with the same state directory?",
        ) from error
