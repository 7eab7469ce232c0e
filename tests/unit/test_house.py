"""What a node tells the cluster of itself while it runs."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.policy_world import World

from leitwolf.core.policy import Judged
from leitwolf.daemon import house
from leitwolf.daemon.house import House
from leitwolf.model.commands import Command, SetNetwork, TellAbility
from leitwolf.model.ids import NetworkRole, NodeId
from leitwolf.store.recorder import LocalRecorder
from leitwolf.system.interfaces import InterfaceAddress
from leitwolf.system.progress import Flag, Progress


def test_an_address_on_a_network_that_came_later_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network came by a command; without the addresses nobody would use it."""
    world, told = World(), list[Command]()
    found = [InterfaceAddress("eth1", "10.2.0.1", "10.2.0.0/24", 0)]
    monkeypatch.setattr(house, "interface_addresses", lambda: found)

    async def tell(command: Command) -> bool:
        told.append(command)
        return isinstance(world.command(command), Judged)

    node = cast("Any", world)
    world.me = NodeId(1)  # type: ignore[attr-defined]  # stands for the core of a node
    guard = SimpleNamespace(flags=Flag.REALTIME, counter=1)
    progress = cast("Progress", SimpleNamespace(slot=lambda _: guard))
    home = House(node, cast("LocalRecorder", None), progress, tell)

    def rounds() -> None:
        for _ in range(house._ADDRESS_ROUNDS):
            asyncio.run(home._tell_ability(world.state.nodes[NodeId(1)]))

    world.do(TellAbility(node=NodeId(1), realtime=True))
    rounds()
    assert told == []
    world.do(SetNetwork(name="ic2", subnets=("10.2.0.0/24",), role=NetworkRole.INTERCONNECT))
    rounds()
    rounds()
    assert told == [TellAbility(node=NodeId(1), realtime=True, addresses={"ic2": "10.2.0.1"})]
    assert world.state.nodes[NodeId(1)].addresses["ic2"] == "10.2.0.1"
