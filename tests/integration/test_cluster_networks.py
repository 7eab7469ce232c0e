"""Networks of a running cluster change: interconnects come and go, the group stays where it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from lab.observer import Observer
from lab.prober import Prober
from lab.world import World
from tests.integration.fault_support import SOON_MS, Calm
from tests.integration.membership_support import PORT, VIP, Members

from leitwolf.model.commands import Command, SetNetwork
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.ids import NetworkRole
from leitwolf.model.views import ClusterSetup, InitRequest, JoinRequestView, StatusView

pytestmark = [pytest.mark.root, pytest.mark.gathers]

_FIRST, _NEW = "interconnect", "another"
"""The new one comes first by its name."""
_SUBNET = "10.77.3.0/24"
_NO_UDP = (
    "add table inet deaf; "
    "add chain inet deaf in { type filter hook input priority 0; }; "
    'add rule inet deaf in iifname "ic0" meta l4proto udp drop'
)


@contextmanager
def served() -> Iterator[Members]:
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


def done(members: Members, command: Command) -> bool:
    """Return whether a command was done, which may be repeated."""
    try:
        members.client("n2").command(command)
    except LeitwolfError as error:
        if error.retryable:
            return False
        raise
    return True


def standing(members: Members) -> tuple[object, ...]:
    """Return what a failover or an election would change."""
    return members.leader(), members.owner(), members.generation()


def test_an_interconnect_is_added_to_a_running_cluster() -> None:
    """No heartbeat and no stream of the old one is lost by it, and it carries all when that dies.

    Its name comes first by the alphabet: the old one must not become another link by that.
    """
    well = {(True, True)}

    def both(view: StatusView) -> bool:
        return links_of(view) == {_FIRST: well, _NEW: well}

    def one(view: StatusView) -> bool:
        found = links_of(view)
        return found.get(_NEW) == well and not any(up for up, _ in found[_FIRST])

    with ExitStack() as stack:
        members = stack.enter_context(served())
        prober = stack.enter_context(Prober(members.world, VIP, PORT, interval_us=2000))
        observer = stack.enter_context(Observer(members.world, [VIP]))
        calm = Calm(members.lab, prober, observer)
        calm.settle()
        before = standing(members)
        added = SetNetwork(name=_NEW, subnets=(_SUBNET,), role=NetworkRole.INTERCONNECT)
        with calm.watch() as seen:
            calm.wait_for(lambda: done(members, added), "the change")
            for node in members.world.nodes:
                members.until(node, both, "both interconnects")
            assert standing(members) == before
            for node in members.world.nodes:
                members.world.cut(node, ["ic0"])
            for node in members.world.nodes:
                members.until(node, one, "the new interconnect alone")
            time.sleep(1)
            assert standing(members) == before
    assert seen.outage_ms < SOON_MS, seen.outages
    assert seen.moved(0), seen.story


def test_a_join_says_that_a_firewall_stops_the_heartbeats() -> None:
    """Also to a program: the node is a member, and takes part as soon as the port is open."""
    with ExitStack() as stack:
        world = stack.enter_context(World(2))
        members = Members(world, world.nodes)
        stack.callback(members.lab.close)
        for node in world.nodes:
            members.lab.boot(node)
        for node in world.nodes:
            members.until(node, lambda view: not view.formed, "the daemon")
        members.client("n1").form(InitRequest(interconnect=("ic0",), client=("client0",)))
        world.run("n2", ["nft", _NO_UDP])
        request = JoinRequestView(token=members.client("n1").token(60))
        *_, setup = members.client("n2").join(request)
        assert isinstance(setup, ClusterSetup)
        blocked, vote, *_ = setup.advice.splitlines()
        assert "this node is a member, but hears nobody: UDP port 6474 is blocked" in blocked
        assert "between 10.77.1.12 and 10.77.1.11; open it" in blocked
        assert "no vote yet" in vote
        world.run("n2", ["nft", "delete table inet deaf"])
        members.settle(2)
