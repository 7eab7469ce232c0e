"""Replication in a small orderly world: what is sent, counted, committed and repaired."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from tests.quorum_world import MS, PROMISE, World, acceptors, configuration, snapshot_at

from leitwolf.core.effects import Send, Write
from leitwolf.core.messages import Append, Appended, InstallSnapshot
from leitwolf.core.quorum import Role, SteppedDown, leadership, log
from leitwolf.core.quorum.outbox import Outbox
from leitwolf.model.errors import Conflict, InvalidConfig, NotLeader
from leitwolf.model.limits import APPENDS_IN_FLIGHT_MAX, COMMIT_HINT_ENTRIES
from leitwolf.model.log import CommitRecord
from leitwolf.model.quorum import QuorumConfig


def led(world: World | None = None) -> World:
    """Return a world in which node 1 leads and everybody is up to date."""
    world = world or World(configuration(1, 2, 3), (1, 2, 3))
    world.elect(1)
    world.quiet()
    return world


def fill(world: World, count: int, *, size: int = 10) -> int:
    index = 0
    for _ in range(count):
        index = world.cores[1].propose(world.now, b"x" * size)
    world.settle(1)
    return index


def test_many_proposals_of_a_step_share_a_write_and_a_message() -> None:
    """However much is proposed in one step: one write, and one append per node."""
    core = led().cores[1]
    for _ in range(50):
        core.propose(0, b"x")
    effects = core.take_effects()
    assert [type(effect) for effect in effects].count(Write) == 1
    appends = [effect for effect in effects if isinstance(effect, Send)]
    assert {append.node for append in appends} == {2, 3}
    assert len(appends) == 2
    assert all(append.after == 0 for append in appends), "nothing waits for the own sync"


def test_an_entry_commits_when_a_quorum_holds_it_on_disk() -> None:
    """Neither the own unsynced copy nor unsynced copies elsewhere count."""
    world = led()
    index = fill(world, 1)
    while world.network:
        world.deliver()
    assert world.cores[1].commit < index
    world.sync(2)
    while world.network:
        world.deliver()
    assert world.cores[1].commit < index, "one copy of three is durable"
    world.sync(1)
    assert world.cores[1].commit == index


def test_two_followers_commit_without_the_leader_disk() -> None:
    """The leader's own sync is not needed when the others are a quorum."""
    world = led()
    index = fill(world, 1)
    while world.network:
        world.deliver()
    world.sync(2)
    world.sync(3)
    while world.network:
        world.deliver()
    assert world.cores[1].commit == index


def test_followers_learn_of_the_commit_at_once() -> None:
    """When the commit index moves it is told without waiting for more entries."""
    world = led()
    index = fill(world, 3)
    world.quiet()
    assert {core.commit for core in world.cores.values()} == {index}


def settings(world: World, count: int) -> int:
    index = 0
    for _ in range(count):
        index = world.cores[1].propose(world.now, b"x", urgent=False)
    world.settle(1)
    world.quiet()
    return index


def test_the_commit_of_a_setting_is_told_some_milliseconds_later() -> None:
    """Nobody acts on it: at first only the leader knows, and it wants to be woken for the rest."""
    world = led()
    before = world.cores[2].commit
    index = settings(world, 2)
    assert world.cores[1].commit == index
    assert {world.cores[node].commit for node in (2, 3)} == {before}
    due = world.cores[1].deadline()
    assert world.now < due <= world.now + 10 * MS
    world.now = due
    world.tick(1)
    world.quiet()
    assert {core.commit for core in world.cores.values()} == {index}
    assert world.cores[1].deadline() > world.now + 10 * MS, "it is told once"


def test_entries_take_waiting_commits_with_them() -> None:
    """Whatever is appended meanwhile tells of earlier commits, and waits for nothing itself."""
    world = led()
    index = settings(world, 1)
    later = settings(world, 1)
    assert {world.cores[node].commit for node in (2, 3)} == {index}
    urgent = fill(world, 1)
    world.quiet()
    assert urgent == later + 1
    assert {core.commit for core in world.cores.values()} == {urgent}


