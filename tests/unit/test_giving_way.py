"""A node that gives way: its log is kept, and a crash at any step ends in the same state."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from leitwolf.core.node import Node
from leitwolf.daemon import giving_way
from leitwolf.daemon.bootstrap import Bootstrap, load_bootstrap, save_bootstrap
from leitwolf.model.errors import StorageError
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId
from leitwolf.model.log import EntryRecord, Loaded
from leitwolf.model.quorum import AcceptorId
from leitwolf.sim.forming import formed_log
from leitwolf.store import QuorumLog, StoreIdentity

OLD = Bootstrap(
    node=1, name="n1", uuid="u", cluster="c", cluster_name="lab", storage="disk1", port=7
)
OTHER = HistoryStanding(lineage=(77,), forced=1)


def node() -> Node:
    log = formed_log(nodes=3, groups=1, links=1, profile="default")
    return Node(
        me=AcceptorId(NodeId(1), "disk1"),
        loaded=Loaded(promised=log.promised, entries=log.entries, commit=1),
        page=lambda: None,
        now=1,
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A node's state directory with a log of one entry."""
    identity = StoreIdentity(cluster="c", node=1, storage="disk1")
    log = QuorumLog.create(tmp_path / "quorum", identity)
    log.write([EntryRecord(entry=entry) for entry in node().quorum.log])
    log.sync()
    log.close()
    save_bootstrap(tmp_path, OLD)
    return tmp_path


def begun(state: Path) -> giving_way.GivingWay:
    giving = giving_way.plan(OLD, node(), OTHER, "forced by others")
    giving_way.intend(state, giving)
    return giving


def demand_done(state: Path, storage: str) -> None:
    bootstrap = load_bootstrap(state)
    assert bootstrap is not None
    assert bootstrap.storage == storage != "disk1"
    assert (bootstrap.replaces, bootstrap.lineage) == (("disk1",), (77,))
    assert [peer.node for peer in bootstrap.peers] == [2, 3]
    identity = StoreIdentity(cluster="c", node=1, storage=storage)
    log = QuorumLog.open(state / "quorum", identity)
    assert not log.loaded.entries
    log.close()
    kept = list((state / "quarantine").iterdir())
    assert len(kept) == 1
    told = giving_way.notice(state)
    assert told is not None
    assert str(kept[0]) in told.text
    former = QuorumLog.open(kept[0], StoreIdentity(cluster="c", node=1, storage="disk1"))
    assert len(former.loaded.entries) == 1
    former.close()
    assert giving_way.pending(state) is None


def test_the_log_is_kept_and_an_empty_one_begun(state: Path) -> None:
    """People are told where the log is and how much of it the others lack, while it is there."""
    giving = begun(state)
    assert giving.entries == 1
    giving_way.finish(state, state / "quorum", giving)
    demand_done(state, giving.bootstrap.storage)
    told = giving_way.notice(state)
    assert told is not None
    assert told.code == "history-set-aside"
    assert "about 1 entries" in told.text
    next((state / "quarantine").iterdir()).rename(state / "looked-at")
    assert giving_way.notice(state) is None


@pytest.mark.parametrize(
    "step", ["quarantine", "write_durably", "create", "save_bootstrap", "remove_durably"]
)
def test_a_crash_at_any_step_ends_the_same(
    state: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was intended is written down first; the next start finishes it."""
    giving = begun(state)

    class Crash(Exception):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    owner: object = giving_way
    if step == "create":
        owner = giving_way.QuorumLog
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, crash)
        with pytest.raises(Crash):
            giving_way.finish(state, state / "quorum", giving)
    again = giving_way.pending(state)
    assert again is not None
    giving_way.finish(state, state / "quorum", again)
    demand_done(state, giving.bootstrap.storage)


def test_the_log_that_counts_is_named_among_others(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash while the empty log is made leaves a part of one, which is of no use to anybody."""
    giving = begun(state)

    def half(folder: Path, _: StoreIdentity) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(giving_way.QuorumLog, "create", half)
        with pytest.raises(KeyboardInterrupt):
            giving_way.finish(state, state / "quorum", giving)
    giving_way.finish(state, state / "quorum", giving)
    told = giving_way.notice(state)
    assert told is not None
    (named,) = [one for one in (state / "quarantine").iterdir() if str(one) in told.text]
    QuorumLog.open(named, StoreIdentity(cluster="c", node=1, storage="disk1")).close()
    assert len(list((state / "quarantine").iterdir())) == 2


def test_a_damaged_intent_is_told(state: Path) -> None:
    """Nothing is guessed."""
    (state / "giving-way.json").write_bytes(b"{")
    with pytest.raises(StorageError, match=r"giving-way\.json is damaged"):
        giving_way.pending(state)


def test_entries_are_counted_from_where_the_two_parted() -> None:
    """Of a half that was forced itself, everything since then is its own."""
    later = msgspec.structs.replace(OTHER, forced=5)
    assert giving_way.plan(OLD, node(), later, "x").entries == 0
    assert giving_way.plan(OLD, node(), OTHER, "x").entries == 1


def test_join_only_outlives_restarts(tmp_path: Path) -> None:
    """A file says it, until it is taken away."""
    state = tmp_path / "state"
    assert not giving_way.is_prevented(state)
    giving_way.prevent(state, on=True)
    assert giving_way.is_prevented(state)
    giving_way.prevent(state, on=False)
    giving_way.prevent(state, on=False)
    assert not giving_way.is_prevented(state)


def test_who_gives_way_twice_says_all_that_it_was() -> None:
    """Peers that know an older storage still take it for this node; it is found where it is."""
    before = msgspec.structs.replace(OLD, replaces=("disk0",))
    made = giving_way.plan(before, node(), OTHER, "x").bootstrap
    assert made.replaces == ("disk0", "disk1")
    assert made.addresses == tuple(node().acquainted[NodeId(1)].addresses.values()) != ()
