"""Who is told about as a sender of foreign heartbeats, and when."""

from __future__ import annotations

from leitwolf.guard.strangers import Strangers
from leitwolf.wire.guard import GUARD, Stranger, StrangersReport

S = 1_000_000_000


def heard(strangers: Strangers, now: int, address: str, count: int) -> None:
    for _ in range(count):
        strangers.note(now, address)


def test_a_stranger_is_told_once_then_now_and_then_and_forgotten() -> None:
    """Rate limited whatever comes in, counted, and gone a minute after its last datagram."""
    strangers = Strangers()
    assert strangers.news(0) is None
    heard(strangers, S, "192.0.2.9", 2)
    assert strangers.news(S) is None, "too few to say so"
    heard(strangers, 2 * S, "192.0.2.9", 5)
    report = strangers.news(2 * S)
    assert report == StrangersReport((Stranger("192.0.2.9", 7),))
    assert GUARD.decode(GUARD.encode(report)) == report
    told = []
    for second in range(3, 23):
        heard(strangers, second * S, "192.0.2.9", 20)
        told += [second] * (strangers.news(second * S) is not None)
        assert strangers.news(second * S + 1) is None
    assert told == [12, 22]
    assert strangers.news(82 * S) == StrangersReport((Stranger("192.0.2.9", 407),))
    assert strangers.news(83 * S) == StrangersReport(())
    assert strangers.news(84 * S) is None


def test_a_flood_of_addresses_is_bounded() -> None:
    """Forged senders fill a small table only."""
    strangers = Strangers()
    for number in range(1000):
        heard(strangers, S, f"10.0.{number // 250}.{number % 250}", 3)
    report = strangers.news(S)
    assert report is not None
    assert len(report.strangers) == 8
