"""Networks of a running cluster change: interconnects come and go, the group stays where it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lab.observer import Observer
from lab.prober import Prober
from lab.world import World
from tests.integration.fault_support import Calm
from tests.integration.membership_support import PORT, VIP, Members

from leitwolf.model.commands import SetNetwork
from leitwolf.model.ids import NetworkRole
from leitwolf.model.views import StatusView

pytestmark = pytest.mark.root

_FIRST, _NEW = "interconnect", "another"
"""The new one comes first by its name."""
_SUBNET = "10.77.3.0/24"


@pytest.fixture
def members() -> Iterator[Members]:
    """Three nodes on one interconnect, though their machines have two; a group is online."""
    with World(3, interconnects=2) as world:
        members = Members(world)
        try:
            members.form()
            members.serve()
            yield members
        finally:
            members.lab.close()


def links_of(view: StatusView) -> dict[str, set[tuple[bool, bool]]]:
    """Return of each interconnect whether it is up and has a stream, to all other nodes."""
    found: dict[str, set[tuple[bool, bool]]] = {}
    for node in view.nodes:
        for link in node.links:
            found.setdefault(link.network, set()).add((link.up, link.stream))
    return found


def standing(members: Members) -> tuple[object, ...]:
    """Return what a failover or an election would change."""
    return members.leader(), members.owner(), members.generation()


def test_an_interconnect_is_added_to_a_running_cluster(members: Members) -> None:
    """No heartbeat and no stream of the old one is lost by it, and it carries all when that dies.

    Its name comes first by the alphabet: the old one must not become another link by that.
    """
    well = {(True, True)}

    def both(view: StatusView) -> bool:
        return links_of(view) == {_FIRST: well, _NEW: well}

    def one(view: StatusView) -> bool:
        found = links_of(view)
        return found[_NEW] == well and not any(up for up, _ in found[_FIRST])

    with ExitStack() as stack:
        prober = stack.enter_context(Prober(members.world, VIP, PORT, interval_us=2000))
        observer = stack.enter_context(Observer(members.world, [VIP]))
        calm, before = Calm(members.lab, prober, observer), standing(members)
        calm.settle()
        added = SetNetwork(name=_NEW, subnets=(_SUBNET,), role=NetworkRole.INTERCONNECT)
        with calm.watch() as seen:
            members.client("n2").command(added)
            for node in members.world.nodes:
                members.until(node, both, "both interconnects")
            assert standing(members) == before
            for node in members.world.nodes:
                members.world.cut(node, ["ic0"])
            for node in members.world.nodes:
                members.until(node, one, "the new interconnect alone")
            time.sleep(1)
            assert standing(members) == before
    assert seen.outage_ms < 1_000, seen.outages
    assert seen.moves == 0, seen.story
