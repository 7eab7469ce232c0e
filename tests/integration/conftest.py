"""Tests that are marked ``gathers`` run again when they fail while the machine stands still."""

from __future__ import annotations

import functools
import inspect

import pytest
from lab.stalls import Stalls
from tests.integration.stall_support import again_if_stalled

_STALLS = pytest.StashKey[Stalls]()
_AGAIN = "again"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test; what it was run again for is shown at the end."""
    if pyfuncitem.get_closest_marker("gathers") is None:
        return None
    stash = pyfuncitem.config.stash
    if _STALLS not in stash:
        stash[_STALLS] = Stalls().__enter__()
    names = inspect.signature(pyfuncitem.obj).parameters
    given = {name: pyfuncitem.funcargs[name] for name in names}
    run = functools.partial(pyfuncitem.obj, **given)
    for reason in again_if_stalled(run, stash[_STALLS]):
        pyfuncitem.add_report_section("call", _AGAIN, reason)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what ran again, and why: what often does is to be looked at."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    for report in reports:
        for name, text in report.sections:
            if name == f"Captured {_AGAIN} call":
                terminalreporter.write_line(f"AGAIN {report.nodeid}: {text[:500]}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the watch of the processors."""
    if _STALLS in config.stash:
        config.stash[_STALLS].__exit__(None, None, None)
        del config.stash[_STALLS]
