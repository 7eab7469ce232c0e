"""Two guards never share one page, not even when no keeper knows of the first."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from leitwolf.guard.process import GuardProcess
from leitwolf.system.settings import Settings


def test_a_second_guard_ends_before_it_touches_anything(tmp_path: Path) -> None:
    """Slot, page and socket stay those of the guard that lives."""
    environment = {f"LEITWOLF_{name}": str(tmp_path) for name in ("RUNTIME", "STATE", "CONFIG")}
    settings = Settings.load(environment | {"LEITWOLF_VOLATILE": "no"})
    assert settings.runtime == tmp_path
    descriptor = os.open(tmp_path / "guard.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            GuardProcess(settings, 0)
    finally:
        os.close(descriptor)
    assert [path.name for path in tmp_path.iterdir()] == ["guard.lock"]
