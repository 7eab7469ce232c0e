"""The timing profile of real nodes changes while a group runs: clients notice nothing."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import pytest
from lab.cluster import LabCluster
from lab.observer import Observer
from lab.prober import Prober
from lab.world import World
from tests.integration.fault_support import GROUP, LAB, PORT, SOON_MS, VIP, Calm

pytestmark = [pytest.mark.root, pytest.mark.gathers]


def test_the_profile_changes_under_a_running_group() -> None:
    """To the longest and back: the group goes on where it is, in the same generation."""
    with ExitStack() as stack:
        world = stack.enter_context(World(3, interconnects=2))
        cluster = LabCluster(world)
        stack.callback(cluster.close)
        cluster.form()
        prober = stack.enter_context(Prober(world, VIP, PORT, interval_us=2000))
        observer = stack.enter_context(Observer(world, [VIP]))
        calm = Calm(cluster, prober, observer)
        calm.do(
            "group", "add", GROUP, "--address", f"{VIP}/24",
            "--run", f"{sys.executable} -S -E {LAB / 'echo.py'} {PORT} web",
        )  # fmt: skip
        calm.settle()
        first = calm.status()["profile"]
        with calm.watch() as seen:
            for profile, run_ms in (("wan", 5000), (first, 0)):
                calm.do("set", f"--profile={profile}")
                until_acted_by(calm, profile, run_ms)
    assert seen.moved(0), seen.story
    assert seen.outage_ms < SOON_MS, seen.outages


def until_acted_by(calm: Calm, profile: str, run_ms: int) -> None:
    """Wait until the change is settled."""

    def settled() -> bool:
        view = calm.do("quorum", "status")
        return view["profile"] == profile and run_ms in (0, view["run_ms"])

    calm.wait_for(settled, f"profile {profile}")
