"""The envelope of heartbeats against arbitrary input."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from leitwolf.guard.seal import KeyRing, Opener, Sealer

RING = KeyRing([bytes(range(32))])


@given(st.binary(max_size=1300))
def test_random_bytes_are_dropped(data: bytes) -> None:
    """Arbitrary bytes raise nothing, open to nothing and are counted once."""
    opener = Opener(RING, range(1, 9))
    assert opener.open(data) is None
    assert opener.drops.total == 1


@given(st.binary(max_size=1200))
def test_random_bytes_behind_an_honest_header_are_dropped(data: bytes) -> None:
    """Arbitrary ciphertext under a known key, sender and session is counted and dropped."""
    honest = Sealer(RING, 1).seal(0, b"message")
    opener = Opener(RING, [1])
    assert opener.open(honest[:26] + data) is None
    assert opener.drops.total == 1
    assert opener.open(honest) is not None


@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_flipped_bit_is_dropped(message: bytes, data: st.DataObject) -> None:
    """Whichever bit is flipped, the datagram is dropped and counted; the honest one still opens."""
    honest = Sealer(RING, 3).seal(2, message)
    bit = data.draw(st.integers(0, len(honest) * 8 - 1))
    flipped = bytearray(honest)
    flipped[bit // 8] ^= 1 << bit % 8
    opener = Opener(RING, range(1, 9))
    assert opener.open(bytes(flipped)) is None
    assert opener.drops.total == 1
    assert opener.open(honest) == (3, 2, message)


def test_every_single_bit_of_one_datagram() -> None:
    """All bits of one datagram, one after the other."""
    honest = Sealer(RING, 3).seal(2, b"message")
    opener = Opener(RING, range(1, 9))
    for bit in range(len(honest) * 8):
        flipped = bytearray(honest)
        flipped[bit // 8] ^= 1 << bit % 8
        assert opener.open(bytes(flipped)) is None, bit
    assert opener.drops.total == len(honest) * 8


@given(st.integers(0, 2**32))
def test_window_equals_a_plain_model(seed: int) -> None:
    """In any order with repeats, exactly that is taken which the definition allows."""
    print(f"seed {seed}")
    chooser = random.Random(seed)
    sealer, opener = Sealer(RING, 1), Opener(RING, [1])
    datagrams = [sealer.seal(0, b"x") for _ in range(200)]
    newest, taken, at = 0, set(), 0
    for _ in range(400):
        at = min(199, max(0, at + chooser.choice((-70, -64, -63, -3, -1, 0, 1, 2, 5, 66))))
        counter = at + 1
        expected = counter not in taken and counter > newest - 64
        assert (opener.open(datagrams[at]) is not None) == expected
        if expected:
            taken.add(counter)
            newest = max(newest, counter)
