"""The guard's page: whole for every reader, whatever happens to its writer."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leitwolf.system import clock
from leitwolf.system.page import NotVolatile, PageReader, PageWriter, map_page, require_volatile
from leitwolf.wire.ballot import Ballot, Now
from leitwolf.wire.page import PAGE_BYTES, LeasePage
from leitwolf.wire.permit import SLEPT_NS, believed

BOOT = clock.boot_id()


def page(number: int) -> LeasePage:
    """A page all of whose numbers belong together, so that a torn one shows."""
    return LeasePage(
        boot_id=BOOT,
        floor=Ballot(1, number % 1000, 3),
        lease=number,
        lease_end=number,
        progress=number,
        gate=number % 2 == 0,
        run=number,
    )


def consistent(found: LeasePage) -> bool:
    """Tell whether a page is one that :func:`page` made."""
    return found == page(found.lease)


@pytest.fixture
def path() -> Iterator[Path]:
    """A file name on the tmpfs of the machine."""
    name = Path(f"/dev/shm/leitwolf-page-{os.getpid()}-{random.getrandbits(32)}")
    yield name
    name.unlink(missing_ok=True)


def test_what_was_written_is_read(path: Path) -> None:
    """Each write is seen by a reader and by the next writer."""
    writer = PageWriter(path)
    reader = PageReader(path)
    for number in range(1, 6):
        writer.write(page(number))
        assert reader.read() == page(number)
    writer.close()
    assert PageWriter(path).read(BOOT) == page(5)


@pytest.mark.parametrize(
    ("drift", "trusted"),
    [(0, True), (SLEPT_NS, True), (SLEPT_NS + 1, False), (-SLEPT_NS - 1, False)],
)
def test_leases_of_before_a_sleep_are_not_believed(*, drift: int, trusted: bool) -> None:
    """RAW stood still and has not reached their ends; the promises of the node stay (L1)."""
    shown = LeasePage(
        lease=7, lease_end=900, leader_end=800, gate=True, promise_end=700, fence_from=600, drift=50
    )
    found = believed(shown, Now(100, 150 + drift))
    assert (found.gate, found.lease_end, found.leader_end) == (
        (True, 900, 800) if trusted else (False, 0, 0)
    )
    assert (found.lease, found.promise_end, found.fence_from) == (7, 700, 600)


def test_a_reader_compares_the_clocks_of_the_machine(path: Path) -> None:
    """What the guard wrote before a sleep that it did not notice yet is no lease for others."""
    writer, reader = PageWriter(path), PageReader(path)
    now = clock.now()
    awake = page(8)._replace(drift=now.boot - now.raw, leader_end=now.raw + 1_000_000_000)
    writer.write(awake)
    assert reader.believed() == awake
    writer.write(awake._replace(drift=awake.drift - 2 * SLEPT_NS))
    found = reader.believed()
    assert found is not None
    assert (found.leader_end, found.lease_end, found.gate) == (0, 0, False)
    path.unlink()
    assert reader.believed() is None
    writer.close()


def test_no_page_is_no_page(path: Path) -> None:
    """Missing, empty, short and foreign files are no page, and a later one is found."""
    reader = PageReader(path)
    assert reader.read() is None
    path.write_bytes(b"x" * 10)
    assert reader.read() is None
    path.write_bytes(b"\x07" * PAGE_BYTES)
    assert reader.read() is None
    path.unlink()
    writer = PageWriter(path)
    assert reader.read() is None
    writer.write(page(1))
    assert reader.read() == page(1)


def test_a_page_of_another_boot_is_none(path: Path) -> None:
    """Instants of another boot mean nothing."""
    writer = PageWriter(path)
    writer.write(page(1))
    assert PageReader(path, bytes(16)).read() is None
    assert writer.read(bytes(16)) is None


def test_a_replaced_file_is_read_anew(path: Path) -> None:
    """A reader follows the name, not the file that it mapped first."""
    PageWriter(path).write(page(1))
    reader = PageReader(path)
    assert reader.read() == page(1)
    path.unlink()
    assert reader.read() is None
    PageWriter(path).write(page(2))
    assert reader.read() == page(2)


def test_a_writer_that_died_in_a_write_leaves_the_page_before_it(path: Path) -> None:
    """Odd sequence and a half-written copy: reader and next writer take the other copy."""
    writer = PageWriter(path)
    writer.write(page(1))
    writer.write(page(2))
    raw = map_page(path, writable=True)
    assert raw is not None
    sequence = int.from_bytes(raw[:8], "little")
    raw[:8] = (sequence + 1).to_bytes(8, "little")
    other = (64, 2048)[(sequence + 2) >> 1 & 1]
    raw[other : other + 100] = b"\xff" * 100
    assert PageReader(path).read() == page(2)
    heir = PageWriter(path)
    assert heir.read(BOOT) == page(2)
    heir.write(page(3))
    assert PageReader(path).read() == page(3)


def test_rot_in_the_valid_copy_is_noticed(path: Path) -> None:
    """A flipped bit makes it no page rather than a wrong one."""
    PageWriter(path).write(page(4))
    raw = map_page(path, writable=True)
    assert raw is not None
    at = (64, 2048)[int.from_bytes(raw[:8], "little") >> 1 & 1]
    raw[at + 60] ^= 0x10
    assert PageReader(path).read() is None


def test_readers_never_see_a_torn_page_while_writers_are_killed(path: Path) -> None:
    """Writers that write without pause are killed at random instants; pages stay whole."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    PageWriter(path).write(page(1))
    reader = PageReader(path)
    for _ in range(8):
        child = os.fork()
        if child == 0:
            writer = PageWriter(path)
            number = 1
            while True:
                number += 1
                writer.write(page(number))
        try:
            until = time.monotonic() + chance.uniform(0.005, 0.04)
            while time.monotonic() < until:
                found = reader.read()
                assert found is not None
                assert consistent(found)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        left = PageWriter(path).read(BOOT)
        assert left is not None
        assert consistent(left)


def test_a_runtime_folder_on_a_disk_is_refused(tmp_path: Path) -> None:
    """A tmpfs passes; /proc, which is no tmpfs, is refused with what to do."""
    require_volatile(Path("/dev/shm"))
    with pytest.raises(NotVolatile, match="--runtime"):
        require_volatile(Path("/proc"))
    with pytest.raises(FileNotFoundError):
        require_volatile(tmp_path / "missing")
