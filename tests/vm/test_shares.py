"""Witness and quorum disk on shares: the kernels' own NFS 4.1 and SMB 3.1.1, real servers."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.vm.cluster import RUN_S, Cluster, eventually
from tests.vm.machines import NODES, MachineError
from tests.vm.shares import HOST, NFS, SMB, Share

pytestmark = pytest.mark.timeout(900)
HOLDER = Path(__file__).with_name("holder.py")
PYTHON = "/opt/leitwolf/bin/python"
VERSION_3 = (
    f"vers=3,nolock,soft,addr={HOST},proto=tcp,port=2049,"
    f"mountaddr={HOST},mountport=20048,mountproto=tcp"
)


@pytest.fixture(scope="module", params=[NFS, SMB], ids=lambda kind: kind.name)
def share(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Share]:
    """A share that every node has mounted."""
    cluster.calm()
    folder = tmp_path_factory.mktemp(request.param.name)
    with Share(cluster.machines, request.param, folder) as made:
        for node in NODES:
            made.mount(node)
        yield made
        for node in NODES:
            made.unmount(node)


@pytest.fixture
def nodes_alone(cluster: Cluster, share: Share) -> Iterator[None]:
    """Afterwards all is as before: machines that were off are on, nodes alone are the quorum."""
    yield
    cluster.machines.mend()
    for node in NODES:
        cluster.machines.booted(node)
        share.mount(node)
    cluster.calm()
    cluster.machines.sh(1, "leitwolf quorum set nodes", 120)
    eventually(lambda: not storage(cluster), "nodes alone to be the quorum", 120)


def storage(cluster: Cluster, node: int = 1) -> dict[str, Any]:
    """Return the disk or witness among the acceptors, as a node sees it; empty: there is none."""
    view = json.loads(cluster.machines.sh(node, "leitwolf quorum status --json"))
    found = next((one for one in view["members"] if one["kind"] != "node"), {})
    return found and {**found, "joint": view["joint"]}


def until(cluster: Cluster, what: str, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the disk or witness is as wanted, and no change of votes is under way."""
    eventually(
        lambda: (found := storage(cluster)) and not found["joint"] and wanted(found), what, 120
    )


def reached(found: dict[str, Any]) -> set[str]:
    """Return which nodes reach it."""
    return {path["node"] for path in found["paths"] if path["reaches"]}


def lead(cluster: Cluster, node: int) -> None:
    """Have a node own the group and the quorum."""
    cluster.place(node)
    name = f"node{node}"
    for _ in range(10):  # on machines as slow as these another one may be quicker
        if cluster.status(node)["leader"] == name:
            return
        with contextlib.suppress(MachineError):
            cluster.machines.sh(1, f"leitwolf quorum move {name}", 60)
        time.sleep(1)
    raise AssertionError(f"{name} does not lead")


def take_over(cluster: Cluster, what: str) -> None:
    """Node2, which owns all, loses power: node1 takes over, and no two of them run at once."""
    with cluster.watch() as seen:
        cluster.machines.call("crash", "2")
        assert cluster.until_online(on=1, not_on=2, timeout_s=240) == 1
        time.sleep(1)
    assert seen.two_owners_ms == 0
    assert seen.overlap_s("runs") <= 0
    print(f"{what}: outage {seen.outage_s():.1f} s")


def test_the_share_is_fit_for_every_node(cluster: Cluster, share: Share) -> None:
    """Each check of the self-test passes on each node; on SMB it is refused, with another way."""
    place = f"share:{share.point}/tried"
    if share.kind is SMB:
        refused(cluster, share, share.options(1), "quorum disk format")
        return
    for said in cluster.machines.everywhere(f"leitwolf witness test {place} --json"):
        found = json.loads(said)
        assert found["ok"], found
        assert len(found["checks"]) == 5
    assert not cluster.machines.sh(1, f"ls {share.point}")


