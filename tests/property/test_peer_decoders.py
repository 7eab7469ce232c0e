"""What comes in on the TCP port against arbitrary input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from leitwolf.core.effects import PeerMessage
from leitwolf.core.membership.paths import Paths
from leitwolf.model.errors import MALFORMED, ProtocolError
from leitwolf.model.ids import NodeId
from leitwolf.model.observations import LinkHeard, PathReport
from leitwolf.peers.frames import (
    Framer,
    Hello,
    decode_control,
    encode_control,
    frame,
    protocol_of,
)
from leitwolf.wire.ballot import Ballot, Key

_U32 = st.integers(0, 0xFFFFFFFF)
BALLOTS = st.builds(Ballot, _U32, _U32, st.integers(0, 65535))
HELLOS = st.builds(
    Hello,
    protocol=_U32,
    cluster=st.text(max_size=40),
    node=st.integers(1, 65535),
    storage=st.text(max_size=40),
    promised=BALLOTS,
    last=st.builds(Key, BALLOTS, st.integers(0, 2**40)),
    chain=st.binary(max_size=64),
)
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("kind", "protocol", "node", "cluster", "last", "reason"))
            | st.text(max_size=4),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


def error_code(work: Callable[[], object]) -> str:
    """Return the code of the ProtocolError that this raises, '' for none; others come through."""
    try:
        work()
    except ProtocolError as error:
        return error.code
    return ""


def drain(framer: Framer, limit: int) -> None:
    while (part := framer.pop()) is not None:
        assert len(part) <= limit


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_come_out_as_they_went_in(parts: list[bytes], data: st.DataObject) -> None:
    """However the bytes are cut on their way, the same frames come out, none before it is whole."""
    stream = b"".join(frame(part) for part in parts)
    framer = Framer(300)
    heard: list[bytes] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        framer.push(stream[:cut])
        stream = stream[cut:]
        while (part := framer.pop()) is not None:
            heard.append(part)
    assert heard == parts


@given(st.binary(max_size=600), st.integers(0, 64))
def test_framer_is_bounded(data: bytes, limit: int) -> None:
    """Arbitrary bytes give frames within the limit, or ProtocolError, nothing else."""
    framer = Framer(limit)
    framer.push(data)
    assert error_code(lambda: drain(framer, limit)) in ("", "oversized")


@given(st.binary(max_size=200) | JSON_LIKE.map(msgspec.msgpack.encode))
def test_control_decoders_raise_one_error(data: bytes) -> None:
    """Arbitrary bytes and arbitrary MessagePack give a message or ProtocolError, nothing else."""
    for decode in (decode_control, protocol_of):
        assert error_code(partial(decode, data)) in ("", "malformed")


@given(HELLOS)
def test_hello_round_trip(hello: Hello) -> None:
    """A hello comes out as it went in, and its version can be read alone."""
    data = encode_control(hello)
    assert decode_control(data) == hello
    assert protocol_of(data) == hello.protocol


@given(HELLOS, st.data())
def test_altered_hello_raises_one_error(hello: Hello, data: st.DataObject) -> None:
    """A hello with a byte altered gives a message or ProtocolError, nothing else."""
    altered = bytearray(encode_control(hello))
    altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
    assert error_code(lambda: decode_control(bytes(altered))) in ("", "malformed")


@given(st.binary(max_size=200) | JSON_LIKE.map(msgspec.msgpack.encode))
def test_messages_of_the_cores_raise_what_streams_expect(data: bytes) -> None:
    """The codec of the cores' messages raises only what a stream takes for malformed."""
    try:
        msgspec.msgpack.decode(data, type=PeerMessage)
    except MALFORMED:
        return


LINKS = st.builds(
    LinkHeard,
    network=st.text(max_size=63),
    node=st.integers(1, 65535),
    heard=st.booleans(),
    since_wall=st.integers(0, 2**63 - 1),
)
REPORTS = st.builds(
    PathReport,
    paths=st.just(()),
    links=st.lists(LINKS, max_size=20).map(tuple),
    asks=st.booleans(),
)


@given(REPORTS, st.data())
def test_what_a_node_hears_comes_out_as_it_went_in(report: PathReport, data: st.DataObject) -> None:
    """Whole; with a byte altered it is a message or malformed, and is taken in or refused."""
    raw = bytearray(msgspec.msgpack.encode(report))
    assert msgspec.msgpack.decode(bytes(raw), type=PeerMessage) == report
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        altered = msgspec.msgpack.decode(bytes(raw), type=PeerMessage)
    except MALFORMED:
        return
    if isinstance(altered, PathReport):
        Paths().heard(NodeId(2), altered)


def test_deep_nesting_is_malformed() -> None:
    """Nesting beyond the recursion limit is an error of the input, not of the daemon."""
    for depth in (100, 100_000):
        data = b"\x82\xa4kind\xa5Hello\xa1x" + b"\x91" * depth + b"\xc0"
        for decode in (decode_control, protocol_of):
            assert error_code(partial(decode, data)) == "malformed"
