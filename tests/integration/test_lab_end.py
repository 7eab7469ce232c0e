"""A world ends whatever state its processes are in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.root

SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from lab.processes import state_of
from lab.world import World
with World(1) as world:
    world.start("n1")
    process = world.spawn("n1", ["sleep", "1000"])
    os.kill(world.inner_pid(process), signal.SIGSTOP)
    while state_of(process.pid) != "T":
        time.sleep(0.01)
    if sys.argv[2] == "off":
        world.power_off("n1")
        assert process.wait() == 128 + signal.SIGKILL or process.returncode == -signal.SIGKILL
"""


@pytest.mark.parametrize("way", ["off", "close"])
def test_a_machine_ends_although_nsenter_stopped_itself(way: str) -> None:
    """Who stopped over a frozen child goes on and reaps it; else the kernel waits for ever."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT), way],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
