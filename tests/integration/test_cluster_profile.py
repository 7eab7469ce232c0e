"""The timing profile of real nodes changes while a group runs: clients notice nothing."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import pytest
from lab.cluster import LabCluster
from lab.observer import Observer
from lab.prober import Prober
from lab.world import World
from tests.integration.fault_support import GROUP, LAB, PORT, SOON_MS, VIP, Calm

pytestmark = pytest.mark.root


def test_the_profile_changes_under_a_running_group() -> None:
    """To the longest and back: the group goes on where it is, in the same generation."""
    with ExitStack() as stack:
        world = stack.enter_context(World(3, interconnects=2))
        cluster = LabCluster(world)
        stack.callback(cluster.close)
        cluster.form()
        cluster.ask(
            "n1", "group", "add", GROUP, "--address", f"{VIP}/24",
            "--run", f"{sys.executable} -S -E {LAB / 'echo.py'} {PORT} web",
        )  # fmt: skip
        prober = stack.enter_context(Prober(world, VIP, PORT, interval_us=2000))
        observer = stack.enter_context(Observer(world, [VIP]))
        calm = Calm(cluster, prober, observer)
        calm.settle()
        first = calm.status()["profile"]
        before = calm.group()
        with calm.watch() as seen:
            for profile, run_ms in (("wan", 5000), (first, 0)):
                cluster.ask("n1", "set", f"--profile={profile}")
                until_acted_by(calm, profile, run_ms)
        after = calm.group()
    assert (after["owner"], after["generation"]) == (before["owner"], before["generation"])
    assert seen.outage_ms < SOON_MS, seen.outages


def until_acted_by(calm: Calm, profile: str, run_ms: int) -> None:
    """Wait until the change is settled."""

    def settled(_: dict[str, Any]) -> bool:
        view = calm.cluster.ask("n1", "quorum", "status")
        return view["profile"] == profile and run_ms in (0, view["run_ms"])

    calm.until(settled, f"profile {profile}", timeout_s=20)
