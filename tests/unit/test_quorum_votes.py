"""What one acceptor promises and accepts, with its guard in the hands of the test."""

from __future__ import annotations

import msgspec
import pytest
from tests.quorum_world import MS, PROMISE, configuration, identity, snapshot_at

from leitwolf.core.effects import AskGuard, Effect, SaveSnapshot, Send, Write
from leitwolf.core.messages import (
    Append,
    Appended,
    Gap,
    InstallSnapshot,
    Prepare,
    PreProbe,
    PreProbeReply,
    Promised,
    QuorumMessage,
    Refused,
    SnapshotInstalled,
)
from leitwolf.core.quorum import QuorumCore, Restored
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.errors import InvariantError, ProtocolError
from leitwolf.model.log import Entry, Loaded, PromisedRecord, TruncateRecord
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key
from leitwolf.wire.guard import Fence, Fenced, FenceRefused, Follow
from leitwolf.wire.page import LeasePage

NOW = 5_000 * MS


def ballot(round_: int, node: int) -> Ballot:
    return Ballot(0, round_, node)


def entry(index: int, of: Ballot, payload: bytes = b"x") -> Entry:
    return Entry(index=index, ballot=of, payload=payload)


class Acceptor:
    """Node 1 of three, alone with the test."""

    def __init__(self, loaded: Loaded | None = None, rules: Rules = ALL_RULES) -> None:
        self.page = LeasePage(heartbeat=50 * MS)
        self.guard_answers = True
        self.core = QuorumCore(
            me=identity(1),
            loaded=loaded or Loaded(),
            config=configuration(1, 2, 3),
            page=lambda: self.page,
            promise_ns=PROMISE,
            now=NOW,
            rules=rules,
        )

    def hear(self, node: int, message: QuorumMessage, now: int = NOW) -> list[Effect]:
        self.core.receive(now, node, message)
        effects = self.core.take_effects()
        if self.guard_answers:
            for effect in list(effects):
                if isinstance(effect, AskGuard) and isinstance(effect.command, Follow):
                    effects += self.follows(effect.command.ballot, now)
        return effects

    def follows(self, floor: Ballot, now: int = NOW) -> list[Effect]:
        """The guard took a floor, and the core looks at the page."""
        self.page = self.page._replace(floor=floor)
        self.core.tick(now)
        return self.core.take_effects()

    def guard(self, report: Fenced | FenceRefused) -> list[Effect]:
        self.core.guard(NOW, report)
        return self.core.take_effects()


def fenced(of: Ballot) -> Fenced:
    return Fenced(of, NO_BALLOT, freed=True, no_memory=False)


def prepare(of: Ballot, key: Key = NO_KEY) -> Prepare:
    return Prepare(ballot=of, key=key)


def append(of: Ballot, previous: Key, *entries: Entry, commit: int = 0) -> Append:
    return Append(ballot=of, previous=previous, entries=entries, commit=commit)


