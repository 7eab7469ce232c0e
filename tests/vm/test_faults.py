"""What only whole machines suffer: power loss, freezes, stopped clocks, cables, stuck programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.vm.cluster import GROUP, RESTARTS, RUN_S, UNIT, Cluster, eventually
from tests.vm.machines import NETS, NODES

pytestmark = pytest.mark.timeout(500)
FROZEN_S = 12.0
NOT_PUNCTUAL_S = 3.0
"""Emulated machines on a busy host are so much later, with everything."""
INTERCONNECTS = (NETS["interconnect"], NETS["second interconnect"])


def cables(cluster: Cluster, node: int, what: str, *nets: str) -> None:
    """Pull (``linkdown``) or plug in (``linkup``) cables."""
    for net in nets:
        cluster.machines.call(what, str(node), net)


def links_down(view: dict[str, Any]) -> set[tuple[str, str]]:
    """Return which links to which nodes a node says to be down."""
    return {
        (one["name"], link["network"])
        for one in view["nodes"]
        for link in one["links"]
        if not link["up"]
    }


def resets_over_a_stop(cluster: Cluster) -> int:
    """Return how often node3 reset itself because it could not stop in time."""
    said = cluster.machines.call("console", "3")
    return said.count("leitwolf: this node resets itself: stop-not-confirmed")


def test_power_loss(cluster: Cluster) -> None:
    """The group is online elsewhere; the node comes back with its log."""
    cluster.place(3)
    with cluster.watch() as seen:
        cluster.machines.call("crash", "3")
        owner = cluster.until_online(not_on=3)
        time.sleep(1)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    cluster.machines.boot(3)
    cluster.calm()
    assert cluster.owner() == owner


def test_a_machine_that_stood_still_owns_nothing_when_it_goes_on(cluster: Cluster) -> None:
    """Clocks went on (a stalled host, firmware): its lease is over before it does anything."""
    cluster.place(3)
    service = cluster.pids(3)["service"]
    with cluster.watch() as seen:
        cluster.machines.call("freeze", "3")
        began = time.monotonic()
        owner = cluster.until_online(not_on=3)
        time.sleep(max(0.0, FROZEN_S - (time.monotonic() - began)))
        cluster.machines.call("thaw", "3")
        time.sleep(5)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("answers") <= 0
    eventually(lambda: cluster.pids(3)["service"] != service, "the old process to be killed", 60)
    cluster.calm()
    assert cluster.owner() == owner


def test_a_paused_machine_may_own_for_the_rest_of_its_lease(cluster: Cluster) -> None:
    """Its clocks stood still (A5): it can know no better, but not for longer than R."""
    cluster.place(3)
    with cluster.watch() as seen:
        cluster.machines.call("pause", "3")
        owner = cluster.until_online(not_on=3)
        time.sleep(2)
        cluster.machines.call("resume", "3")
        resumed = time.monotonic()
        time.sleep(RUN_S + NOT_PUNCTUAL_S + 2)
    last = max(one.last for one in seen.sightings if one.node == "node3")
    assert last - resumed < RUN_S + NOT_PUNCTUAL_S
    eventually(lambda: cluster.pids(3)["service"] == 0, "the old process to be killed")
    cluster.calm()
    assert cluster.owner() == owner


def test_a_clock_set_back_by_a_year_moves_nothing(cluster: Cluster) -> None:
    """The owner leads, too: commands are done, and all goes on when the clock is right again."""
    cluster.place(3)
    sh, service = cluster.machines.sh, cluster.pids(3)["service"]
    sh(3, "leitwolf node lead node3")
    sh(3, "timedatectl set-ntp false || true")
    index, year = cluster.status(3)["index"], int(sh(3, "date +%Y"))
    with cluster.watch() as seen:
        sh(3, "date -s '1 year ago'")
        sh(3, "leitwolf node pause node1 && leitwolf node resume node1")
        time.sleep(3 * RUN_S)
        assert int(sh(3, "date +%Y")) < year
        sh(3, "date -s '1 year'")
        time.sleep(3 * RUN_S)
    assert cluster.pids(3)["service"] == service
    assert {one.node for one in seen.of("answers")} == {"node3"}
    # a year that passed makes all timers of the machine due at once: it is slow to answer
    cluster.until(lambda view: view["index"] >= index + 2, "what was done", (3,))
    cluster.calm()


def test_one_interconnect_less_moves_nothing(cluster: Cluster) -> None:
    """The other one carries; every node tells which of its links are down."""
    cluster.place(3)
    service = cluster.pids(3)["service"]
    with cluster.watch() as seen:
        cables(cluster, 3, "linkdown", INTERCONNECTS[0])
        time.sleep(3 * RUN_S)
        for node in NODES:
            others = set(NODES) - {node} if node == 3 else {3}
            lost = {(f"node{other}", "interconnect") for other in others}
            cluster.until(lambda view, lost=lost: links_down(view) == lost, "what it lost", (node,))
        cables(cluster, 3, "linkup", INTERCONNECTS[0])
        cluster.calm()
    assert cluster.pids(3)["service"] == service
    assert {one.node for one in seen.of("answers")} == {"node3"}


def test_a_node_without_interconnects_stops_before_another_starts(cluster: Cluster) -> None:
    """Both cables out: it ends what it ran with its lease, or itself, and says why: K, half a
    second, is short for an emulated machine.
    """
    cluster.place(3)
    boot, resets = cluster.machines.boot_id(3), resets_over_a_stop(cluster)
    with cluster.watch() as seen:
        cables(cluster, 3, "linkdown", *INTERCONNECTS)
        owner = cluster.until_online(not_on=3)
        eventually(lambda: cluster.pids(3)["service"] == 0, "the service to end there", 180)
        cluster.until(lambda view: not view["quorum"], "it to say so", (3,), 180)
    assert (cluster.machines.boot_id(3) != boot) == (resets_over_a_stop(cluster) > resets)
    cables(cluster, 3, "linkup", *INTERCONNECTS)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    cluster.calm()
    assert cluster.owner() == owner


@pytest.fixture
def usual_restarts(cluster: Cluster) -> Iterator[None]:
    """The group is restarted once where it is, as groups are that nobody told otherwise."""
    cluster.calm()
    cluster.machines.sh(1, f"leitwolf group set {GROUP} --restarts 1")
    yield
    cluster.machines.sh(1, f"leitwolf group set {GROUP} --restarts {RESTARTS}")


def test_a_node_without_its_clients_gives_the_group_away(
    cluster: Cluster, usual_restarts: None
) -> None:
    """The cable to the clients is out: whoever still has one takes the group."""
    cluster.place(3)
    with cluster.watch() as seen:
        cables(cluster, 3, "linkdown", NETS["clients"])
        cluster.until_online(not_on=3)
    cables(cluster, 3, "linkup", NETS["clients"])
    assert seen.two_owners_ms == 0
    cluster.calm()


STUCK = """
truncate -s 16M /root/stuck.image && mkfs.ext4 -q /root/stuck.image && mkdir -p /mnt/stuck &&
mount -o loop /root/stuck.image /mnt/stuck && fsfreeze -f /mnt/stuck &&
pid=$(pgrep -f '[s]h /opt/stuck.sh') && touch /run/stick && sleep 2 && grep State /proc/$pid/status
"""
"""A file system that holds whoever writes to it in the kernel, and the program that does."""
PROGRAM = "while :; do [ -e /run/stick ] && echo >/mnt/stuck/file; sleep 1; done"


def stick(cluster: Cluster) -> None:
    """Have a second group's program on node3 hang in the kernel, where no signal reaches it."""
    cluster.machines.everywhere(f"echo '{PROGRAM}' >/opt/stuck.sh")
    cluster.machines.sh(
        3, "leitwolf group add stuck --run 'sh /opt/stuck.sh' --prefer node3 --wait", 120
    )
    assert "D (disk sleep)" in cluster.machines.sh(3, STUCK)


