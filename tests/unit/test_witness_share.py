"""A value in a shared file: crashes at every step, damage, locks, file systems."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from leitwolf.model.errors import WitnessError
from leitwolf.model.limits import CAS_BYTES_MAX
from leitwolf.model.location import ShareLocation
from leitwolf.witness import shared_file
from leitwolf.witness.mounts import Mount, check_lock_loss, check_mount
from leitwolf.witness.share import ShareCas
from leitwolf.witness.shared_file import BLOCK_BYTES, SharedFile

HEADER = 0
SLOTS = {0: BLOCK_BYTES, 1: 2 * BLOCK_BYTES + CAS_BYTES_MAX}


def share(path: Path, timeout_s: float = 10) -> ShareCas:
    location = ShareLocation(path=str(path), options=(("local", "yes"),))
    return ShareCas(location, timeout_s=timeout_s)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "value"


def written(cas: ShareCas, *values: bytes) -> str:
    found = cas.get()
    version = None if found is None else found.version
    for value in values:
        version = cas.put(value, version)
        assert version is not None
    assert version is not None
    return version


class Crash(BaseException):
    """The machine dies here."""


class Disk:
    """Lets steps of :class:`SharedFile` pass until it crashes; then any part of what was not synced
    may be there."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.pending: list[tuple[SharedFile, int, bytes]] = []
        self.left = -1
        self.write, self.sync = SharedFile.write, SharedFile.sync

    def crash_after(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        if self.left == 0:
            for file, offset, data in self.pending:
                for place in range(0, len(data), BLOCK_BYTES):
                    if self.chance.random() < 0.5:
                        self.write(file, offset + place, data[place : place + BLOCK_BYTES])
            self.pending = []
            self.left = -1
            raise Crash
        self.left -= 1

    def on_write(self, file: SharedFile, offset: int, data: bytes) -> None:
        self.pending.append((file, offset, data))
        self.step()

    def on_sync(self, file: SharedFile) -> None:
        self.step()
        for pending in self.pending:
            self.write(*pending)
        self.sync(file)
        self.pending = []


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(random.Random(6))
    # Functions: bound methods would not be given the file.
    monkeypatch.setattr(SharedFile, "write", lambda *given: made.on_write(*given))  # noqa: PLW0108
    monkeypatch.setattr(SharedFile, "sync", lambda *given: made.on_sync(*given))  # noqa: PLW0108
    return made


@contextlib.contextmanager
def dying() -> Iterator[None]:
    with contextlib.suppress(Crash):
        yield


@pytest.mark.parametrize("values", range(4))
@pytest.mark.parametrize("steps", range(5))
def test_a_crash_at_any_step_leaves_the_old_or_the_new_value(
    tmp_path: Path, disk: Disk, values: int, steps: int
) -> None:
    """Never none, never a mixture; and what was once read is read again, also after a crash of the
    reader who completes the put."""
    for attempt in range(12):
        cas = share(tmp_path / f"value{attempt}")
        data = [bytes([number]) * 9_000 for number in range(1, values + 2)]
        old = written(cas, *data[:-1]) if values else None
        disk.crash_after(steps)
        with dying():
            assert cas.put(data[-1], old)
        disk.crash_after(attempt % 5)
        with dying():
            cas.get()
        disk.crash_after(-1)
        found = cas.get()
        allowed = [data[-1]] if steps == 4 else data[-2:] if values else [None, data[-1]]
        assert (None if found is None else found.data) in allowed
        disk.crash_after(attempt % 5)
        with dying():
            cas.get()
        disk.crash_after(-1)
        assert cas.get() == found
        assert written(cas, b"next")


def spoil(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(("count", "offset"), [(1, SLOTS[1]), (2, SLOTS[0]), (5, SLOTS[1])])
@pytest.mark.parametrize("place", [0, 20, 100])
def test_a_confirmed_value_that_is_damaged_is_told(
    path: Path, count: int, offset: int, place: int
) -> None:
    """The value before it is not taken instead: that would forget a promise."""
    cas = share(path)
    version = written(cas, *(bytes([number]) * 200 for number in range(count)))
    spoil(path, offset + place)
    for step in (cas.get, lambda: cas.put(b"", version), lambda: cas.put(b"", None)):
        with pytest.raises(WitnessError) as caught:
            step()
        assert caught.value.code == "witness-damaged"
        assert caught.value.hint.endswith("remove the file, then: leitwolf quorum replace")


def test_what_was_read_never_counts_as_unwritten(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value of a writer who died before he confirmed it: once read, its loss is damage."""
    cas = share(path)
    version = written(cas, b"one", b"two")
    monkeypatch.setattr(disk.chance, "random", lambda: 1.0)  # nothing unsynced is there
    disk.crash_after(2)
    with pytest.raises(Crash):
        cas.put(b"three", version)
    found = cas.get()
    assert found is not None
    assert found.data == b"three"
    spoil(path, SLOTS[1] + 41)
    with pytest.raises(WitnessError) as caught:
        cas.get()
    assert caught.value.code == "witness-damaged"


def test_an_old_value_that_is_damaged_does_not_matter(path: Path) -> None:
    """Only the newest one counts."""
    cas = share(path)
    written(cas, b"one", b"two", b"three")
    spoil(path, SLOTS[0] + 10)
    found = cas.get()
    assert found is not None
    assert found.data == b"three"


def test_a_damaged_header_counts_only_between_whole_values(path: Path) -> None:
    """With both slots whole the newer one is right; without, nobody knows."""
    cas = share(path)
    written(cas, b"one", b"two")
    spoil(path, HEADER + 12)
    found = cas.get()
    assert found is not None
    assert found.data == b"two"
    spoil(path, HEADER + 12)
    spoil(path, SLOTS[0] + 41)
    with pytest.raises(WitnessError) as caught:
        cas.get()
    assert caught.value.code == "witness-damaged"


def test_a_file_of_something_else_is_not_touched(path: Path) -> None:
    """Neither read nor overwritten."""
    path.write_bytes(b"dear diary " * 1_000)
    before = path.read_bytes()
    cas = share(path)
    for step in (cas.get, lambda: cas.put(b"mine", None)):
        with pytest.raises(WitnessError) as caught:
            step()
        assert caught.value.code == "witness-foreign"
    assert path.read_bytes() == before


class Holder(ShareCas):
    """Holds the lock, in a thread, until it is told to let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(ShareLocation(path=str(path), options=(("local", "yes"),)), timeout_s=10)
        self.reached = threading.Event()
        self.done = threading.Event()

    def _newest(self, file: SharedFile) -> None:
        self.reached.set()
        self.done.wait(30)

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.get)
        self.thread.start()
        assert self.reached.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def test_who_holds_the_lock_too_long_is_told(path: Path) -> None:
    """The wait ends in time, with an error."""
    written(share(path), b"one")
    with Holder(path), pytest.raises(WitnessError, match="another machine holds its lock"):
        share(path, timeout_s=0.05).get()
    assert share(path).get() is not None


@pytest.mark.parametrize("replaced", [False, True])
def test_who_waits_for_a_file_that_is_removed_writes_nothing(path: Path, replaced: bool) -> None:
    """A lock on a file without a name protects nothing, also when another file has the name."""
    version = written(share(path), b"one")
    results: list[str | None] = []
    with Holder(path):
        waiting = threading.Thread(target=lambda: results.append(share(path).put(b"2", version)))
        waiting.start()
        while len(opened(path)) < 2:
            time.sleep(0.001)
        path.unlink()
        if replaced:
            written(share(path), b"other")
    waiting.join()
    assert results == [None]
    found = share(path).get()
    assert (None if found is None else found.data) == (b"other" if replaced else None)


def opened(path: Path) -> list[str]:
    """Return the descriptors of this process that are this file."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if link.readlink() == path:
                found.append(link.name)
    return found


def test_a_missing_folder_and_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is no value; a folder that is not there is no answer."""
    assert share(tmp_path / "value").get() is None
    assert share(tmp_path / "value").put(b"", "1-00") is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WitnessError) as caught:
        share(tmp_path / "unmounted" / "value").get()
    assert caught.value.code == "witness-unreachable"


def test_a_removed_value_begins_anew(path: Path) -> None:
    """Old versions mean nothing any more."""
    cas = share(path)
    old = written(cas, b"one")
    cas.remove()
    cas.remove()
    assert cas.get() is None
    new = cas.put(b"one", None)
    assert new != old
    assert cas.put(b"two", old) is None


def test_a_value_too_large_is_refused(path: Path) -> None:
    """The largest one is kept."""
    cas = share(path)
    with pytest.raises(WitnessError, match="at most"):
        cas.put(bytes(CAS_BYTES_MAX + 1), None)
    largest = random.Random(1).randbytes(CAS_BYTES_MAX)
    written(cas, b"small", largest, largest[::-1])
    found = cas.get()
    assert found is not None
    assert found.data == largest[::-1]


def test_a_local_file_system_is_refused(path: Path) -> None:
    """What is on this machine alone is no share: the share is not mounted."""
    cas = ShareCas(ShareLocation(path=str(path)), timeout_s=1)
    for step in (cas.get, lambda: cas.put(b"", None)):
        with pytest.raises(WitnessError, match="this machine alone") as caught:
            step()
        assert caught.value.code == "witness-unfit"
    assert not path.exists()


REFUSED = (
    ("ext4", "rw", "this machine alone"),
    ("tmpfs", "rw", "this machine alone"),
    ("nfs", "rw,vers=3,local_lock=none", "version 3"),
    ("nfs4", "rw,vers=4.1,nolock", "locks stay"),
    ("nfs4", "rw,vers=4.1,local_lock=all", "locks stay"),
    ("nfs4", "rw,vers=4.1,local_lock=posix", "locks stay"),
    ("cifs", "rw,vers=3.1.1,nobrl", "locks stay"),
    ("cifs", "rw,vers=3.1.1,cache=loose", "stale"),
    ("cifs", "rw,vers=1.0", "version 1"),
)
ACCEPTED = (
    ("nfs4", "rw,vers=4.2,local_lock=none"),
    ("nfs4", "rw,vers=4.1,local_lock=flock"),
    ("cifs", "rw,vers=3.1.1,cache=strict"),
    ("ceph", "rw"),
    ("ocfs2", "rw"),
    ("fuse.glusterfs", "rw"),
)


def test_a_share_that_takes_writes_without_the_lock_is_refused() -> None:
    """It is fit for a disk, where each node writes for itself alone; the hint says how."""
    options = frozenset({"rw", "vers=3.1.1", "cache=strict"})
    with pytest.raises(WitnessError, match="lost his lock") as caught:
        check_lock_loss(Mount(point="/mnt", kind="cifs", options=options), "/mnt/w")
    assert caught.value.code == "witness-unfit"
    assert "quorum disk format FILE" in caught.value.hint
    check_lock_loss(Mount(point="/mnt", kind="nfs4", options=options), "/mnt/w")


@pytest.fixture
def checked() -> Callable[[str, str], None]:
    def check(kind: str, options: str) -> None:
        mount = Mount(point="/mnt", kind=kind, options=frozenset(options.split(",")))
        check_mount(mount, "/mnt/quorum/office", local=False, disk=False)

    return check


@pytest.mark.parametrize("kind", ["9p", "virtiofs", "fuse.sshfs"])
def test_where_locks_stay_what_works_is_advised(kind: str) -> None:
    """A value is refused on SMB, too, so it is not sent there; a disk that is a file may go."""
    mount, hints = Mount(point="/mnt", kind=kind, options=frozenset({"rw"})), []
    for disk in (False, True):
        with pytest.raises(WitnessError, match="may keep locks") as caught:
            check_mount(mount, "/mnt/w", local=False, disk=disk)
        hints.append(caught.value.hint)
    assert "or SMB" not in hints[0]
    assert "leitwolf quorum set disk FILE --witness" in hints[0]
    assert hints[1] == "use NFS 4.1 or SMB 3.1, mounted by the kernel"


@pytest.mark.parametrize("option", ["nobrl", "cache=loose", "vers=1.0"])
def test_a_value_on_smb_is_refused_whatever_its_options(
    path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """To mount it otherwise would end in the next refusal."""
    mount = Mount(point="/mnt", kind="cifs", options=frozenset({"rw", option}))
    monkeypatch.setattr(shared_file, "find_mount", lambda _: mount)
    with pytest.raises(WitnessError, match="lost his lock") as caught:
        share(path).get()
    assert "quorum disk format FILE" in caught.value.hint


@pytest.mark.parametrize(("kind", "options", "why"), REFUSED)
def test_unfit_mounts(
    checked: Callable[[str, str], None], kind: str, options: str, why: str
) -> None:
    """The error says what is wrong, the hint how to mount it."""
    with pytest.raises(WitnessError, match=why) as caught:
        checked(kind, options)
    assert caught.value.code == "witness-unfit"
    assert "mount" in caught.value.hint


@pytest.mark.parametrize(("kind", "options"), ACCEPTED)
def test_fit_mounts(checked: Callable[[str, str], None], kind: str, options: str) -> None:
    """Network and cluster file systems, with locks that reach the server."""
    checked(kind, options)
