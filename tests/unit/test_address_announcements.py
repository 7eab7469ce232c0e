"""When neighbours are told of a virtual address, in simulated time."""

from __future__ import annotations

import asyncio
import ipaddress
import selectors
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from leitwolf.model.ids import GroupId, ResourceId
from leitwolf.model.observations import StartResource
from leitwolf.resources._neighbour import Claim
from leitwolf.resources._network import Picture
from leitwolf.resources._rtnetlink import Assigned, Link
from leitwolf.resources.ip_address import IpAddress
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL

ADDRESSES = ["192.0.2.10/24", "2001:db8::10/64"]
LINK = Link(1, "none0", 1, bytes(6), b"\xff" * 6, up=True, carrier=True, resolves=False)


class Jumping(asyncio.SelectorEventLoop):
    """A loop that waits for nothing: its clock is put to when the next timer is due."""

    def __init__(self) -> None:
        selector = selectors.SelectSelector()
        wait = selector.select

        def select(timeout: float | None = None) -> Any:
            self.at += timeout or 0
            return wait(0)

        selector.select = select  # type: ignore[method-assign]
        self.at = 1_000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.at


class Told:
    """A network that notes at which second neighbours are told, and who listens for claims."""

    def __init__(self, address: str) -> None:
        self.address = ipaddress.ip_interface(address)
        self.at: list[float] = []
        self.claims: Callable[[Claim], None] = lambda _: None
        self.reason = ""
        self.notes: list[str] = []
        network = self.address.network
        own = ipaddress.ip_interface(f"{network[1]}/{network.prefixlen}")
        self.assigned = [Assigned(1, own, 0), Assigned(1, self.address, ADDRESS_PROTOCOL)]

    def look(self) -> Picture:
        return Picture({1: LINK}, self.assigned, {one.address.ip: 1 for one in self.assigned})

    def present(self, _: object) -> bool:
        return True

    def add(self, *_: object) -> None:
        pass

    def on_change(self, _: object) -> Callable[[], None]:
        return lambda: None

    def listen(self, _: object, heard: Callable[[Claim], None]) -> Callable[[], None]:
        self.claims = heard
        return lambda: None

    def announce(self, *_: object) -> None:
        self.at.append(round(asyncio.get_running_loop().time() - 1_000, 3))

    def resource(self) -> IpAddress:
        gate = SimpleNamespace(
            manage=lambda _: None, hold=lambda *_, **__: None, cover=lambda *_: True
        )
        order = StartResource(
            resource=ResourceId("vip"),
            group=GroupId("g"),
            type="ip_address",
            parameters={"address": str(self.address)},
            lease=7,
            generation=1,
            attempt=1,
        )
        surroundings: Any = SimpleNamespace(
            order=order,
            machine=SimpleNamespace(gate=gate, network=lambda: self),
            remember=lambda _: None,
            permitted=lambda: self.reason,
            note=lambda code, _: self.notes.append(code),
        )
        return IpAddress(surroundings)


def lived(scene: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=Jumping) as runner:
        runner.run(scene())


async def watched(vip: IpAddress, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(vip.watch(), seconds)


@pytest.mark.parametrize("address", ADDRESSES)
def test_neighbours_are_told_at_once_again_soon_and_every_30_seconds(address: str) -> None:
    """Packets get lost, switches learn late and forget; both families."""
    told = Told(address)

    async def scene() -> None:
        vip = told.resource()
        await vip.start()
        assert told.at == [0], "the first one is part of the start"
        await watched(vip, 101)

    lived(scene)
    assert told.at == [0, 0.05, 0.2, 1, 2, 5, 10, 40, 70, 100]


def test_an_adopted_address_is_told_of_every_30_seconds_only() -> None:
    """The first ones were told by the host before; and without permission none is."""
    told = Told(ADDRESSES[0])

    async def scene() -> None:
        vip = told.resource()
        assert await vip.adopt()
        await watched(vip, 61)
        told.reason = "lease-over"
        await watched(vip, 61)

    lived(scene)
    assert told.at == [30, 60]


def test_a_claim_of_somebody_else_is_answered_at_most_every_10_seconds() -> None:
    """Each is reported; a probe is left to the kernel."""
    told = Told(ADDRESSES[0])

    async def scene() -> None:
        vip = told.resource()
        assert await vip.adopt()
        watching = asyncio.ensure_future(watched(vip, 29))
        for probing in (True, *[False] * 25):
            await asyncio.sleep(1)
            told.claims(Claim(told.address.ip, bytes(6), probing=probing))
        await watching

    lived(scene)
    assert told.at == [2, 12, 22]
    assert told.notes == ["address-conflict"] * 25