def unstick(cluster: Cluster) -> None:
    """Remove that group."""
    cluster.machines.sh(1, "leitwolf group remove stuck --force", 120)


def test_a_lease_that_ends_over_a_stuck_program_ends_the_node(cluster: Cluster) -> None:
    """It outlives SIGKILL: the guard resets the machine, and the kernel's log says why."""
    cluster.place(3)
    stick(cluster)
    boot, resets = cluster.machines.boot_id(3), resets_over_a_stop(cluster)
    with cluster.watch() as seen:
        began = time.monotonic()
        cables(cluster, 3, "linkdown", *INTERCONNECTS)
        reset = cluster.machines.until_event(3, "RESET", began, 60) - began
        cluster.until_online(not_on=3)
    cables(cluster, 3, "linkup", *INTERCONNECTS)
    assert reset < RUN_S + NOT_PUNCTUAL_S
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    assert resets_over_a_stop(cluster) == resets + 1
    eventually(lambda: cluster.machines.boot_id(3) != boot, "another boot", 180)
    cluster.calm()
    unstick(cluster)


def test_a_stop_over_a_stuck_program_ends_the_node(cluster: Cluster) -> None:
    """The way out of docs/at-three-in-the-morning.md: the other group moves, then the reset."""
    cluster.place(3)
    stick(cluster)
    boot = cluster.machines.boot_id(3)
    with cluster.watch() as seen:
        cluster.machines.sh(3, f"systemctl stop --no-block {UNIT}")
        cluster.until_online(not_on=3)
        assert cluster.machines.boot_id(3) == boot, f"{GROUP} moves in order"
        cluster.machines.until_event(3, "RESET", seen.began, 120)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    eventually(lambda: cluster.machines.boot_id(3) != boot, "another boot", 180)
    cluster.calm()
    unstick(cluster)