def replies(effects: list[Effect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def test_guard_first_then_disk_then_promise() -> None:
    """The guard is asked, then the promise is written, and it leaves when that is durable."""
    acceptor = Acceptor()
    assert acceptor.hear(2, prepare(ballot(3, 2))) == [AskGuard(command=Fence(ballot(3, 2)))]
    write, send = acceptor.guard(fenced(ballot(3, 2)))
    assert write == Write(position=1, records=(PromisedRecord(ballot=ballot(3, 2)),))
    assert isinstance(send, Send)
    assert send.after == 1
    assert isinstance(send.message, Promised)
    assert (send.message.freed, send.message.storage) == (True, "disk-1")
    assert acceptor.core.written == ballot(3, 2)


def test_only_higher_ballots_are_promised() -> None:
    """R1: an equal or lower ballot is refused without asking the guard."""
    acceptor = Acceptor(Loaded(promised=ballot(5, 3)))
    for of in (ballot(5, 2), ballot(4, 3)):
        [refused] = replies(acceptor.hear(of.node, prepare(of)))
        assert isinstance(refused, Refused)
        assert refused.promised == ballot(5, 3)


@pytest.mark.parametrize("rules", [ALL_RULES, Rules.without("promise-above")])
def test_a_promise_that_moved_meanwhile_wins(rules: Rules) -> None:
    """The guard's late consent to a lower ballot is dropped (the rule promise-above is needed)."""
    acceptor = Acceptor(rules=rules)
    acceptor.hear(2, prepare(ballot(1, 2)))
    acceptor.hear(3, append(ballot(5, 3), NO_KEY))
    effects = acceptor.guard(fenced(ballot(1, 2)))
    written = [effect for effect in effects if isinstance(effect, Write)]
    if rules is ALL_RULES:
        assert not written
        assert acceptor.core.promised == ballot(5, 3)
        assert isinstance(replies(effects)[0], Refused)
    else:
        assert acceptor.core.promised == ballot(1, 2)


def test_who_is_behind_is_refused() -> None:
    """R2: a candidate without this node's last entry is refused, and told what it lacks."""
    key = Key(ballot(2, 3), 1)
    acceptor = Acceptor(Loaded(promised=ballot(2, 3), entries=(entry(1, ballot(2, 3)),)))
    [refused] = replies(acceptor.hear(2, prepare(ballot(7, 2), Key(ballot(1, 2), 9))))
    assert isinstance(refused, Refused)
    assert refused.key == key
    assert acceptor.hear(2, prepare(ballot(7, 2), key)) == [AskGuard(command=Fence(ballot(7, 2)))]


def test_log_that_grew_meanwhile_is_counted() -> None:
    """R2 is checked again when the guard answers."""
    acceptor = Acceptor()
    acceptor.hear(2, prepare(ballot(9, 2)))
    acceptor.hear(3, append(ballot(5, 3), NO_KEY, entry(1, ballot(5, 3))))
    [refused] = replies(acceptor.guard(fenced(ballot(9, 2))))
    assert isinstance(refused, Refused)
    assert refused.key == Key(ballot(5, 3), 1)


def test_no_guard_no_promise() -> None:
    """A fence asked of a guard that went away is void, even if its answer still comes."""
    acceptor = Acceptor()
    acceptor.hear(2, prepare(ballot(3, 2)))
    acceptor.core.guard_lost(NOW)
    assert acceptor.guard(fenced(ballot(3, 2))) == []
    assert acceptor.core.promised == NO_BALLOT


def test_refusal_of_the_guard_is_passed_on() -> None:
    """R5: while the guard is bound the candidate hears for how long."""
    acceptor = Acceptor()
    acceptor.hear(2, prepare(ballot(3, 2)))
    report = FenceRefused(ballot(3, 2), ballot(1, 3), ballot(1, 3), remaining=7 * MS)
    [refused] = replies(acceptor.guard(report))
    assert isinstance(refused, Refused)
    assert (refused.remaining, refused.promised) == (7 * MS, ballot(1, 3))


@pytest.mark.parametrize(
    ("page", "willing"),
    [
        ({}, True),
        ({"promise_end": NOW + MS, "renewed": Ballot(0, 1, 3)}, False),
        ({"promise_end": NOW + MS, "renewed": Ballot(0, 1, 3), "freed": True}, True),
        ({"promise_end": NOW + MS, "renewed": Ballot(0, 1, 2)}, True),
        ({"promise_end": NOW, "renewed": Ballot(0, 1, 3)}, True),
        ({"fence_from": NOW + MS}, False),
    ],
)
def test_pre_probe_tells_what_a_prepare_would_meet(page: dict[str, int], willing: bool) -> None:
    """Willing only while the guard is free for this candidate; nothing is written or asked."""
    acceptor = Acceptor()
    acceptor.page = acceptor.page._replace(**page)  # type: ignore[arg-type]
    effects = acceptor.hear(2, PreProbe(round=4, key=NO_KEY))
    [reply] = replies(effects)
    assert len(effects) == 1
    assert isinstance(reply, PreProbeReply)
    assert (reply.round, reply.willing) == (4, willing)


def test_a_fresh_promise_is_given_time() -> None:
    """Just after a promise others are unwelcome; its owner is not, and neither are they later."""
    acceptor = Acceptor()
    acceptor.hear(2, prepare(ballot(3, 2)))
    acceptor.guard(fenced(ballot(3, 2)))

    def willing(node: int, now: int) -> bool:
        [reply] = replies(acceptor.hear(node, PreProbe(round=1, key=NO_KEY), now))
        assert isinstance(reply, PreProbeReply)
        return reply.willing

    assert not willing(3, NOW + MS)
    assert willing(2, NOW + MS)
    assert willing(3, NOW + PROMISE)


def test_append_below_the_promise_is_refused() -> None:
    """R3: neither below the own promise nor below the floor of the guard."""
    acceptor = Acceptor(Loaded(promised=ballot(5, 3)))
    [refused] = replies(acceptor.hear(2, append(ballot(4, 2), NO_KEY)))
    assert isinstance(refused, Refused)
    acceptor.page = acceptor.page._replace(floor=ballot(8, 3))
    [refused] = replies(acceptor.hear(2, append(ballot(7, 2), NO_KEY)))
    assert isinstance(refused, Refused)
    assert refused.promised == ballot(8, 3)


def test_accepting_promises_in_the_same_write() -> None:
    """A higher ballot is told to the guard once, then promised and its entries written as one."""
    acceptor = Acceptor()
    of = ballot(5, 3)
    follow, write, send = acceptor.hear(3, append(of, NO_KEY, entry(1, of), entry(2, of)))
    assert follow == AskGuard(command=Follow(of))
    assert isinstance(write, Write)
    assert [type(record).__name__ for record in write.records] == [
        "PromisedRecord",
        "EntryRecord",
        "EntryRecord",
    ]
    assert send == Send(
        node=3, message=Appended(ballot=of, match=2, storage="disk-1"), after=write.position
    )
    assert acceptor.core.leader == 3
    again = acceptor.hear(3, append(of, Key(of, 2), entry(3, of)))
    assert not any(isinstance(effect, AskGuard) for effect in again)
    acceptor.page = LeasePage(heartbeat=50 * MS)
    acceptor.core.guard_lost(NOW)
    again = acceptor.hear(3, append(of, Key(of, 3)))
    assert AskGuard(command=Follow(of)) in again


def test_nothing_is_promised_before_the_own_guard_knows() -> None:
    """I13: an append of a higher ballot waits for the guard's floor, then it is taken in."""
    acceptor = Acceptor()
    acceptor.guard_answers = False
    of = ballot(5, 3)
    assert acceptor.hear(3, append(of, NO_KEY, entry(1, of))) == [AskGuard(command=Follow(of))]
    acceptor.core.tick(NOW + MS)
    assert acceptor.core.take_effects() == []
    assert acceptor.core.deadline() <= NOW + 5 * MS
    write, send = acceptor.follows(of, NOW + 2 * MS)
    assert isinstance(write, Write)
    assert isinstance(send, Send)
    assert acceptor.core.promised == of
    assert acceptor.core.deadline() > NOW + 5 * MS


def test_without_a_guard_what_waits_is_given_up() -> None:
    """A guard that does not come back within P: the append counts as lost, nothing was promised."""
    acceptor = Acceptor()
    acceptor.guard_answers = False
    of = ballot(5, 3)
    acceptor.hear(3, append(of, NO_KEY, entry(1, of)))
    acceptor.core.tick(NOW + PROMISE)
    acceptor.core.take_effects()
    assert not any(isinstance(e, Write) for e in acceptor.follows(of, NOW + PROMISE + MS))
    assert acceptor.core.promised == NO_BALLOT


def test_without_the_rule_an_append_promises_what_no_guard_knows() -> None:
    """The rule floor-before-accept is needed for that."""
    acceptor = Acceptor(rules=Rules.without("floor-before-accept"))
    acceptor.guard_answers = False
    of = ballot(5, 3)
    acceptor.hear(3, append(of, NO_KEY, entry(1, of)))
    assert acceptor.core.promised == of


def test_a_repeated_append_confirms_only_what_is_durable() -> None:
    """A repetition writes nothing, but its confirmation waits for the write still under way."""
    acceptor = Acceptor()
    of = ballot(5, 3)
    message = append(of, NO_KEY, entry(1, of))
    acceptor.hear(3, message)
    [send] = acceptor.hear(3, message)
    assert isinstance(send, Send)
    assert send.after == 1


def test_conflicting_entries_give_way() -> None:
    """Entries of an older leader are truncated in the write that brings the new ones."""
    old, new = ballot(2, 2), ballot(5, 3)
    mine = (entry(1, old), entry(2, old), entry(3, old))
    acceptor = Acceptor(Loaded(promised=old, entries=mine))
    effects = acceptor.hear(3, append(new, Key(old, 1), entry(2, new)))
    [write] = [effect for effect in effects if isinstance(effect, Write)]
    assert TruncateRecord(index=2) in write.records
    assert acceptor.core.last_key == Key(new, 2)
    assert [item.ballot for item in acceptor.core.log] == [old, new]


def test_a_gap_is_told_with_a_hint() -> None:
    """A missing or contradicting predecessor is answered by where to go on from."""
    old = ballot(2, 2)
    acceptor = Acceptor(Loaded(promised=old, entries=(entry(1, old), entry(2, old))))
    of = ballot(5, 3)
    [gap] = replies(acceptor.hear(3, append(of, Key(of, 9))))
    assert gap == Gap(ballot=of, hint=2)
    [gap] = replies(acceptor.hear(3, append(of, Key(ballot(1, 1), 2))))
    assert gap == Gap(ballot=of, hint=0)


def test_what_is_committed_is_never_truncated() -> None:
    """A leader that contradicts a committed entry is a broken invariant, not something to adopt."""
    old, new = ballot(2, 2), ballot(5, 3)
    acceptor = Acceptor(Loaded(promised=old, entries=(entry(1, old), entry(2, old)), commit=2))
    with pytest.raises(InvariantError):
        acceptor.hear(3, append(new, Key(old, 1), entry(2, new)))
    acceptor = Acceptor(Loaded(promised=old, entries=(entry(1, old), entry(2, old)), commit=2))
    with pytest.raises(InvariantError):
        acceptor.hear(3, append(new, Key(new, 2)))


@pytest.mark.parametrize(
    "message",
    [
        prepare(ballot(3, 2)),
        append(ballot(3, 2), NO_KEY),
        append(ballot(3, 3), NO_KEY, entry(2, ballot(3, 3))),
        append(ballot(3, 3), NO_KEY, entry(1, ballot(4, 3))),
        append(ballot(3, 3), Key(ballot(2, 2), 1), entry(2, ballot(1, 1))),
    ],
)
def test_messages_that_break_the_protocol_change_nothing(message: QuorumMessage) -> None:
    """A ballot of somebody else and entries that make no log are refused as such."""
    acceptor = Acceptor()
    with pytest.raises(ProtocolError):
        acceptor.hear(3, message)
    assert acceptor.core.take_effects() == []
    assert acceptor.core.promised == NO_BALLOT


def test_snapshot_in_chunks_replaces_the_log() -> None:
    """Chunks gather, lost ones are asked for again, and the whole is stored, then confirmed."""
    old, new = ballot(2, 2), ballot(5, 3)
    acceptor = Acceptor(Loaded(promised=old, entries=(entry(1, old),)))
    last = Key(ballot(4, 3), 7)
    data = msgspec.msgpack.encode(snapshot_at(last, configuration(1, 2, 3)))

    def chunk(start: int, end: int, *, done: bool = False) -> InstallSnapshot:
        return InstallSnapshot(ballot=new, last=last, offset=start, data=data[start:end], done=done)

    [first] = replies(acceptor.hear(3, chunk(0, 10)))
    assert isinstance(first, SnapshotInstalled)
    assert (first.received, first.installed) == (10, False)
    [missing] = replies(acceptor.hear(3, chunk(20, len(data), done=True)))
    assert isinstance(missing, SnapshotInstalled)
    assert missing.received == 10
    effects = acceptor.hear(3, chunk(10, len(data), done=True))
    [save] = [effect for effect in effects if isinstance(effect, SaveSnapshot)]
    [send] = [effect for effect in effects if isinstance(effect, Send)]
    assert save.reset
    assert send.after == save.position
    assert acceptor.core.last_key == last
    assert acceptor.core.commit == 7
    assert any(isinstance(signal, Restored) for signal in acceptor.core.take_signals())


def test_a_damaged_snapshot_is_not_adopted() -> None:
    """A snapshot whose state does not match its hash is refused as a whole."""
    acceptor = Acceptor()
    last = Key(ballot(4, 3), 7)
    snapshot = msgspec.structs.replace(snapshot_at(last, configuration(1)), state=b"other")
    message = InstallSnapshot(
        ballot=ballot(5, 3), last=last, offset=0, data=msgspec.msgpack.encode(snapshot), done=True
    )
    with pytest.raises(ProtocolError):
        acceptor.hear(3, message)
    assert acceptor.core.commit == 0
