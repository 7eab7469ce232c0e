"""The progress page: a slot per process, written by its owner only."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from leitwolf.system.pidfd import start_time
from leitwolf.system.progress import Flag, Progress, Role, Slot


@pytest.fixture
def path() -> Iterator[Path]:
    """A file name on the tmpfs of the machine."""
    name = Path(f"/dev/shm/leitwolf-progress-{os.getpid()}-{random.getrandbits(32)}")
    yield name
    name.unlink(missing_ok=True)


def test_a_slot_names_its_process_and_counts_its_passes(path: Path) -> None:
    """Others see who is there and how far it is; the other slots stay empty."""
    mine, others = Progress(path), Progress(path)
    assert others.slot(Role.GUARD) == Slot()
    mine.begin(Role.GUARD)
    seen = others.slot(Role.GUARD)
    assert (seen.process, seen.counter) == (os.getpid(), 0)
    assert seen.started == start_time(os.getpid())
    mine.advance(1_000, extra=7, peak=9)
    mine.advance(2_000, extra=8, peak=9)
    mine.mark(Flag.REALTIME | Flag.GATE)
    seen = others.slot(Role.GUARD)
    assert (seen.counter, seen.instant, seen.extra, seen.peak) == (2, 2_000, 8, 9)
    assert seen.flags == Flag.REALTIME | Flag.GATE
    assert all(others.slot(role) == Slot() for role in Role if role is not Role.GUARD)


def test_a_new_process_begins_its_slot_anew(path: Path) -> None:
    """Nothing of the predecessor is taken for progress of the successor."""
    Progress(path).begin(Role.DAEMON)
    old = Progress(path)
    old.begin(Role.DAEMON)
    old.advance(5, extra=3)
    Progress(path).begin(Role.DAEMON)
    seen = old.slot(Role.DAEMON)
    assert (seen.counter, seen.extra, seen.flags) == (0, 0, Flag(0))
    assert seen.instant > 5


def test_a_slot_of_another_boot_is_empty(path: Path) -> None:
    """Process ids of an earlier boot mean nothing."""
    mine = Progress(path)
    mine.begin(Role.HOST)
    data = bytearray(path.read_bytes())
    at = Role.HOST * 256 + 7 * 8
    data[at] ^= 1
    path.write_bytes(data)
    assert Progress(path).slot(Role.HOST) == Slot()


def test_an_unsynced_write_holds_progress_back(path: Path) -> None:
    """The daemon's progress is not younger than its oldest unsynced write (L12)."""
    assert Slot(process=1, instant=900).effective == 900
    assert Slot(process=1, instant=900, extra=400).effective == 400
    mine, others = Progress(path), Progress(path)
    assert others.effective(Role.DAEMON) == 0
    mine.begin(Role.DAEMON)
    for extra in (0, 400):
        mine.advance(900, extra=extra)
        assert others.effective(Role.DAEMON) == others.slot(Role.DAEMON).effective
    assert others.effective(Role.DAEMON) == 400


def test_advancing_without_a_slot_is_an_error(path: Path) -> None:
    """A process that took no slot cannot write into that of another one."""
    with pytest.raises(ValueError, match="slot"):
        Progress(path).advance(1)
