"""Real nodes whose only acceptor is an etcd: any one of them is enough, and none without it."""

from __future__ import annotations

import pytest
from tests.integration.membership_support import MEMBERS, Members, formed
from tests.integration.place_support import Place, engine

from leitwolf.model.views import QuorumView, StatusView

pytestmark = [pytest.mark.root, pytest.mark.needs("etcd"), pytest.mark.gathers]


def use_engine(members: Members, etcd: Place) -> None:
    """Let it decide alone."""
    members.run("quorum", "set", "witness", etcd.location, "--alone")

    def alone(view: QuorumView) -> bool:
        weights = [member.weight for member in view.members if member.weight]
        return not view.joint and weights == [1] and view.votes == 1

    members.until_quorum("n1", alone, "the engine alone")


def online(view: StatusView) -> bool:
    return view.quorum and [group.status for group in view.groups] == ["online"]


def test_an_engine_is_the_only_acceptor() -> None:
    """Leader after leader dies; the last node serves; it stops without the engine and comes back.

    Changes that were confirmed before a death are there after it.
    """
    with formed() as members, engine(members) as etcd:
        before = [group.generation for group in members.status("n1").groups]
        use_engine(members, etcd)
        assert [group.generation for group in members.status("n1").groups] == before
        left = set(MEMBERS)
        for restarts in (3, 4):
            leader = members.until(min(left), online, "the group online").leader
            members.run("group", "set", "web", "--restarts", str(restarts), node=leader)
            members.world.power_off(leader)
            left.discard(leader)
            members.until(
                min(left),
                lambda view: online(view) and {view.leader, view.groups[0].owner} <= left,
                "another leader, the group online with a living owner",
            )
            assert f"restart_threshold={restarts}" in members.log_text(min(left))
        [last] = left
        etcd.lose()
        members.until(last, lambda view: not view.quorum, "no quorum without the engine")
        etcd.find()
        members.until(last, online, "the group online again")
