"""Streams that break while heartbeats pass: the leader hands over, and nothing stops."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab.cluster import LabCluster
from lab.observer import Observer
from lab.prober import Prober
from lab.world import World
from tests.integration.fault_support import GROUP, LAB, PORT, SOON_MS, VIP, Calm

pytestmark = [pytest.mark.root, pytest.mark.gathers]

_CLUSTER_PORT = 6474
_SOON_S = 15.0
"""Streams that nobody gives up are silent for minutes; the rest is for a busy machine."""
_ALL = "add rule inet deaf in tcp dport {port} drop; add rule inet deaf in tcp sport {port} drop; "
_CALLS = "add rule inet deaf out tcp dport {port} drop"
RULES = {"all": _ALL + _CALLS, "own calls": _CALLS}
"""What a leader's machine drops: everything on the TCP port, or only what it calls itself."""


@pytest.fixture(scope="module")
def calm() -> Iterator[Calm]:
    """A cluster of three with the group ``web``."""
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
        yield calm


@pytest.mark.parametrize("dropped", sorted(RULES))
def test_changes_commit_soon_when_streams_of_the_leader_break(calm: Calm, dropped: str) -> None:
    """Its heartbeats pass. Another one leads, or it is called; groups and leases go on."""
    calm.settle()
    calm.lead("n1")  # the lowest id calls all others
    calm.place("n1")
    calm.until_online("n1")
    with calm.watch() as seen:
        chains = (
            "add table inet deaf; "
            "add chain inet deaf in { type filter hook input priority 0; }; "
            "add chain inet deaf out { type filter hook output priority 0; }; "
        )
        calm.world.run("n1", ["nft", chains + RULES[dropped].format(port=_CLUSTER_PORT)])
        try:
            began = time.monotonic()
            time.sleep(1.2)  # what was established is silent by then
            order = ("group", "set", GROUP, "--prefer=n1")
            while (done := calm.cluster.command("n2", *order)).returncode:
                assert time.monotonic() - began < _SOON_S, done.stderr
            took = time.monotonic() - began
            if dropped == "all":
                calm.until_seen("n2", lambda view: view["leader"] not in ("", "n1"), "a leader")
            time.sleep(2)
            assert calm.group(node="n2")["owner"] == "n1"
        finally:
            calm.world.run("n1", ["nft", "delete table inet deaf"], check=False)
    assert took < _SOON_S
    assert seen.moved(0), seen.story
    assert seen.two_owners_ms == 0
    assert seen.outage_ms < SOON_MS, seen.outages
