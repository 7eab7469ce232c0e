"""Links between two nodes, as a third one knows them: broken on one interconnect of two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from lab.cluster import ClusterError, LabCluster, all_up
from lab.world import World

pytestmark = [pytest.mark.root, pytest.mark.gathers]

_WAIT_S = 30.0
_SUBNET = "10.77.3.0/24"
_DEAF = (
    "add table inet deaf; "
    "add chain inet deaf in {{ type filter hook input priority 0; }}; "
    'add rule inet deaf in iifname "ic1" ip saddr {address} drop'
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LabCluster]:
    """Three nodes on two interconnects."""
    with ExitStack() as stack:
        world = stack.enter_context(World(3, interconnects=2))
        found = LabCluster(world)
        stack.callback(found.close)
        found.form()
        yield found


def whole(cluster: LabCluster) -> None:
    """Have all nodes on, and hear each other on both interconnects."""
    for node in cluster.world.nodes:
        if not cluster.world.pid(node):
            cluster.boot(node)
        cluster.world.run(node, ["nft", "delete table inet deaf"], check=False)
    cluster.wait("n1", lambda view: not cluster.revive() and all_up(3)(view), "all nodes to be up")
    until(cluster, links("up"))


def deafen(cluster: LabCluster, node: str, other: str) -> None:
    """Let a node hear nothing of another one on the second interconnect."""
    rules = _DEAF.format(address=cluster.world.address(other, "ic1"))
    cluster.world.run(node, ["nft", rules])


def asked(cluster: LabCluster, node: str = "n1") -> dict[str, Any]:
    """Return the second interconnect with all links, as the command prints it for programs."""
    try:
        found = cluster.ask(node, "network", "list")
    except ClusterError as error:
        found = [{"subnets": [_SUBNET], "pairs": [], "error": str(error)}]
    return next(item for item in found if _SUBNET in item["subnets"])


def until(
    cluster: LabCluster, wanted: dict[tuple[str, str], str], node: str = "n1", **said: str
) -> Any:
    """Wait until the links of the second interconnect are so; return them by their nodes.

    Args:
        cluster: of three.
        wanted: states, by the nodes.
        node: that is asked.
        said: how links are told in words, by their nodes as ``n1_n2``.
    """
    deadline = time.monotonic() + _WAIT_S
    while True:
        network = asked(cluster, node)
        pairs = {tuple(pair["nodes"]): pair for pair in network["pairs"]}
        states = {nodes: pair["state"] for nodes, pair in pairs.items()}
        told = {"_".join(nodes): pair["reason"] for nodes, pair in pairs.items()}
        if states == wanted and said.items() <= told.items():
            return pairs
        assert time.monotonic() < deadline, (wanted, said, network)
        time.sleep(0.1)


def until_printed(cluster: LabCluster, wanted: Callable[[str], bool], *words: str) -> None:
    """Wait until a command prints what is wanted."""
    deadline = time.monotonic() + _WAIT_S
    while not wanted(printed := cluster.command("n1", *words).stdout):
        assert time.monotonic() < deadline, printed
        time.sleep(0.1)


def links(last: str) -> dict[tuple[str, str], str]:
    return {("n1", "n2"): "up", ("n1", "n3"): "up", ("n2", "n3"): last}


def test_a_node_knows_a_broken_link_between_two_others(cluster: LabCluster) -> None:
    """One way, both ways, and well again; the other interconnect is untouched all the time."""
    whole(cluster)
    leader = cluster.status("n1")["leader"]
    assert not any(network["pairs"] for network in cluster.status("n1")["networks"])
    begun = time.time()
    deafen(cluster, "n3", "n2")
    said = "one way: n2 hears n3, n3 does not hear n2"
    found = until(cluster, links("one-way"), n2_n3=said)
    assert [end["hears"] for end in found["n2", "n3"]["ends"]] == [True, False]
    for node in ("n2", "n3"):
        until(cluster, links("one-way"), node)
    deafen(cluster, "n2", "n3")
    found = until(cluster, links("down"))
    assert begun < found["n2", "n3"]["since_wall"] / 1e9 < time.time()
    said = "n2 and n3 do not hear each other"

    def on_one_line(tree: str) -> bool:
        lines = [line for line in tree.splitlines() if said in line]
        return len(lines) == 1 and _SUBNET in lines[0]

    def listed(text: str) -> bool:
        heard = text.count("● n2 and n3 hear each other") == 1
        return heard and f"○ {said}  since 20" in text

    until_printed(cluster, on_one_line, "status")
    until_printed(cluster, listed, "network", "list")
    for node in ("n2", "n3"):
        cluster.world.run(node, ["nft", "delete table inet deaf"])
    until(cluster, links("up"))
    until_printed(cluster, lambda tree: said not in tree, "status")
    assert cluster.status("n1")["leader"] == leader


def test_what_a_node_said_that_is_off_is_not_shown(cluster: LabCluster) -> None:
    """A moment later it is not known what it hears, and soon nobody hears it."""
    whole(cluster)
    deafen(cluster, "n2", "n3")
    until(cluster, links("one-way"))
    cluster.world.power_off("n3")
    unknown = "whether n3 hears {0} is not known: n3 is not heard"
    said = {
        f"{node}_n3": f"{node} does not hear n3; {unknown.format(node)}" for node in ("n1", "n2")
    }
    down = {("n1", "n2"): "up", ("n1", "n3"): "down", ("n2", "n3"): "down"}
    until(cluster, down, **said)
