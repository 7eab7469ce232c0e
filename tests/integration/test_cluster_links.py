"""Links between two nodes, as a third one knows them: broken on one interconnect of two."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from lab.cluster import LabCluster
from lab.world import World

pytestmark = pytest.mark.root

_WAIT_S = 20.0
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


def deafen(cluster: LabCluster, node: str, other: str) -> None:
    """Let a node hear nothing of another one on the second interconnect."""
    rules = _DEAF.format(address=cluster.world.address(other, "ic1"))
    cluster.world.run(node, ["nft", rules])


def asked(cluster: LabCluster, node: str = "n1") -> dict[str, Any]:
    """Return the second interconnect with all links, as the command prints it for programs."""
    found = cluster.ask(node, "network", "list")
    return next(item for item in found if _SUBNET in item["subnets"])


def until(cluster: LabCluster, wanted: dict[tuple[str, str], str], node: str = "n1") -> Any:
    """Wait until the links of the second interconnect are so; return them by their nodes."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        network = asked(cluster, node)
        pairs = {tuple(pair["nodes"]): pair for pair in network["pairs"]}
        if {nodes: pair["state"] for nodes, pair in pairs.items()} == wanted:
            return pairs
        assert time.monotonic() < deadline, (wanted, network)
        time.sleep(0.1)


def links(last: str) -> dict[tuple[str, str], str]:
    return {("n1", "n2"): "up", ("n1", "n3"): "up", ("n2", "n3"): last}


def test_a_node_knows_a_broken_link_between_two_others(cluster: LabCluster) -> None:
    """One way, both ways, and well again; the other interconnect is untouched all the time."""
    leader = cluster.status("n1")["leader"]
    until(cluster, links("up"))
    assert not any(network["pairs"] for network in cluster.status("n1")["networks"])
    deafen(cluster, "n3", "n2")
    found = until(cluster, links("one-way"))
    said = "one way: n2 hears n3, n3 does not hear n2"
    assert found["n2", "n3"]["reason"] == said
    assert [end["hears"] for end in found["n2", "n3"]["ends"]] == [True, False]
    for node in ("n2", "n3"):
        until(cluster, links("one-way"), node)
    deafen(cluster, "n2", "n3")
    found = until(cluster, links("down"))
    age_s = time.time() - found["n2", "n3"]["since_wall"] / 1e9
    assert 0 < age_s < _WAIT_S
    said = "n2 and n3 do not hear each other"
    tree = cluster.command("n1", "status").stdout
    [line] = [line for line in tree.splitlines() if said in line]
    assert _SUBNET in line
    listed = cluster.command("n1", "network", "list").stdout
    assert f"○ {said}  since 20" in listed
    assert listed.count("● n2 and n3 hear each other") == 1
    for node in ("n2", "n3"):
        cluster.world.run(node, ["nft", "delete table inet deaf"])
    until(cluster, links("up"))
    assert said not in cluster.command("n1", "status").stdout
    assert cluster.status("n1")["leader"] == leader


def test_what_a_node_said_that_is_off_is_not_shown(cluster: LabCluster) -> None:
    """A moment later it is not known what it hears, and soon nobody hears it."""
    deafen(cluster, "n2", "n3")
    until(cluster, links("one-way"))
    cluster.world.power_off("n3")
    found = until(cluster, {("n1", "n2"): "up", ("n1", "n3"): "down", ("n2", "n3"): "down"})
    unknown = "whether n3 hears {0} is not known: n3 is not heard"
    for node in ("n1", "n2"):
        words = f"{node} does not hear n3; {unknown.format(node)}"
        assert found[node, "n3"]["reason"] == words
