"""A node that cannot prove its stop is left to its watchdog, also when no reset is allowed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from leitwolf.core.lease import Stopped
from leitwolf.guard import process
from leitwolf.guard.process import GuardProcess
from leitwolf.system import clock
from leitwolf.system.selffence import FenceRefused


def test_a_guard_that_may_not_reset_the_node_starves_its_watchdog(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it ended instead, its successors would feed the watchdog, and nothing ever reset."""

    def refuse(*_: str) -> NoReturn:
        raise FenceRefused("not permitted")

    monkeypatch.setattr(process, "self_fence", refuse)
    fed: list[int] = []
    page = SimpleNamespace(lease=5)
    stopped: list[Stopped] = []
    guard: Any = GuardProcess.__new__(GuardProcess)
    guard._settings = SimpleNamespace(fence="namespace")
    guard._record = lambda *_: None
    guard._watchdog = SimpleNamespace(feed=lambda: fed.append(1))
    guard._machine = SimpleNamespace(page=page)
    now = clock.raw_ns()
    later = now + 1_000_000_000
    guard._stopper = SimpleNamespace(results=lambda: stopped, descriptor=3)
    guard._arming = None
    guard._step = lambda _: setattr(page, "lease", 0)
    guard._rebooting = ""
    guard._feed(now, 0, later)
    guard._reboot("stop-not-confirmed")
    guard._feed(now, 0, later)
    assert len(fed) == 1
    stopped.append(Stopped(5))
    guard._collect({3})
    guard._feed(now, 0, later)
    assert len(fed) == 2
