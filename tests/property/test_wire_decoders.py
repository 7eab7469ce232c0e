"""The fixed layouts and the orders of the host against arbitrary input."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leitwolf.guard.seal import MESSAGE_BYTES_MAX
from leitwolf.model.errors import MALFORMED
from leitwolf.model.limits import FORCES_MAX, NODES_MAX
from leitwolf.model.observations import HostOrder, HostReport
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import GUARD, GuardCommand, GuardReport, StopEverything
from leitwolf.wire.heartbeat import PEER, PeerMessage
from leitwolf.wire.keeper import KEEPER, KeeperMessage
from leitwolf.wire.layout import LayoutError, Registry

MESSAGES: dict[str, tuple[Registry, Any]] = {
    "heartbeat": (PEER, PeerMessage),
    "guard": (GUARD, GuardCommand | GuardReport),
    "keeper": (KEEPER, KeeperMessage),
}
KINDS = [
    pytest.param(registry, kind, id=f"{channel}-{kind.__name__}")
    for channel, (registry, kinds) in MESSAGES.items()
    for kind in typing.get_args(kinds)
]
HOST = {"orders": HostOrder, "reports": HostReport}
_U32 = st.integers(0, 2**32 - 1)
_SCALARS: dict[object, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
    Ballot: st.builds(Ballot, _U32, _U32, _U32),
    bytes: st.binary(max_size=20),
    str: st.text(max_size=20),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Every value of a field, within sizes that keep a test short."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if typing.get_origin(kind) is tuple:
        return st.lists(values(typing.get_args(kind)[0]), max_size=3).map(tuple)
    hints = typing.get_type_hints(kind)
    return st.builds(kind, *(values(hints[field.name]) for field in dataclasses.fields(kind)))


def demand_exact(registry: Registry, data: bytes) -> None:
    """Demand of some bytes that they are refused, or are the encoding of what they decode to."""
    try:
        message = registry.decode(data)
    except LayoutError:
        return
    assert registry.encode(message) == data


@pytest.mark.parametrize("channel", MESSAGES)
def test_a_channel_has_exactly_the_messages_of_its_union(channel: str) -> None:
    """So that nothing escapes the tests below."""
    registry, kinds = MESSAGES[channel]
    assert set(typing.get_args(kinds)) == set(registry._class_of.values())


@pytest.mark.parametrize(("registry", "kind"), KINDS)
@settings(max_examples=15)
@given(st.data())
def test_messages_come_out_as_they_went_in(
    registry: Registry, kind: type, data: st.DataObject
) -> None:
    """Whole; cut anywhere, longer or with a byte altered anywhere: LayoutError or a round trip."""
    message = data.draw(values(kind))
    encoded = registry.encode(message)
    assert registry.decode(encoded) == message
    other = bytes([data.draw(st.integers(0, 255))])
    for at in range(len(encoded)):
        demand_exact(registry, encoded[:at])
        demand_exact(registry, encoded[:at] + other + encoded[at + 1 :])
    demand_exact(registry, encoded + other)


@pytest.mark.parametrize("channel", MESSAGES)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_exact(channel: str, noise: bytes) -> None:
    """Noise behind any kind number gives LayoutError or round trips, nothing else."""
    registry, _ = MESSAGES[channel]
    demand_exact(registry, noise)
    for kind in registry._class_of:
        demand_exact(registry, bytes([kind]) + noise)


def test_size_of_a_message_is_bounded() -> None:
    """65535 bytes in all, kind and length included; above it, and above a length field: refused."""
    largest = StopEverything("x" * (65_535 - 3))
    assert len(GUARD.encode(largest)) == 65_535
    assert GUARD.decode(GUARD.encode(largest)) == largest
    for length in (65_535 - 2, 65_536):
        with pytest.raises(LayoutError):
            GUARD.encode(StopEverything("x" * length))


@pytest.mark.parametrize("kind", typing.get_args(PeerMessage))
def test_messages_of_guards_fit_their_envelope(kind: type) -> None:
    """With as many nodes and forces as there may be, every message is still one datagram."""
    largest = {"lineage": FORCES_MAX, "apart": NODES_MAX}
    fields: dict[str, object] = dict.fromkeys(typing.get_type_hints(kind), 0)
    fields |= {name: Ballot(0, 0, 0) for name in fields.keys() & {"ballot", "floor"}}
    fields |= {name: (0,) * count for name, count in largest.items() if name in fields}
    assert len(PEER.encode(kind(**fields))) <= MESSAGE_BYTES_MAX


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("kind", "resource", "group", "generation", "lease", "parameters"))
            | st.text(max_size=4),
            inner | st.sampled_from(("StartResource", "CloseGroup", "Inventory")),
            max_size=7,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("channel", HOST)
@given(st.binary(max_size=200) | JSON_LIKE.map(msgspec.msgpack.encode))
def test_noise_on_the_host_channel_is_refused_or_exact(channel: str, noise: bytes) -> None:
    """Arbitrary bytes and MessagePack give a message that round trips, or MALFORMED."""
    decoder = msgspec.msgpack.Decoder(HOST[channel])
    try:
        message = decoder.decode(noise)
    except MALFORMED:
        return
    assert decoder.decode(msgspec.msgpack.encode(message)) == message
