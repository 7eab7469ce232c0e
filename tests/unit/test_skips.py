"""What tests need and lack: they are skipped, and have failed where everything must run."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests import conftest


def judged(outcome: str, **fields: object) -> pytest.TestReport:
    """Return what becomes of a report."""
    made = SimpleNamespace(outcome=outcome, skipped=outcome == "skipped", **fields)
    hook = conftest.pytest_runtest_makereport()
    next(hook)
    with pytest.raises(StopIteration) as end:
        hook.send(cast("pytest.TestReport", made))
    report: pytest.TestReport = end.value.value
    return report


def needing(*marks: pytest.MarkDecorator) -> pytest.Item:
    """Return a test with these marks."""
    found = [mark.mark for mark in marks]
    item: Any = SimpleNamespace(
        get_closest_marker=lambda name: next((one for one in found if one.name == name), None),
        iter_markers=lambda name: [one for one in found if one.name == name],
    )
    return cast("pytest.Item", item)


def test_a_skipped_test_has_failed_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its reason; elsewhere it is skipped, and what is expected to fail stays that."""
    skip = {"longrepr": ("test_x.py", 1, "Skipped: needs root")}
    monkeypatch.setenv("CI", "true")
    report = judged("skipped", **skip)
    assert report.outcome == "failed"
    assert report.longrepr == "Skipped: needs root; with CI=true everything must run"
    assert judged("skipped", wasxfail="", **skip).outcome == "skipped"
    assert judged("passed").outcome == "passed"
    monkeypatch.delenv("CI")
    assert judged("skipped", **skip).outcome == "skipped"


def test_a_test_runs_only_where_its_needs_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root and programs, each by its marker, and the reason names what is missing."""
    conftest.pytest_runtest_setup(needing())
    conftest.pytest_runtest_setup(needing(pytest.mark.needs("sh")))
    with pytest.raises(pytest.skip.Exception, match="needs no-such-program"):
        conftest.pytest_runtest_setup(needing(pytest.mark.needs("sh", "no-such-program")))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="needs root"):
        conftest.pytest_runtest_setup(needing(pytest.mark.root))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    conftest.pytest_runtest_setup(needing(pytest.mark.root))
