"""Fixed layouts: fields of fixed length share one call; the bytes are as the table says."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from leitwolf.wire.ballot import Ballot
from leitwolf.wire.layout import LayoutError, Registry

LAYOUT = Registry()


@LAYOUT.message(7)
@dataclass(frozen=True, slots=True)
class Mixed:
    """Every kind of field, fixed ones before, between and behind the others."""

    first: Ballot
    flag: bool
    second: Ballot
    text: str
    number: int
    many: tuple[int, ...]
    last: bool


MIXED = Mixed(Ballot(1, 2, 3), True, Ballot(4, 5, 6), "aé", -2, (1, 2), False)
BYTES = bytes.fromhex(
    "07 00000001 00000002 00000003 01 00000004 00000005 00000006 0003 61c3a9"
    "fffffffffffffffe 0002 0000000000000001 0000000000000002 00"
)


def test_the_bytes_are_those_of_the_table() -> None:
    """Kind, then the fields in their order, big endian, without padding."""
    assert LAYOUT.encode(MIXED) == BYTES
    assert LAYOUT.decode(BYTES) == MIXED


@pytest.mark.parametrize("at", [13, len(BYTES) - 1])
def test_a_flag_is_zero_or_one(at: int) -> None:
    """Decoding takes exactly what encoding makes."""
    with pytest.raises(LayoutError, match="boolean byte 2"):
        LAYOUT.decode(BYTES[:at] + b"\2" + BYTES[at + 1 :])


def test_no_part_of_a_message_is_a_message() -> None:
    """Short and long input is refused, wherever it ends."""
    for length in range(len(BYTES)):
        with pytest.raises(LayoutError):
            LAYOUT.decode(BYTES[:length])
    with pytest.raises(LayoutError):
        LAYOUT.decode(BYTES + b"\0")


def test_what_does_not_fit_is_refused() -> None:
    """Numbers outside of 64 and 32 bits raise the one error."""
    for wrong in (
        Mixed(Ballot(1 << 32, 2, 3), True, Ballot(4, 5, 6), "", 0, (), False),
        Mixed(Ballot(1, 2, 3), True, Ballot(4, 5, 6), "", 1 << 63, (), False),
    ):
        with pytest.raises(LayoutError):
            LAYOUT.encode(wrong)
