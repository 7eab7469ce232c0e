"""How long an orderly stop waits, and for whom."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from tests.policy_world import World

from leitwolf.daemon import drain
from leitwolf.daemon.drain import stop_ms
from leitwolf.model.commands import StopNode
from leitwolf.model.events import Cause
from leitwolf.model.ids import NodeId, ResourceState
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.model.state import Resource

CHAIN = {"db-disk": (), "db-ip": (), "db-app": ("db-disk", "db-ip")}
KILL_MS = drain._KILL_MS


def chain() -> dict[str, Resource]:
    world = World(1)
    world.online("db", resources=CHAIN)
    return {resource.id: resource for resource in world.members("db")}


def timed(resource: Resource, stop_timeout_ms: int) -> Resource:
    return replace(resource, parameters={"command": "x", "stop_timeout_ms": str(stop_timeout_ms)})


def test_a_stop_may_take_what_each_level_of_dependencies_may() -> None:
    """The longest of those that stop together counts, and the time to kill it."""
    found = chain()
    usual = 10_000 + KILL_MS
    assert stop_ms(list(found.values())) == 2 * usual
    found["db-app"] = timed(found["db-app"], 3_600_000)
    found["db-disk"] = timed(found["db-disk"], 40_000)
    assert stop_ms(list(found.values())) == 3_600_000 + 40_000 + 2 * KILL_MS
    found["db-app"] = replace(found["db-app"], state=ResourceState.OFFLINE)
    assert stop_ms(list(found.values())) == 40_000 + KILL_MS
    found["db-disk"] = replace(found["db-disk"], type="of-a-later-version")
    assert stop_ms(list(found.values())) == usual
    assert stop_ms([]) == 0


def test_what_could_not_be_stopped_is_not_waited_for() -> None:
    """Not for its stop timeout once more; what only failed still has to be stopped."""
    resource = chain()["db-app"]
    assert not drain._past_help(resource)
    cause = Cause(code="stop-timeout", text="processes 4711 outlive SIGKILL by 5 s")
    stuck = replace(resource, state=ResourceState.FAILED, cause=cause)
    assert drain._past_help(stuck)
    assert not drain._past_help(replace(stuck, cause=Cause(code="exited", text="")))
    assert drain._past_help(replace(resource, state=ResourceState.OFFLINE))


@pytest.mark.parametrize(
    ("weights", "stopping", "awaited"),
    [
        ((1, 1), (1, 2), {"a", "b"}),
        ((1, 2), (1, 2), {"a"}),
        ((2, 1), (1, 2), {"a", "b"}),
        ((1, 1), (1,), {"a"}),
        ((1, 1, 1), (1, 2, 3), {"a"}),
    ],
)
def test_who_is_done_waits_for_others_that_stop_and_need_it(
    weights: tuple[int, ...], stopping: tuple[int, ...], awaited: set[str]
) -> None:
    """Without node 1 they would be no quorum, and what they stop in order would be killed."""
    world = World(len(weights))
    world.online("a", preferred=(NodeId(1),))
    world.online("b", preferred=(NodeId(2),))
    for number in stopping:
        world.do(StopNode(node=NodeId(number)))
    acceptors = tuple(
        Acceptor(id=AcceptorId(NodeId(number), f"disk{number}"), weight=weight)
        for number, weight in enumerate(weights, 1)
    )
    node: Any = SimpleNamespace(
        me=NodeId(1),
        state=world.state,
        connected={NodeId(number) for number in range(2, len(weights) + 1)},
        quorum=SimpleNamespace(config=QuorumConfig(acceptors=acceptors)),
    )

    def waits_for(*, early: bool) -> set[str]:
        return {group.id for group in drain._awaited(node, others_may_stop=early)}

    assert waits_for(early=False) == awaited
    # Who needs it may be told to stop a moment later.
    assert waits_for(early=True) == (awaited if sum(weights) > 2 * weights[0] else {"a", "b"})
