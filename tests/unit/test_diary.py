"""Lines of the daemon for the system log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leitwolf.system.diary import log


@pytest.mark.parametrize("level", ["info", "warning", "critical"])
def test_a_line_is_one_object(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Event, level, time in UTC, and the fields; what JSON does not know becomes text."""
    getattr(log, level)("disk\nfull", path=Path("/x"), count=3)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    line = json.loads(told)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "disk\nfull", "level": level, "path": "/x", "count": 3}
