"""A quorum disk on a block device of the kernel: SCSI-3 reservations of a real target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from tests.vm.cluster import Cluster, eventually
from tests.vm.machines import NODES, MachineError

from leitwolf.witness.reservations import key_of

pytestmark = pytest.mark.timeout(500)
TARGET = 3
"""Node that is the target, too."""
KIND = "Write Exclusive, registrants only"
LOG_IN = "iscsiadm -m node -l || iscsiadm -m session"
"""Who is logged in already is told so as an error."""


class Lun(NamedTuple):
    """The disk, under the same name on every node."""

    path: str
    cluster: str
    """UUID."""


def number_of(view: dict[str, Any], name: str) -> int:
    """Return the number of a node in the cluster."""
    return next(int(one["id"]) for one in view["nodes"] if one["name"] == name)


def disk_of(cluster: Cluster, node: int) -> dict[str, Any]:
    """Return the disk among the acceptors, as a node sees it; empty: there is none yet."""
    view = json.loads(cluster.machines.sh(node, "leitwolf quorum status --json"))
    return next((one for one in view["members"] if one["kind"] == "disk"), {})


def reached(cluster: Cluster, node: int) -> set[str]:
    """Return which nodes reach the disk."""
    found = disk_of(cluster, node)
    return {path["node"] for path in found["paths"] if path["reaches"]} if found else set()


def keys(cluster: Cluster, lun: Lun, node: int = 1) -> set[int]:
    """Return the registered keys, by a tool that is not Leitwolf's."""
    text = cluster.machines.sh(
        node, f"sg_persist -n -i -k {lun.path} || sg_persist -n -i -k {lun.path}"
    )
    return {int(word, 16) for word in text.split() if word.startswith("0x")}


@pytest.fixture(scope="module")
def lun(cluster: Cluster) -> Iterator[Lun]:
    """The kernel of a node as target, its LUN logged in to by all, with a vote beside theirs."""
    cluster.calm()
    machines = cluster.machines
    words = machines.call("lio", str(TARGET)).split()
    name, portal = words[1], words[3].rstrip(",")
    machines.everywhere(
        f"iscsiadm -m discovery -t sendtargets -p {portal} && {LOG_IN}; udevadm settle"
    )
    path = f"/dev/disk/by-path/ip-{portal}-iscsi-{name}-lun-0"
    machines.sh(1, f"leitwolf quorum disk format {path} --nodes 6 --region 2", 120)
    machines.sh(1, f"leitwolf quorum set disk {path} --witness", 120)
    eventually(lambda: len(reached(cluster, 1)) == len(NODES), "all nodes to reach it", 120)
    yield Lun(path, cluster.status(1)["uuid"])
    machines.sh(1, "leitwolf quorum set nodes", 120)
    cluster.calm()
    machines.everywhere("iscsiadm -m node -u; iscsiadm -m node -o delete; true")


def test_every_node_has_a_key_that_outlives_a_loss_of_power(cluster: Cluster, lun: Lun) -> None:
    """All registered, reserved for them, and nothing is said to be missing."""
    view = cluster.status(1)
    wanted = {key_of(lun.cluster, int(one["id"])) for one in view["nodes"]}
    assert keys(cluster, lun) == wanted
    assert KIND in cluster.machines.sh(1, f"sg_persist -n -i -r {lun.path}")
    kept = cluster.machines.sh(TARGET, "cat /var/target/pr/aptpl_*")
    assert {
        int(line.partition("=")[2]) for line in kept.splitlines() if "res_key" in line
    } == wanted
    assert disk_of(cluster, 1)["unfenced"] == ""


def test_the_key_of_an_evicted_node_is_removed(cluster: Cluster, lun: Lun) -> None:
    """It was off when that happened: the disk refuses its writes; it joins again as a new one."""
    cluster.calm()
    before = cluster.status(1)
    gone = key_of(lun.cluster, number_of(before, "node2"))
    cluster.machines.call("crash", "2")
    cluster.until_online(not_on=2)
    cluster.machines.sh(1, "leitwolf node evict node2 --timeout 60", 120)
    eventually(lambda: gone not in keys(cluster, lun), "its key to be removed", 60)
    left = keys(cluster, lun)
    cluster.machines.boot(2)
    cluster.machines.sh(2, f"{LOG_IN}; udevadm settle")
    last = int(cluster.machines.sh(2, f"blockdev --getsize64 {lun.path}")) // 4096 - 1
    with pytest.raises(MachineError, match=r"exit code 1\n"):
        cluster.machines.sh(
            2, f"dd if=/dev/zero of={lun.path} oflag=direct bs=4096 count=1 seek={last}"
        )
    assert "reservation conflict" in cluster.machines.sh(2, "dmesg")
    assert keys(cluster, lun) == left
    token = cluster.machines.sh(1, "leitwolf token").strip()
    cluster.machines.sh(2, f"leitwolf join {token}", 120)
    cluster.calm()
    fresh = key_of(lun.cluster, number_of(cluster.status(1), "node2"))
    eventually(lambda: keys(cluster, lun) == left | {fresh}, "a key of its own", 60)


def test_a_target_that_lost_power_knows_the_keys(cluster: Cluster, lun: Lun) -> None:
    """The other two nodes go on without it and the disk; it comes back with all its keys."""
    cluster.calm()
    before = keys(cluster, lun)
    cluster.machines.call("crash", str(TARGET))
    cluster.until_online(not_on=TARGET)
    cluster.machines.boot(TARGET)
    cluster.machines.call("lio", str(TARGET))
    cluster.machines.sh(TARGET, f"{LOG_IN}; udevadm settle")
    cluster.calm()
    eventually(lambda: len(reached(cluster, 1)) == len(NODES), "all nodes to reach it", 120)
    assert keys(cluster, lun) == before
    assert KIND in cluster.machines.sh(1, f"sg_persist -n -i -r {lun.path}")
