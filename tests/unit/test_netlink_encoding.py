"""Encoders and decoders of netlink, without a kernel."""

from __future__ import annotations

import random
import struct

import pytest

from leitwolf.system import gate, gate_rules, nfnetlink, rawnetlink


def test_attributes_are_padded_and_read_back() -> None:
    """An attribute states its true length and is followed by padding to four bytes."""
    data = rawnetlink.attribute(1, b"abcde") + rawnetlink.text(2, "xy") + rawnetlink.nest(3, b"")
    assert data == bytes.fromhex("09000100 6162636465000000 07000200 78790000 04000380")
    assert rawnetlink.decode_attributes(data) == [(1, b"abcde"), (2, b"xy\0"), (3, b"")]


def test_attribute_too_long_is_refused() -> None:
    """A length that does not fit its field is an error, not a wrong message."""
    with pytest.raises(ValueError, match="65540 bytes"):
        rawnetlink.attribute(1, bytes(65536))


@pytest.mark.parametrize("data", ["02000100", "ff000100 00000000", "00000000"])
def test_attributes_that_do_not_fit_are_refused(data: str) -> None:
    """Lengths below the header or beyond the data never loop or read past the end."""
    with pytest.raises(ValueError, match="netlink attribute"):
        rawnetlink.decode_attributes(bytes.fromhex(data))


def test_messages_that_do_not_fit_are_refused() -> None:
    """The same holds for messages."""
    with pytest.raises(ValueError, match="netlink message"):
        list(rawnetlink.decode_messages(struct.pack("=IHHII", 17, 1, 0, 0, 0)))
    with pytest.raises(ValueError, match="netlink message"):
        list(rawnetlink.decode_messages(struct.pack("=IHHII", 0, 1, 0, 0, 0)))


def test_decoders_survive_any_bytes() -> None:
    """Whatever comes, decoders return or raise ValueError."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(3000):
        data = chance.randbytes(chance.randrange(64))
        for decode in (rawnetlink.decode_attributes, rawnetlink.decode_messages):
            try:
                list(decode(data))
            except ValueError:
                continue


def test_contains_allows_more_kinds_only() -> None:
    """The kernel may add attributes of other kinds; missing, changed, repeated ones differ."""
    wanted = rawnetlink.text(1, "a") + rawnetlink.nest(2, rawnetlink.attribute(1, b"x"))
    extra = rawnetlink.attribute(9, b"handle")
    # The kernel does not always mark nested attributes.
    nested = rawnetlink.attribute(2, rawnetlink.attribute(1, b"x") + extra)
    assert rawnetlink.contains(rawnetlink.text(1, "a") + nested + extra, wanted)
    assert not rawnetlink.contains(rawnetlink.text(1, "b") + nested, wanted)
    assert not rawnetlink.contains(nested, wanted)
    assert not rawnetlink.contains(rawnetlink.text(1, "a") + nested + nested, wanted)
    assert rawnetlink.contains(nested, wanted, ignored=1)


def test_batch_is_one_transaction_with_one_acknowledgement() -> None:
    """Begin, requests, end; only the last request asks for an answer and bears the number."""
    batch = [nfnetlink.add_table(2, "t"), nfnetlink.delete_table(2, "t")]
    begin, add, delete, end = rawnetlink.decode_messages(nfnetlink.encode_batch(batch, 77))
    assert (begin.kind, end.kind) == (16, 17)
    assert begin.body == end.body == bytes((0, 0, 0, 10))
    assert (add.kind, delete.kind) == (0xA00, 0xA02)
    assert (add.flags, add.sequence) == (rawnetlink.REQUEST | rawnetlink.CREATE, 0)
    assert (delete.flags, delete.sequence) == (rawnetlink.REQUEST | rawnetlink.ACKNOWLEDGE, 77)
    assert add.body[:4] == bytes((2, 0, 0, 0))


def test_elements_come_in_messages_that_fit() -> None:
    """A thousand addresses make several messages, none of them lost or twice."""
    keys = [struct.pack(">I", number) for number in range(1200)]
    requests = nfnetlink.add_elements(2, "t", "s", keys)
    assert len(requests) == 3
    found = [key for one in requests for key in nfnetlink.element_keys(bytes(4) + one.body)]
    assert found == keys


class Recorder:
    """Stands for a channel; keeps what is sent."""

    def __init__(self) -> None:
        import threading

        self.lock = threading.Lock()
        self.sent: list[tuple[bytes, int]] = []

    def next_sequence(self) -> int:
        return 1234

    def transact(self, batch: bytearray, sequence: int) -> None:
        self.sent.append((bytes(batch), sequence))


def test_prepared_transaction_equals_a_new_one() -> None:
    """Patching timeout and number gives the same bytes as encoding anew."""
    recorder = Recorder()

    def requests(timeout_ms: int) -> nfnetlink.Batch:
        return [
            *nfnetlink.delete_elements(2, "t", "run", [b"\2"]),
            *nfnetlink.add_elements(2, "t", "run", [b"\2"], timeout_ms=timeout_ms),
            *nfnetlink.add_elements(3, "t", "run", [b"\3"], timeout_ms=timeout_ms),
        ]

    prepared = nfnetlink.Prepared(requests(1))
    prepared.send(recorder, 98765)  # type: ignore[arg-type]
    assert recorder.sent == [(nfnetlink.encode_batch(requests(98765), 1234), 1234)]


def test_every_field_has_its_own_chain_and_rules() -> None:
    """Each place of an address is checked against all three sets, in every family."""
    for family in gate_rules.FAMILIES:
        requests = gate_rules.structure(family, "t")
        rules = [one.body for one in requests if one.kind == nfnetlink.Kind.NEW_RULE]
        for name in (b"managed\0", b"held\0", b"run\0"):
            assert sum(name in body for body in rules) == len(family.fields)
        assert len(rules) == len(family.hooks) + 3 * len(family.fields)


@pytest.mark.parametrize("address", ["", "192.0.2.1/24", "192.0.2", "node1", "::g", "1.2.3.4.5"])
def test_no_address_is_refused(address: str) -> None:
    """Names, prefixes and nonsense are no addresses."""
    with pytest.raises(ValueError, match="not an IP address"):
        gate._by_length([address])
