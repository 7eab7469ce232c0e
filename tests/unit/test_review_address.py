"""A virtual address answers only under the lease that it was ordered under, and is found again."""

from __future__ import annotations

import asyncio
import ipaddress
from types import SimpleNamespace
from typing import Any

import pytest

from leitwolf.model.errors import ResourceError
from leitwolf.model.ids import GroupId, ResourceId
from leitwolf.model.observations import StartResource
from leitwolf.resources import NOT_PERMITTED
from leitwolf.resources import _rtnetlink as rtnetlink
from leitwolf.resources._network import Network, Picture
from leitwolf.resources._rtnetlink import Assigned, Link
from leitwolf.resources.ip_address import IpAddress
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL

_VIP = ipaddress.ip_interface("192.0.2.10/24")
_LINK = Link(1, "none0", 1, bytes(6), b"\xff" * 6, up=True, carrier=True, resolves=True)


def test_an_address_added_after_a_freeze_is_not_held_under_the_next_lease() -> None:
    """The host froze before the system call; meanwhile its lease ended and another began."""
    done: list[str] = []

    def record(name: str) -> Any:
        return lambda *_, **__: done.append(name)

    own = Assigned(1, ipaddress.ip_interface("192.0.2.1/24"), 0)
    network = SimpleNamespace(
        look=lambda: Picture({1: _LINK}, [own], {own.address.ip: 1}),
        present=lambda _: False,
        add=record("add"),
    )
    gate = SimpleNamespace(
        manage=record("manage"), hold=record("hold"), cover=lambda *_: done.append("cover") or True
    )
    order = StartResource(
        resource=ResourceId("vip"),
        group=GroupId("g"),
        type="ip_address",
        parameters={"address": "192.0.2.10/24"},
        lease=7,
        generation=1,
        attempt=0,
    )
    surroundings: Any = SimpleNamespace(
        order=order,
        machine=SimpleNamespace(gate=gate, network=lambda: network),
        memory={},
        remember=record("remember"),
        permitted=lambda: "other-lease",
        note=record("note"),
    )
    with pytest.raises(ResourceError) as caught:
        asyncio.run(IpAddress(surroundings).start())
    assert caught.value.code == NOT_PERMITTED
    assert "add" in done
    assert "hold" not in done


def silent_network() -> Network:
    """Return one to which the kernel has told nothing yet."""
    network = Network.__new__(Network)
    network._channel = network._picture = None  # type: ignore[assignment]
    network._drain = lambda: False  # type: ignore[method-assign]
    return network


def test_what_was_just_added_is_seen_before_the_kernel_tells_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """IPv6: the event comes from a work queue; missing in an old picture it looks removed."""
    there: list[Assigned] = []
    monkeypatch.setattr(
        rtnetlink,
        "add_address",
        lambda _, index, one: there.append(Assigned(index, one, ADDRESS_PROTOCOL)),
    )
    monkeypatch.setattr(rtnetlink, "links", lambda _: [_LINK])
    monkeypatch.setattr(rtnetlink, "addresses", lambda _: list(there))
    monkeypatch.setattr(rtnetlink, "delete_address", lambda *_: there.clear())
    network = silent_network()
    assert network.look().holder(_VIP) is None
    network.add(1, _VIP)
    assert network.look().holder(_VIP) == _LINK
    network.remove(_VIP)
    assert network.look().holder(_VIP) is None


@pytest.mark.parametrize("marked", [True, False])
def test_an_address_without_a_mark_is_taken_away_again(
    marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 5.18 drop the mark: neither host nor guard would find the address to stop."""
    there: list[Assigned] = []
    mark = ADDRESS_PROTOCOL if marked else 0
    monkeypatch.setattr(
        rtnetlink, "add_address", lambda _, index, one: there.append(Assigned(index, one, mark))
    )
    monkeypatch.setattr(rtnetlink, "addresses", lambda _: list(there))
    monkeypatch.setattr(rtnetlink, "delete_address", lambda *_: there.clear())
    network = silent_network()
    if marked:
        network.add(1, _VIP)
        assert there
        return
    with pytest.raises(ResourceError) as caught:
        network.add(1, _VIP)
    assert caught.value.code == "address-unmarked"
    assert not there
