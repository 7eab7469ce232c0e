"""The unit of a node under a real systemd: stop, start, reload, reboot, and deaths of processes."""

from __future__ import annotations

import time

import pytest
from tests.vm.cluster import ROLES, UNIT, VIP, Cluster, eventually

pytestmark = pytest.mark.timeout(500)
NO_OUTAGE_S = 4.0
"""An emulated machine that starts four programs may take so long for an answer; a service that was
stopped, or lost its lease, would take R and its start."""
UNIT_WATCHDOG_S = 10
"""WatchdogSec of the unit."""


def test_a_stop_moves_the_group_away_first(cluster: Cluster) -> None:
    """The group ends here before it begins elsewhere; a start brings the node back."""
    cluster.place(1)
    with cluster.watch() as seen:
        cluster.machines.sh(1, f"systemctl stop {UNIT}", 150)
        owner = cluster.until_online(not_on=1)
        time.sleep(1)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    stopped = {"ActiveState": "inactive", "Result": "success"}
    assert cluster.unit(1, *stopped) == stopped
    cluster.machines.sh(1, f"! pgrep -f '[l]eitwolf' && ! ip address show | grep {VIP}")
    assert "did not stop" not in cluster.journal(1, "-n 50")
    cluster.machines.sh(1, f"systemctl start {UNIT}", 150)
    cluster.calm()
    assert cluster.owner() == owner


def test_a_reload_replaces_all_four_and_nobody_notices(cluster: Cluster) -> None:
    """The keeper keeps its id with a new program, the others are new; the service runs on."""
    cluster.place(1)
    before = cluster.pids(1)
    with cluster.watch() as seen:
        cluster.machines.sh(1, f"systemctl reload {UNIT}", 150)
        for role in ROLES[1:]:
            cluster.until_replaced(1, role, before[role])
        eventually(lambda: cluster.unit(1, "ActiveState")["ActiveState"] == "active", "its end")
        cluster.calm()
    after = cluster.pids(1)
    assert (after["keeper"], after["service"]) == (before["keeper"], before["service"])
    assert int(cluster.unit(1, "MainPID")["MainPID"]) == after["keeper"]
    assert {one.node for one in seen.of("answers")} == {"node1"}
    assert seen.outage_s() < NO_OUTAGE_S
    assert seen.two_owners_ms == 0


def test_processes_that_are_killed_come_back_and_nobody_notices(cluster: Cluster) -> None:
    """Guard, daemon and host, each by the keeper; what runs is adopted."""
    cluster.place(1)
    before = cluster.pids(1)
    with cluster.watch() as seen:
        for role in ROLES[1:]:
            cluster.machines.sh(1, f"kill -KILL {before[role]}")
            cluster.until_replaced(1, role, before[role])
        cluster.calm()
    after = cluster.pids(1)
    assert (after["keeper"], after["service"]) == (before["keeper"], before["service"])
    assert seen.outage_s() < NO_OUTAGE_S
    assert {one.node for one in seen.of("answers")} == {"node1"}


@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_systemd_replaces_a_keeper_that_died_or_hangs(cluster: Cluster, signal: str) -> None:
    """By Restart or WatchdogSec; the next one adopts the others, and systemd knows it."""
    cluster.place(1)
    before = cluster.pids(1)
    with cluster.watch() as seen:
        cluster.machines.sh(1, f"kill -{signal} {before['keeper']}")
        cluster.until_replaced(1, "keeper", before["keeper"], UNIT_WATCHDOG_S + 120)
        cluster.calm()
    after = cluster.pids(1)
    assert after == before | {"keeper": after["keeper"]}
    known = {"MainPID": str(after["keeper"]), "ActiveState": "active"}
    eventually(lambda: cluster.unit(1, *known) == known, "systemd to know it", 60)
    assert seen.outage_s() < NO_OUTAGE_S
    if signal == "STOP":
        assert "Watchdog timeout" in cluster.journal(1, "-n 100")


def test_a_reboot_moves_the_group_away_first(cluster: Cluster) -> None:
    """systemctl reboot: as a stop, not as a power loss; the node starts by itself afterwards."""
    cluster.place(1)
    boot = cluster.machines.boot_id(1)
    with cluster.watch() as seen:
        cluster.machines.sh(1, "systemctl reboot --no-block")
        owner = cluster.until_online(not_on=1)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    eventually(lambda: cluster.machines.boot_id(1) != boot, "another boot", 180)
    cluster.calm()
    assert cluster.owner() == owner
