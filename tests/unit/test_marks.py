"""Memory of what storages promised."""

from __future__ import annotations

import msgspec

from leitwolf.peers.frames import Code, Hello
from leitwolf.peers.marks import Marks
from leitwolf.wire.ballot import NO_KEY, Ballot, Key

B1, B2, B3 = Ballot(1, 1, 1), Ballot(1, 2, 2), Ballot(1, 3, 1)


def hello(
    promised: Ballot,
    last: Key = NO_KEY,
    chain: bytes = b"",
    storage: str = "s",
    position: int = 0,
) -> Hello:
    return Hello(
        cluster="c",
        node=2,
        storage=storage,
        promised=promised,
        last=last,
        position=position,
        chain=chain,
    )


def restarted(shown: Hello, session: bytes) -> Hello:
    return msgspec.structs.replace(shown, session=session)


def refused(marks: Marks, shown: Hello) -> bool:
    rejection = marks.examine(shown)
    if rejection is not None:
        assert rejection.code == Code.STATE_ROLLED_BACK
    return rejection is not None


def test_growth_is_accepted() -> None:
    """The same again, and more, is what healthy storages show."""
    marks = Marks()
    for shown in (
        hello(B1),
        hello(B1),
        hello(B1, Key(B1, 5), b"a", position=7),
        hello(B1, Key(B1, 5), b"a", position=7),
        hello(B2, Key(B1, 5), b"b", position=8),
        hello(B2, Key(B2, 6), b"c", position=9),
    ):
        assert not refused(marks, shown)


def test_lower_promise_is_refused() -> None:
    """A promise that sank was forgotten."""
    marks = Marks()
    assert not refused(marks, hello(B2))
    assert refused(marks, hello(B1))


def test_lost_entries_of_the_promised_ballot_are_refused() -> None:
    """Nobody could have truncated them: the leader of that ballot never does, others come above."""
    marks = Marks()
    assert not refused(marks, hello(B2, Key(B2, 9)))
    assert refused(marks, hello(B2, Key(B2, 8)))


def test_truncation_by_a_later_leader_is_accepted() -> None:
    """Entries of an older ballot may go when a higher one was promised, even in mid-truncation."""
    marks = Marks()
    assert not refused(marks, hello(B2, Key(B1, 9)))
    assert not refused(marks, hello(B2, Key(B1, 7)))
    assert not refused(marks, hello(B3, Key(B1, 6)))


def test_lost_committed_entries_are_refused() -> None:
    """What was acknowledged and committed is never truncated, whatever was promised since."""
    marks = Marks()
    assert not refused(marks, hello(B1, Key(B1, 9)))
    marks.note("s", B1, Key(B1, 9), held=9)
    assert refused(marks, hello(B3, Key(B1, 8)))


def test_two_copies_that_both_went_on_are_told_apart() -> None:
    """As many records with another hash chain is another log of the same storage."""
    marks = Marks()
    assert not refused(marks, hello(B1, Key(B1, 9), b"a", position=12))
    assert refused(marks, hello(B1, Key(B1, 9), b"b", position=12))


def test_fewer_records_are_refused() -> None:
    """A copy that lacks only a commit hint, under the same promise and last entry, is a copy."""
    marks = Marks()
    assert not refused(marks, hello(B1, Key(B1, 9), b"a", position=12))
    assert refused(marks, hello(B1, Key(B1, 9), b"b", position=11))


def test_what_was_acknowledged_in_between_counts() -> None:
    """Marks grow by replies too, not only by hellos, and unordered replies lower nothing."""
    marks = Marks()
    assert not refused(marks, hello(B1, Key(B1, 5), b"a"))
    marks.note("s", B2, Key(B2, 9))
    marks.note("s", B1, Key(B1, 3))
    assert refused(marks, hello(B2, Key(B2, 8), b"x"))


def test_lock_out_is_for_good() -> None:
    """A storage that stays behind is not trusted again by promising anew; other storages are."""
    marks = Marks()
    assert not refused(marks, restarted(hello(B2), b"1"))
    for _ in range(5):
        assert refused(marks, restarted(hello(B1), b"2"))
    assert refused(marks, restarted(hello(B3, Key(B3, 100)), b"2"))
    assert refused(marks, restarted(hello(B3, Key(B3, 100)), b"3"))
    assert not refused(marks, hello(B1, storage="new"))


def test_overtaken_hello_of_the_same_daemon_is_accepted() -> None:
    """A hello that a newer one or a reply of the same process overtook locks nobody out."""
    marks = Marks()
    assert not refused(marks, restarted(hello(B2, Key(B2, 9), b"a"), b"1"))
    marks.note("s", B3, Key(B3, 12), held=12)
    assert not refused(marks, restarted(hello(B1, Key(B1, 5)), b"1"))
    assert refused(marks, restarted(hello(B2, Key(B2, 9), b"a"), b"2")), "marks did not sink"


def test_leftover_of_a_dead_daemon_locks_nobody_out() -> None:
    """A late hello of the process before the last restart is refused, the living one goes on."""
    marks = Marks()
    assert not refused(marks, restarted(hello(B3), b"new"))
    for _ in range(2):
        assert refused(marks, restarted(hello(B2), b"old"))
    assert not refused(marks, restarted(hello(B3), b"new"))
    assert not refused(marks, restarted(hello(B3), b"newer"))


def test_overtaken_hello_lowers_no_mark() -> None:
    """After an overtaken hello the higher entry still counts against the next process."""
    marks = Marks()
    assert not refused(marks, restarted(hello(B2, Key(B2, 12)), b"1"))
    assert not refused(marks, restarted(hello(B2, Key(B2, 5)), b"1"))
    assert refused(marks, restarted(hello(B2, Key(B2, 9)), b"2"))


def test_leftovers_of_several_daemons_do_not_add_up() -> None:
    """Only one and the same process that comes back is locked out."""
    marks = Marks()
    assert not refused(marks, restarted(hello(B3), b"new"))
    for serial in range(10):
        assert refused(marks, restarted(hello(B2), bytes([serial])))
    assert not refused(marks, restarted(hello(B3), b"newer"))


def test_forgetting_storages_that_left() -> None:
    """Only storages that are in the log are remembered."""
    marks = Marks()
    assert not refused(marks, hello(B2))
    for _ in range(5):
        assert refused(marks, hello(B1))
    marks.forget({"s"})
    assert refused(marks, hello(B2))
    marks.forget(set())
    assert not refused(marks, hello(B1))
