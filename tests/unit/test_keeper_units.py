"""The parts of the keeper: when it restarts, whom it takes for hanging, the systemd unit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leitwolf.keeper.children import Child, Limits
from leitwolf.keeper.reaper import Reaper
from leitwolf.keeper.unit import unit_text
from leitwolf.system.pidfd import ProcessHandle
from leitwolf.system.progress import Flag, Progress, Role
from leitwolf.system.settings import Settings

SECOND = 1_000_000_000
LIMITS = Limits(progress=2 * SECOND, start=5 * SECOND, patience=1)


@pytest.fixture
def progress() -> Iterator[Progress]:
    """A progress page on the tmpfs of the machine."""
    path = Path(f"/dev/shm/leitwolf-keeper-{os.getpid()}-{random.getrandbits(32)}")
    page = Progress(path)
    yield page
    page.close()
    path.unlink()


@pytest.fixture
def programs() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes started by a test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        one.kill()
        one.wait()


def spawner(programs: list[subprocess.Popen[bytes]]) -> int:
    programs.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
    return programs[-1].pid


def test_the_first_restarts_are_at_once_and_then_back_off(
    progress: Progress, programs: list[subprocess.Popen[bytes]]
) -> None:
    """Deaths in a row: at once, 50 ms, 100 ms; after ten steady seconds at once again."""
    child = Child(Role.DAEMON, progress, lambda: spawner(programs), LIMITS)
    now, pauses = 100 * SECOND, []
    for life in (1, 1, 1, 11):
        assert child.start_due(now)
        child.start(now)
        programs[-1].kill()
        programs[-1].wait()
        now += life * SECOND
        assert child.ended(now) == programs[-1].pid
        pauses.append((child.deadline() - now) // 1_000_000)
        now = child.deadline()
    assert pauses == [0, 50, 100, 0]


def test_who_makes_no_progress_hangs_unless_everybody_was_frozen(
    progress: Progress, programs: list[subprocess.Popen[bytes]]
) -> None:
    """The limit counts only while the keeper itself looks; a first pass may take longer."""
    child = Child(Role.DAEMON, progress, os.getpid, LIMITS)
    now = 100 * SECOND
    child.start(now)

    def hangs_within(seconds: float) -> bool:
        nonlocal now
        for _ in range(int(seconds * 10)):
            now += SECOND // 10
            if child.hangs(now):
                return True
        return False

    assert not hangs_within(4.5)
    progress.begin(Role.DAEMON)
    progress.advance(now)
    assert not hangs_within(1.5)
    progress.advance(now)
    assert not hangs_within(0.2)
    now += 3600 * SECOND  # the whole machine stood still
    assert not child.hangs(now)
    assert not hangs_within(1.0)
    assert hangs_within(1.5)


def test_who_hangs_at_its_start_has_twice_the_time_for_the_next(
    progress: Progress, programs: list[subprocess.Popen[bytes]]
) -> None:
    """Up to 16 times as much; after a first pass the usual time again."""
    child = Child(Role.DAEMON, progress, os.getpid, LIMITS)
    now, waited = 100 * SECOND, []

    def hang() -> float:
        nonlocal now
        child.start(now)
        began = now
        while not child.hangs(now):
            now += SECOND // 10
        return round((now - began) / SECOND)

    waited = [hang() for _ in range(6)]
    assert waited == [5, 10, 20, 40, 80, 80]
    child.start(now)
    assert not child.loads(now + 9 * SECOND)
    assert child.loads(now + 11 * SECOND)
    progress.begin(Role.DAEMON)
    progress.advance(now)
    assert not child.loads(now + 11 * SECOND)
    assert not child.hangs(now)
    progress.begin(Role.DAEMON)  # another process, without a pass
    assert hang() == 5


def test_only_the_process_itself_says_that_it_drains(
    progress: Progress, programs: list[subprocess.Popen[bytes]]
) -> None:
    """What a former one said of itself counts nothing."""
    child = Child(Role.DAEMON, progress, os.getpid, LIMITS)
    progress.begin(Role.DAEMON)
    progress.mark(Flag.DRAINS)
    assert not child.drains()
    child.start(0)
    assert child.drains()
    progress.mark(Flag(0))
    assert not child.drains()
    other = Child(Role.DAEMON, progress, lambda: spawner(programs), LIMITS)
    progress.mark(Flag.DRAINS)
    other.start(0)
    assert not other.drains()


def test_a_slot_of_somebody_else_is_no_progress(
    progress: Progress, programs: list[subprocess.Popen[bytes]]
) -> None:
    """A child that never took its slot is judged by the limit of its start."""
    progress.begin(Role.HOST)
    child = Child(Role.HOST, progress, lambda: spawner(programs), LIMITS)
    child.start(0)
    progress.advance(1)
    assert not child.ready
    now, hung = 0, 0
    while not hung:
        now += SECOND // 10
        progress.advance(now)
        hung = now if child.hangs(now) else 0
    assert 5 * SECOND <= hung <= 6 * SECOND


def test_exit_codes_and_signals_are_remembered_with_the_start() -> None:
    """Id and start time name a process; another start is another process."""
    reaper = Reaper()
    code = os.posix_spawn(sys.executable, [sys.executable, "-c", "raise SystemExit(7)"], os.environ)
    killed = os.posix_spawn(
        sys.executable, [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], os.environ
    )
    for process in (code, killed):
        handle = ProcessHandle(process)
        assert handle.wait(20_000)
        handle.close()
    assert {one.process for one in reaper.reap()} == {code, killed}
    seen = reaper.status(code)
    assert seen is not None
    assert (seen.code, seen.signal) == (7, 0)
    assert seen.started > 0
    assert reaper.status(code, seen.started) == seen
    assert reaper.status(code, seen.started + 1) is None
    died = reaper.status(killed)
    assert died is not None
    assert (died.code, died.signal) == (-1, 9)
    assert reaper.status(1) is None


def test_the_unit_survives_restarts_and_carries_the_settings() -> None:
    """KillMode=process, notify, watchdog, delegation; only settings that differ, escaped."""
    text = unit_text("/opt/leitwolf/bin/leitwolf", Settings(state=Path('/srv/a "b" 5%')))
    for line in (
        "Type=notify",
        "KillMode=process",
        "Delegate=yes",
        "Restart=always",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "ExecStart=/opt/leitwolf/bin/leitwolf run",
        'Environment="LEITWOLF_STATE=/srv/a \\"b\\" 5%%"',
    ):
        assert line in text.splitlines()
    assert "LEITWOLF_RUNTIME" not in text
    assert "WatchdogSec=" in text
    assert "WatchdogSignal=SIGKILL" in text.splitlines()
