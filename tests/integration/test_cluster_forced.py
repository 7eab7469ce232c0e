"""Forced and prevented quorum on real nodes: the majority is gone, halves part, nodes heal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.membership_support import GUEST, MEMBERS, NODES, Members, formed

from leitwolf.model.views import StatusView

pytestmark = pytest.mark.root

_HEALED_S = 60.0
_SILENT_S = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Members]:
    # So that halves stop: with dynamic votes the one with the casting vote would go on.
    with formed("strict") as made:
        yield made


@pytest.fixture
def members(cluster: Members) -> Members:
    """Three nodes that are well; the test that needs a fourth one is the last."""
    cluster.gather()
    return cluster


def asked(members: Members, node: str, *words: str) -> dict[str, Any]:
    """Run a command with --json; return what it printed, with its exit code.

    A daemon that answers nobody is back a moment later.
    """
    deadline = time.monotonic() + _SILENT_S
    while True:
        done = members.lab.command(node, *words, "--json", timeout_s=120)
        if done.stdout or time.monotonic() > deadline:
            value: dict[str, Any] = {"exit": done.returncode, **json.loads(done.stdout)}
            if value.get("code") != "unreachable" or time.monotonic() > deadline:
                return value
        members.revive()
        time.sleep(0.2)


def until_silent(members: Members, node: str) -> None:
    """Wait until nothing speaks against a force on a node any more."""
    deadline, shown = time.monotonic() + _SILENT_S, {}
    while time.monotonic() < deadline:
        shown = asked(members, node, "force", "--show")
        if not shown["code"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"{node} may not force: {shown}")


def online(view: StatusView) -> bool:
    return view.quorum and all(group.status == "online" for group in view.groups)


def codes(view: StatusView) -> set[str]:
    return {one.code for one in view.findings}


def healed(members: Members, node: str, count: int) -> StatusView:
    """Wait until so many nodes are up and vote, as a node sees it."""

    def good(view: StatusView) -> bool:
        up = [item for item in view.nodes if item.up and item.connected]
        return online(view) and len(up) == count

    view = members.until(node, good, f"{count} nodes", _HEALED_S)
    members.until_votes(count, node=node)
    return view


def test_the_last_node_goes_on_and_the_others_heal(members: Members) -> None:
    """Two of three nodes are destroyed; the last is forced; one comes back with its old log."""
    leader = members.leader()
    [last, other] = [node for node in MEMBERS if node != leader]
    early = asked(members, last, "force", "--confirm-others-down")
    assert early["exit"] != 0
    assert early["code"] in {"quorum-exists", "others-heard"}
    for node in (leader, other):
        members.world.power_off(node)
    members.until(last, lambda view: not view.quorum, "no quorum")
    too_early = asked(members, last, "force", "--nodes", last, "--confirm-others-down")
    assert too_early["code"] in {"others-heard", "quorum-exists"}
    until_silent(members, last)
    unasked = asked(members, last, "force")
    assert unasked["code"] == "not-confirmed"
    shown = asked(members, last, "force", "--show")
    assert [item["node"] for item in shown["nodes"] if item["named"]] == [last]
    assert shown["groups"] == [{"group": "web", "node": last}]
    done = asked(members, last, "force", "--confirm-others-down")
    assert done["exit"] == 0, done
    view = members.until(last, online, "the group online")
    assert [group.owner for group in view.groups] == [last]
    text = members.log_text(last)
    assert f"root@{last} forced" in text, text
    members.lab.boot(other)
    members.until(other, lambda view: "history-set-aside" in codes(view), "set aside", _HEALED_S)
    kept = members.state(other) / "quarantine"
    assert any(path.name.startswith("quorum") for path in kept.iterdir())
    healed(members, last, 2)
    members.lab.boot(leader)
    view = healed(members, last, 3)
    assert [group.owner for group in view.groups] == [last]


def test_a_prevented_node_joins_only(members: Members) -> None:
    """Two of three nodes would be a quorum; started to join only, they wait for the third."""
    for node in MEMBERS:
        members.world.power_off(node)
    for node in MEMBERS[:2]:
        (members.state(node) / "join-only").touch()
        members.lab.boot(node)
    for node in MEMBERS[:2]:
        members.until(node, lambda view: "join-only" in codes(view), "told")
    early = members.until("n1", lambda view: view.formed, "the daemon")
    assert not early.quorum
    refused = asked(members, "n1", "force", "--nodes", "n1", "--confirm-others-down")
    assert refused["code"] == "join-only"
    done = asked(members, "n1", "node", "prevent", "--end")
    assert done["exit"] == 0, done
    members.lab.boot(MEMBERS[2])
    members.until(MEMBERS[2], lambda view: view.formed, "the daemon")
    members.settle()
    members.until("n2", lambda view: "join-only" not in codes(view), "has joined")
    assert not (members.state("n2") / "join-only").exists()


def test_two_forced_halves_refuse_each_other(members: Members) -> None:
    """Four nodes split 2:2 and both halves are forced; then one half is given up."""
    members.welcome()
    members.until_votes(len(NODES))
    halves = ("n1", "n2"), ("n3", GUEST)
    members.split(*halves)
    for half in halves:
        members.until(half[0], lambda view: not view.quorum, "no quorum")
    for half in halves:
        until_silent(members, half[0])
        done = asked(members, half[0], "force", "--confirm-others-down")
        assert done["exit"] == 0, done
    members.until("n1", online, "the group online in one half")
    # The other half finds the address in use, although it believes that it must start the group.
    members.until(
        "n3",
        lambda view: not online(view) and "address-conflict" in members.log_text("n3"),
        "the duplicate address",
    )
    members.mend()
    for node in NODES:
        members.until(node, lambda view: "two-forced-halves" in codes(view), "a loud refusal")
        found = members.lab.command(node, "check").stdout
        assert "TWO FORCED HALVES" in found, found
    assert members.status("n1").leader in halves[0]
    assert members.status("n3").leader in halves[1]
    for node in halves[1]:
        done = asked(members, node, "give-up", "--yes")
        assert done["exit"] == 0, done
    view = healed(members, "n1", 4)
    assert view.leader in halves[0]
    members.until(
        "n3",
        lambda view: online(view) and "two-forced-halves" not in codes(view),
        "the group online, and nothing told of halves",
    )
