"""What tests need of the machine. Where they are meant to run, a skipped one is a failed one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

# In CI Hypothesis would try the same examples every time. New ones find more; each failure prints
# the line that repeats it.
settings.register_profile(
    "leitwolf", settings.get_profile("default"), print_blob=True, deadline=None
)
settings.load_profile("leitwolf")

# A shell ignores SIGINT in what it runs in the background, and so would every program under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``root`` or ``needs(program, ..)`` and cannot run here."""
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root")
    for mark in item.iter_markers("needs"):
        for program in mark.args:
            if shutil.which(program) is None:
                pytest.skip(f"needs {program}: ./run test-all installs it")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ``CI=true`` turn skips (no root, no spin, no cgroup version 2 ..) into failures."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}; with CI=true everything must run"
    return report