def test_settings_reach_a_node_without_a_vote_some_milliseconds_later() -> None:
    """Nothing commits by it; what is urgent takes along what waits."""
    three = tuple(msgspec.structs.replace(one, weight=0) for one in acceptors(3))
    config = QuorumConfig(acceptors=(*acceptors(1, 2), *three))
    world = led(World(config, (1, 2, 3)))
    index = settings(world, 2)
    last = {node: world.cores[node].last_key.index for node in (1, 2, 3)}
    assert last == {1: index, 2: index, 3: index - 2}
    world.now = world.cores[1].deadline()
    world.tick(1)
    world.quiet()
    assert world.cores[3].commit == index
    settings(world, 1)
    urgent = fill(world, 1)
    world.quiet()
    assert world.cores[3].commit == urgent


def test_settings_reach_a_learner_at_once() -> None:
    """It gets its vote when it has caught up, which it never would behind a stream of changes."""
    world = led(World(configuration(1, 2, learners=(3,)), (1, 2, 3)))
    index = settings(world, 2)
    assert world.cores[3].last_key.index == index


def test_a_setting_behind_something_urgent_does_not_delay_it() -> None:
    """What commits together is told at once if somebody acts on any of it."""
    world = led()
    world.cores[1].propose(world.now, b"move")
    index = settings(world, 1)
    assert {core.commit for core in world.cores.values()} == {index}


def test_proposing_needs_office_and_a_begun_term() -> None:
    """Followers refuse, and so does a leader whose first entry is not appended."""
    world = World(configuration(1, 2, 3), (1, 2, 3), prompt_begin=False)
    world.elect(1)
    with pytest.raises(NotLeader):
        world.cores[2].propose(world.now, b"x")
    with pytest.raises(NotLeader):
        world.cores[1].propose(world.now, b"x")
    world.begin(1)
    assert world.cores[1].propose(world.now, b"x") == 2


def test_a_slow_node_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of unanswered appends a node is paused until it answers."""
    monkeypatch.setattr(leadership, "APPEND_BYTES_MAX", 1)
    world = led()
    fill(world, 3 * APPENDS_IN_FLIGHT_MAX)
    to_two = [m for _, to, m in world.network if to == 2 and isinstance(m, Append) and m.entries]
    assert len(to_two) == APPENDS_IN_FLIGHT_MAX
    world.quiet()
    assert world.cores[2].last_key == world.cores[1].last_key


def test_large_batches_are_divided() -> None:
    """One append carries at most a fixed number of bytes, but always an entry."""
    world = led()
    fill(world, 6, size=100_000)
    sizes = [
        sum(len(entry.payload) for entry in message.entries)
        for _, to, message in world.network
        if to == 2 and isinstance(message, Append)
    ]
    assert sizes == [200_000, 200_000, 200_000]
    fill(world, 1, size=1_000_000)
    world.quiet()
    assert world.cores[3].last_key == world.cores[1].last_key


def test_a_lost_append_is_sent_again() -> None:
    """Without an answer for the length of a promise what was under way counts as lost."""
    world = led()
    index = fill(world, 2)
    world.network.clear()
    world.quiet()
    assert world.cores[1].commit < index
    assert world.cores[1].deadline() <= world.now + PROMISE
    world.now += PROMISE
    world.tick(1)
    world.quiet()
    assert {core.commit for core in world.cores.values()} == {index}


def test_a_broken_stream_is_mended_at_once() -> None:
    """When the stream is back the node gets what it lacks, without any time passing."""
    world = led()
    world.disconnect(1, 3)
    index = fill(world, 5)
    world.quiet()
    assert world.cores[3].last_key.index < index
    world.join(1, 3)
    world.quiet()
    assert world.cores[3].commit == index


def test_diverged_logs_are_made_equal() -> None:
    """Entries that a dead leader left behind are replaced by those of the next one."""
    world = led()
    world.part(1)
    fill(world, 4)
    world.sync(1)
    world.elect(2)
    world.propose(2, b"other")
    world.quiet()
    world.heal()
    world.quiet()
    world.check_logs()
    assert world.cores[1].log == world.cores[2].log
    assert world.cores[1].role == Role.FOLLOWER


def test_what_was_committed_survives_a_restart_of_all() -> None:
    """After everybody crashed the next leader has every committed entry."""
    world = led()
    index = fill(world, 3)
    world.quiet()
    for node in world.nodes:
        world.crash(node)
    for node in world.nodes:
        world.start(node)
    world.elect(3)
    assert world.cores[3].commit > index
    assert world.cores[3].ballot > world.cores[3].log[0].ballot


def test_commit_hints_ride_on_writes() -> None:
    """Now and then a write carries the commit index; a restart begins there."""
    world = led()
    for _ in range(3 * COMMIT_HINT_ENTRIES):
        fill(world, 1)
        world.quiet()
    hint = world.disks[2].commit
    assert world.disks[2].hints <= 3
    assert hint >= COMMIT_HINT_ENTRIES
    assert hint <= world.cores[2].commit
    world.crash(2)
    world.start(2)
    assert world.cores[2].commit == hint


def test_a_node_far_behind_gets_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compacted arrives as a snapshot in chunks, the rest as entries."""
    monkeypatch.setattr(leadership, "SNAPSHOT_CHUNK_BYTES", 40)
    monkeypatch.setattr(log, "ENTRIES_RETAINED", 3)
    world = led()
    world.disconnect(1, 3)
    world.disconnect(2, 3)
    fill(world, 20)
    world.quiet()
    core = world.cores[1]
    core.compact(world.now, snapshot_at(core.key_at(15), core.config))
    world.settle(1)
    fill(world, 2)
    world.quiet()
    assert len(core.log) == core.last_key.index - 15
    world.join(1, 3)
    chunks = 0
    while world.network or any(world.sync(node) for node in world.nodes):
        if world.network:
            chunks += isinstance(world.network[0][2], InstallSnapshot)
            world.deliver()
    assert chunks > 3
    assert world.cores[3].commit == core.commit
    assert world.disks[3].snapshot is not None
    assert world.cores[3].log == core.log