def test_two_nodes_and_the_share_survive_either_loss(
    cluster: Cluster, share: Share, nodes_alone: None
) -> None:
    """A server that stands still costs nothing; it votes again, and the owner loses power."""
    if share.kind is SMB:
        place = f"{share.point}/witness"
        cluster.machines.sh(1, f"leitwolf quorum disk format {place} --create --region 2", 120)
        cluster.machines.sh(1, f"leitwolf quorum set disk {place} --witness", 120)
    else:
        place = f"share:{share.point}/witness"
        cluster.machines.sh(1, f"leitwolf quorum set witness {place}", 120)
    until(cluster, "all nodes to reach it", lambda one: len(reached(one)) == len(NODES))
    assert place in cluster.machines.sh(3, "leitwolf quorum status")
    lead(cluster, 2)
    cluster.machines.call("crash", "3")
    until(cluster, "the witness to vote", lambda one: bool(one["weight"]))
    service = cluster.pids(2)["service"]
    with cluster.watch() as seen, share.standing_still():
        until(cluster, "its loss to be seen", lambda one: not one["weight"] and not reached(one))
        time.sleep(RUN_S)
    assert seen.two_owners_ms == 0
    assert {one.node for one in seen.of("answers")} == {"node2"}
    assert cluster.pids(2)["service"] == service
    until(cluster, "the witness to vote again", lambda one: bool(one["weight"]))
    assert cluster.status(1)["leader"] == "node2"
    take_over(cluster, f"{share.kind.name} as witness")


def test_a_file_on_the_share_is_the_quorum_disk(
    cluster: Cluster, share: Share, nodes_alone: None
) -> None:
    """The disk alone decides: two of three nodes lose power, its owner among them."""
    place = f"{share.point}/disk"
    cluster.machines.sh(1, f"leitwolf quorum disk format {place} --create --region 2", 120)
    cluster.machines.sh(1, f"leitwolf quorum set disk {place}", 120)
    until(cluster, "all nodes to reach it", lambda one: len(reached(one)) == len(NODES))
    lead(cluster, 2)
    cluster.machines.call("crash", "3")
    time.sleep(RUN_S)
    assert cluster.owner() == 2
    take_over(cluster, f"{share.kind.name} as disk")


def refused(cluster: Cluster, share: Share, options: str, fix: str) -> None:
    """Mount it on node1 with other options, or more (',...'): no witness, and what to do."""
    share.unmount(1)
    try:
        share.mount(1, share.options(1) + options if options[0] == "," else options)
        with pytest.raises(MachineError, match="exit code 8\n") as caught:
            cluster.machines.sh(1, f"leitwolf quorum set witness share:{share.point}/unfit")
        assert "witness-unfit" in str(caught.value)
        assert fix in str(caught.value)
        assert not storage(cluster)
    finally:
        share.unmount(1)
        share.mount(1)


UNFIT = {
    "nfs": [(VERSION_3, "mount it with vers=4.1")],
    "smb": [(",nobrl", "mount it without nobrl"), (",cache=loose", "cache=strict")],
}


def test_unfit_mounts_are_refused(cluster: Cluster, share: Share) -> None:
    """Each with its reason and its remedy; and the folder below, when nothing is mounted."""
    for options, fix in UNFIT[share.kind.name]:
        refused(cluster, share, options, fix)
    share.unmount(1)
    with pytest.raises(MachineError, match="exit code 8\n") as caught:
        cluster.machines.sh(1, f"leitwolf quorum set witness share:{share.point}/unfit")
    assert "mount the share" in str(caught.value)
    share.mount(1)


def test_a_machine_that_lost_its_lock_writes_no_more(cluster: Cluster, share: Share) -> None:
    """It stood still with the lock, its server gave it to another: what it writes is refused.

    By NFS. That SMB takes it is why no witness is a value under a lock there.
    """
    cluster.place(1)
    run = f"{PYTHON} /opt/holder.py {share.point}/held"
    for node in (1, 3):
        cluster.machines.call("put", str(node), str(HOLDER), "/opt/holder.py")
    cluster.machines.sh(
        3,
        f"rm -f /run/go; {run} late /run/go </dev/null >/run/said 2>&1 & "
        "until grep holds /run/said; do sleep 0.1; done",
    )
    cluster.machines.call("pause", "3")
    try:
        began = time.monotonic()
        said = cluster.machines.sh(1, f"{run} newer /run", 150)
        print(f"{share.kind.name}: lock free after {time.monotonic() - began:.1f} s")
    finally:
        cluster.machines.call("resume", "3")
    assert "written newer" in said
    cluster.machines.sh(3, "touch /run/go")
    eventually(lambda: len(cluster.machines.sh(3, "cat /run/said").splitlines()) > 1, "an end", 120)
    late = cluster.machines.sh(3, "cat /run/said")
    kept = cluster.machines.sh(1, f"tr -d '\\0' <{share.point}/held; rm {share.point}/held")
    cluster.calm()
    lost = share.kind is SMB
    assert ("written" in late) is lost, late
    assert (kept == "newer") is not lost
