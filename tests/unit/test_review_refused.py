"""A leader with a valid lease goes above the floor of a minority and loses nothing (L13)."""

from __future__ import annotations

from tests.lease_bench import Bench

from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import Follow, OfficeLost, TakeOffice


def test_a_refusal_that_overtakes_the_acks_does_not_end_a_new_office() -> None:
    """The first answer to a new leader may be the refusal of a minority; a quorum still counts."""
    bench = Bench()
    high = Ballot(1, 50, 2)
    bench.order(bench[2], Follow(high))
    slow = 2 * bench.latency
    bench.delay = lambda source, target, _: [bench.latency if 2 in (source, target) else slow]
    ballot = Ballot(1, 40, 1)
    bench.order(bench[1], Follow(ballot))
    bench.order(bench[1], TakeOffice(ballot, ()))
    bench.run(200)
    assert [lost.reason for lost in bench[1].told(OfficeLost)] == ["refused"]
    assert bench[1].told(OfficeLost)[0].floor == high