def test_a_node_a_little_behind_needs_no_snapshot() -> None:
    """Some entries behind a snapshot stay in memory for those that lag a little."""
    world = led()
    world.disconnect(1, 3)
    fill(world, 20)
    world.quiet()
    core = world.cores[1]
    core.compact(world.now, snapshot_at(core.key_at(core.commit), core.config))
    world.settle(1)
    world.join(1, 3)
    assert not any(isinstance(item[2], InstallSnapshot) for item in world.network)
    world.quiet()
    assert world.cores[3].commit == core.commit
    assert not any(isinstance(item[2], InstallSnapshot) for item in world.network)


def test_progress_tells_match_and_last_word() -> None:
    """The leader knows how far each other node is and when it was heard."""
    world = led()
    index = fill(world, 1)
    world.now += 5 * MS
    world.quiet()
    progress = world.cores[1].progress
    assert {node: peer.match for node, peer in progress.items()} == {2: index, 3: index}
    assert {peer.heard for peer in progress.values()} == {world.now}
    assert world.cores[1].match(2) == index
    assert world.cores[2].progress == {}


# --- reconfiguration -----------------------------------------------------------------------------

JOINT = QuorumConfig(acceptors=acceptors(1, 2, 3, 4), former=acceptors(1, 2, 3))
FINAL = configuration(1, 2, 3, 4)


def four() -> World:
    world = World(configuration(1, 2, 3), (1, 2, 3, 4))
    world.elect(1)
    world.quiet()
    return world


def test_a_node_joins_by_learning_then_voting() -> None:
    """A learner gets the log without a vote; through joint it becomes a voter."""
    world = four()
    world.propose(1, b"learn", configuration(1, 2, 3, learners=(4,)))
    world.quiet()
    assert world.cores[4].last_key == world.cores[1].last_key
    world.propose(1, b"joint", JOINT)
    assert world.cores[1].config == JOINT, "in force from the moment that it is appended"
    assert not world.cores[1].config_committed
    world.quiet()
    assert world.cores[1].config_committed
    world.propose(1, b"final", FINAL)
    world.quiet()
    assert {core.config for core in world.cores.values()} == {FINAL}


def test_one_change_at_a_time() -> None:
    """A second change waits for the first, and every change for the first entry of the term."""
    world = four()
    world.cores[1].propose(world.now, b"joint", JOINT)
    with pytest.raises(Conflict):
        world.cores[1].propose(world.now, b"final", FINAL)
    world.settle(1)
    world.quiet()
    with pytest.raises(InvalidConfig):
        world.cores[1].propose(world.now, b"other", configuration(1, 2))
    young = World(configuration(1, 2, 3), (1, 2, 3, 4), prompt_begin=False)
    young.elect(1)
    young.begin(1)
    with pytest.raises(Conflict):
        young.cores[1].propose(young.now, b"joint", JOINT)


def test_a_truncated_change_is_as_if_it_never_was() -> None:
    """When a later leader drops the entry the configuration before it is in force again."""
    world = four()
    before = world.cores[1].config
    world.part(1)
    world.propose(1, b"joint", JOINT)
    assert world.cores[1].config == JOINT
    world.elect(2)
    world.heal()
    world.quiet()
    assert world.cores[1].config == before


def test_a_change_needs_a_quorum_of_both() -> None:
    """Joint from {1} to {1, 2}: the old majority alone commits nothing."""
    world = World(configuration(1), (1, 2))
    world.elect(1)
    world.disconnect(1, 2)
    joint = QuorumConfig(acceptors=acceptors(1, 2), former=acceptors(1))
    index = world.propose(1, b"joint", joint)
    world.quiet()
    assert world.cores[1].commit < index
    world.join(1, 2)
    world.quiet()
    assert world.cores[1].commit == index


def test_a_removed_leader_steps_down_when_that_is_committed() -> None:
    """A leader manages its own removal, and leaves when the final configuration committed."""
    world = led()
    world.propose(1, b"joint", QuorumConfig(acceptors=acceptors(2, 3), former=acceptors(1, 2, 3)))
    world.quiet()
    assert world.cores[1].role == Role.LEADER
    index = world.propose(1, b"final", configuration(2, 3))
    world.quiet()
    assert world.cores[1].role == Role.FOLLOWER
    reasons = [s.reason for s in world.signals[1] if isinstance(s, SteppedDown)]
    assert reasons == ["removed"]
    assert world.cores[2].commit == index
    assert world.cores[1].deadline() > 10**18, "it does not campaign any more"
    world.elect(2)


def test_another_disk_is_another_acceptor() -> None:
    """The confirmation of a node with another storage does not count for the old one."""
    world = led()
    world.disconnect(1, 3)
    index = fill(world, 1)
    world.sync(1)
    ballot = world.cores[1].ballot
    world.network.clear()
    stranger = Appended(ballot=ballot, match=index, storage="new disk")
    world.cores[1].receive(world.now, 2, stranger)
    assert world.cores[1].commit < index
    world.cores[1].receive(world.now, 2, msgspec.structs.replace(stranger, storage="disk-2"))
    assert world.cores[1].commit == index


def test_a_wiped_node_is_fed_from_the_start() -> None:
    """A node that lost its log gets it again, although the leader knew it to be far."""
    world = led()
    fill(world, 5)
    world.quiet()
    world.crash(3)
    disk = world.disks[3]
    world.disks[3] = replace(disk, entries=[], commit=0)
    world.start(3)
    world.quiet()
    assert world.cores[3].last_key == world.cores[1].last_key
    assert tuple(world.disks[3].entries) == world.cores[1].log


def test_truncated_entries_are_not_durable_any_more() -> None:
    """The durability of an entry ends with it; what replaces it counts from its own write."""
    outbox = Outbox(last_index=3)
    outbox.record(CommitRecord(index=1))
    outbox.take(last_index=5)
    outbox.truncated(2)
    assert outbox.durable_index == 1
    outbox.durable(1)
    assert outbox.durable_index == 1, "the write under way held entries that are void"
    outbox.record(CommitRecord(index=1))
    outbox.take(last_index=4)
    outbox.durable(2)
    assert outbox.durable_index == 4
