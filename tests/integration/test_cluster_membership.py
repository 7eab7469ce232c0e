"""Who belongs to the cluster: joining, leaving, eviction, lost and copied state, minorities.

Three nodes are a cluster for the whole file; the fourth joins it, leaves it and breaks in every
test anew. ``dismiss`` brings it back to: running, in no cluster.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from lab.prober import Prober
from tests.integration.fault_support import SOON_MS
from tests.integration.membership_support import (
    GUEST,
    MEMBERS,
    PORT,
    VIP,
    YEAR_S,
    Members,
    formed,
)
from tests.integration.patience_support import unless_it_stalls

from leitwolf.model.commands import (
    AddGroup,
    AddNode,
    ChangeCluster,
    EvictNode,
    RemoveGroup,
    TellAbility,
)
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.ids import GroupId, NodeId, Wish
from leitwolf.model.views import InitRequest, JoinRequestView, QuorumView, StatusView
from leitwolf.peers import DEFAULT_PORT
from leitwolf.peers.token import digest, format_token, new_secret, parse_token

pytestmark = pytest.mark.root

_WAIT_S = 30.0


@pytest.fixture(scope="module")
def members() -> Iterator[Members]:
    with formed(clocks=True) as cluster:
        yield cluster


def refused(members: Members, token: str, *, name: str = "", again: bool = False) -> str:
    """The code with which the fourth node is refused."""
    with pytest.raises(LeitwolfError) as caught:
        members.join(GUEST, token=token, name=name, again=again)
    assert caught.value.hint, f"{caught.value} does not say what to do"
    assert not members.status(GUEST).formed
    return caught.value.code


# --- joining -------------------------------------------------------------------------------------


def test_three_nodes_vote_and_say_so(members: Members) -> None:
    """After forming and two joins there are three votes, one of which may go."""
    members.settle()
    view = members.until_votes(3, node="n2")
    assert view.needed == 2
    assert {member.node for member in view.members if member.voting} == set(MEMBERS)
    assert "may fail" in view.survives, view.survives
    time.sleep(1.2)

    def promised(view: QuorumView, name: str) -> bool:
        """Who leads knows of all promises and leases, and everybody else of the own ones."""
        return view.leader != "" and all(
            (member.promised == view.ballot, member.promise_ms > 0, member.lease_ms > 0)
            == (name in (view.leader, member.node),) * 3
            for member in view.members
        )

    for name in MEMBERS:
        view = members.until_quorum(name, lambda view: promised(view, name), "promises")  # noqa: B023
        assert all(member.promise_ms <= view.promise_ms * 1.01 for member in view.members)
    members.until("n2", lambda view: view.quorum and not view.advice, "no advice")


def test_damaged_and_foreign_tokens_are_told_apart(members: Members) -> None:
    """A truncated token never leaves the machine; one of another cluster is refused by both."""
    members.dismiss()
    token = members.client("n1").token(600)
    assert refused(members, token[:-3]) == "token-malformed"
    parsed = parse_token(token)
    other = msgspec.structs.replace(parsed, cluster="00000000-0000-4000-8000-000000000000")
    assert refused(members, format_token(other)) == "token-foreign"
    forged = msgspec.structs.replace(parsed, authority="0" * 64)
    assert refused(members, format_token(forged)) == "token-foreign"
    unknown = msgspec.structs.replace(parsed, secret=new_secret())
    assert refused(members, format_token(unknown)) == "token-used"


def test_expired_token_says_that_it_expired(members: Members) -> None:
    """Its life runs on the clock of the cluster, and the refusal names it."""
    members.dismiss()
    before = members.status().index
    token = members.client("n1").token(1)
    deadline = time.monotonic() + _WAIT_S  # another leader's clock may be behind
    while not any(line.code == "token-expired" for line in members.client("n1").log(before)):
        assert time.monotonic() < deadline, members.log_text(last=9)
        time.sleep(0.1)
    assert refused(members, token) == "token-expired"


def test_used_token_and_taken_name_are_refused(members: Members) -> None:
    """A token pays once; two nodes never have one name."""
    members.dismiss()
    token = members.client("n1").token(600)
    assert refused(members, token, name="n2") == "name-taken"
    members.join(GUEST, token=token)
    members.until_member()
    with pytest.raises(LeitwolfError) as caught:
        members.join(GUEST, token=token)
    assert caught.value.code == "already-in-a-cluster"
    members.dismiss()
    assert refused(members, token) == "token-used"


def test_taken_address_is_refused(members: Members) -> None:
    """A joiner with the address of a member is named, with whose address it is."""
    command = AddNode(
        name="other",
        uuid="u",
        storage="s",
        addresses={"interconnect": members.world.address("n2", "ic0")},
        fingerprint="a" * 64,
        token=digest(parse_token(members.client("n1").token(600)).secret),
    )
    with pytest.raises(LeitwolfError) as caught:
        members.client("n1").command(command)
    assert caught.value.code == "node-exists"
    assert "n2" in caught.value.text
    assert caught.value.hint == "give the machine an address of its own"


def test_a_machine_with_the_address_of_a_member_is_refused(members: Members) -> None:
    """It asks by the interconnect; among the clients it has the address of another node."""
    members.dismiss()
    token = members.client("n1").token(600)
    own, theirs = (f"{members.world.address(node)}/24" for node in (GUEST, "n2"))
    members.world.run(GUEST, ["ip", "addr", "del", own, "dev", "client0"])
    members.world.run(GUEST, ["ip", "addr", "add", theirs, "dev", "client0"])
    try:
        assert refused(members, token) == "address-taken"
    finally:
        members.world.run(GUEST, ["ip", "addr", "del", theirs, "dev", "client0"])
        members.world.run(GUEST, ["ip", "addr", "add", own, "dev", "client0"])
    members.join(GUEST, token=token)
    members.until_member()
    members.dismiss()


def test_lost_answer_is_granted_again(members: Members) -> None:
    """Who asks with the same token as the same node gets the same number; nobody else does."""
    members.dismiss()
    command = AddNode(
        name="lost",
        uuid="u-lost",
        storage="s-lost",
        addresses={"interconnect": "10.77.1.99"},
        fingerprint="a" * 64,
        token=digest(parse_token(members.client("n1").token(600)).secret),
    )
    first = members.client("n1").command(command)
    again = members.client("n2").command(msgspec.structs.replace(command, fingerprint="b" * 64))
    assert first.data == again.data
    with pytest.raises(LeitwolfError) as caught:
        members.client("n1").command(msgspec.structs.replace(command, uuid="u-thief"))
    assert caught.value.code == "token-unknown"
    members.evict("lost")
    members.settle()


def test_wall_clock_of_the_leader_goes_back_by_a_year(members: Members) -> None:
    """Nothing moves, a token made before is good, no entry is lost, and commands are done: here
    the network of the clients carries heartbeats for a while.
    """
    unless_it_stalls(lambda: check_year_back(members), members.gather)


def check_year_back(members: Members) -> None:
    """Set the clock back and right again; another leader's would tell nothing."""
    members.dismiss()
    leader = members.leader()
    members.place(leader)
    generation = members.generation()
    token = members.client(leader).token(600)
    before = members.client(leader).log()
    guard = members.keepers(leader)
    with members.year_back(leader):
        year_ago = time.time_ns() - YEAR_S * 10**9
        for role, links in (("both", {"interconnect", "client"}), ("client", {"interconnect"})):
            members.run("network", "set", "client", "--role", role, node=leader)
            members.until_links(leader, links)
        members.join(GUEST, token=token)
        members.until_member()
        assert (members.leader(), members.owner()) == (leader, leader)
        told = [line for line in members.client(leader).log(before[-1].index) if line.wall]
        assert sum("NetworkSet" in str(line.events) for line in told) >= 2
        assert any("NodeAdded" in str(line.events) for line in told)
        assert all(abs(line.wall - year_ago) < 600 * 10**9 for line in told), told
    time.sleep(1.0)
    assert (members.leader(), members.owner()) == (leader, leader), "when it is right again"
    assert members.generation() == generation
    assert members.keepers(leader) == guard
    assert members.client(leader).log()[: len(before)] == before


# --- leaving -------------------------------------------------------------------------------------


def test_leave_moves_groups_away_first(members: Members) -> None:
    """A node that leaves gives its group away in order and says afterwards why it is out."""
    members.welcome()
    members.place(GUEST)
    left = members.insist("leave", node=GUEST, done="not-in-a-cluster")
    assert members.owner() in MEMBERS
    assert "'drained'" not in left.stderr
    assert "drained" in members.log_text()
    view = members.status(GUEST)
    assert not view.formed
    assert "it left the cluster" in view.advice
    assert "quarantine" in view.advice
    members.settle()


def test_evicted_live_node_learns_it_and_can_join_again(members: Members) -> None:
    """It stops everything, sets its state aside, shows why; then it joins under its old name."""
    members.welcome()
    members.evict(GUEST)
    view = members.until(GUEST, lambda view: not view.formed and not view.fault, "the eviction")
    assert "removed from the cluster" in view.advice
    assert "lab" in view.advice
    assert members.lab.command(GUEST, "status").returncode == 6
    assert not (members.state(GUEST) / "bootstrap.json").exists()
    assert (members.state(GUEST) / "quarantine" / "quorum.1" / "bootstrap.json").exists()
    members.join(GUEST)
    members.until_member()
    assert "removed" not in members.status(GUEST).advice


def test_evicted_dead_node_learns_it_when_it_is_back(members: Members) -> None:
    """A node that was evicted while its power was off is refused by all and steps aside."""
    members.welcome()
    members.world.power_off(GUEST)
    members.evict(GUEST)
    members.lab.boot(GUEST)
    view = members.until(
        GUEST, lambda view: not view.formed and "removed" in view.advice, "the eviction"
    )
    assert "removed from the cluster" in view.advice
    members.settle()


def test_eviction_that_would_break_the_quorum_is_refused(members: Members) -> None:
    """With one of three voters dead the evicted one must not be a living one; the hint says so."""
    members.dismiss()
    members.run("quorum", "votes", "--strict")
    victim = next(node for node in MEMBERS if node != members.leader())
    asked = next(node for node in MEMBERS if node != victim)
    members.world.power_off(victim)
    members.until(
        asked,
        lambda view: view.quorum and any(n.name == victim and not n.connected for n in view.nodes),
        "the loss",
    )
    other = next(node for node in MEMBERS if node not in (victim, asked))
    number = next(node.id for node in members.status(asked).nodes if node.name == other)
    with pytest.raises(LeitwolfError) as caught:
        members.client(asked).command(EvictNode(node=number))
    assert caught.value.code == "not-enough-voters"
    assert victim in caught.value.hint
    members.lab.boot(victim)
    members.settle()
    members.run("quorum", "votes", "--dynamic")


# --- lost and copied state -----------------------------------------------------------------------


def test_restored_copy_is_locked_out(members: Members, tmp_path: Path) -> None:
    """A state directory from a backup never votes again; `rejoin` is the way back."""
    members.welcome()
    members.stop(GUEST)
    copy = tmp_path / "backup"
    members.copy_state(GUEST, copy)
    members.lab.run(GUEST)
    members.until_member()
    for serial in range(3):
        group = GroupId(f"empty{serial}")
        members.client("n1").command(AddGroup(group=group, wish=Wish.OFFLINE))
        members.client("n1").command(RemoveGroup(group=group))
    members.until(GUEST, lambda view: view.index >= members.status().index, "the log")
    members.stop(GUEST)
    members.restore_state(GUEST, copy)
    members.lab.run(GUEST)
    view = members.until(GUEST, lambda view: bool(view.fault), "the lock-out")
    assert view.fault == "state-rolled-back"
    assert "rejoin" in view.advice
    assert "node replace" in view.advice
    shown = members.lab.command(GUEST, "status")
    assert shown.returncode == 6
    assert "state-rolled-back" in shown.stdout
    members.stop(GUEST)
    members.lab.run(GUEST)
    view = members.until(GUEST, lambda view: bool(view.fault), "the lock-out after a restart")
    assert view.fault == "state-rolled-back"
    members.evict(GUEST)
    members.join(GUEST, again=True)
    members.until_member()


def wipe(folder: Path) -> None:
    """Remove all that is in a folder, also what its owner puts there meanwhile."""
    while found := list(folder.iterdir()):
        for path in found:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def test_wiped_node_is_in_no_cluster_and_comes_back_after_evict(members: Members) -> None:
    """Without its state a node is nobody; its name is free again only after the eviction."""
    members.welcome()
    members.stop(GUEST)
    wipe(members.state(GUEST))
    members.lab.run(GUEST)
    members.until(GUEST, lambda view: not view.formed and not view.fault, "no cluster")
    assert refused(members, members.client("n1").token(600)) == "name-taken"
    members.evict(GUEST)
    members.join(GUEST)
    members.until_member()


def test_state_wiped_under_a_living_guard_stops_everything(members: Members) -> None:
    """When only the daemon dies and finds nothing, the guard forgets the cluster, too."""
    members.welcome()
    wipe(members.state(GUEST))
    # One that ended by itself, because of that, has not to be killed.
    members.world.run(GUEST, ["pkill", "-KILL", "-f", "leitwolf.daemon.main"], check=False)
    members.until(GUEST, lambda view: not view.formed and not view.fault, "no cluster")
    members.until(
        "n1", lambda view: any(n.name == GUEST and not n.up for n in view.nodes), "its end"
    )
    members.evict(GUEST)
    members.join(GUEST)
    members.until_member()


def test_corrupt_log_names_the_record_and_the_way_back(members: Members) -> None:
    """A flipped bit in what was durable keeps the node from voting; status says what and how."""
    members.welcome()
    members.stop(GUEST)
    segment = min((members.state(GUEST) / "quorum").glob("segment-*"), default=None) or min(
        path
        for path in (members.state(GUEST) / "quorum").iterdir()
        if path.stat().st_size > 1 << 20
    )
    with segment.open("r+b") as file:
        content = file.read()
        at = content.index(b"NodeAdded")
        file.seek(at)
        wrong = bytes([content[at] ^ 0x10])
        file.write(wrong)
    members.lab.run(GUEST)
    view = members.until(GUEST, lambda view: bool(view.fault), "the fault")
    assert view.fault == "log-corrupt"
    found = re.search(
        rf"Record (\d+) of .*/{segment.name} behind offset (\d+), was durable .* Readable are the "
        r"records up to (\d+): entries up to (\d+), promise .*Nothing was changed\.",
        view.advice,
    )
    assert found, view.advice
    record, offset, whole, entries = map(int, found.groups())
    assert (record, entries < whole, offset < at) == (whole + 1, True, True), view.advice
    assert "rejoin" in view.advice
    assert "kept in quarantine" in view.advice
    with pytest.raises(LeitwolfError) as caught:
        members.client(GUEST).token(600)
    assert caught.value.code == "log-corrupt"
    assert members.lab.command(GUEST, "join", members.client("n1").token(600)).returncode == 8
    members.evict(GUEST)
    members.run("rejoin", members.client("n1").token(600), node=GUEST)
    members.until_member()
    [kept] = (members.state(GUEST) / "quarantine").glob(f"**/{segment.name}")
    assert kept.read_bytes() == content[:at] + wrong + content[at + 1 :]


# --- minorities, stops, reloads ------------------------------------------------------------------


def test_minority_stops_says_so_and_tells_its_side_later(members: Members) -> None:
    """Reads answer, commands are refused with what to do, and the timeline hears of it all."""
    unless_it_stalls(lambda: check_loss(members), members.gather)


def check_loss(members: Members) -> None:
    """Cut the owner off; one that could not prove its stop in time fences itself, and forgets."""
    members.dismiss()
    victim = members.owner()
    rest = next(node for node in MEMBERS if node != victim)
    before = members.status(rest).index
    members.world.cut(victim, ["ic0"])
    try:
        check_minority(members, victim, rest)
    finally:
        members.world.heal(victim, ["ic0"])
    members.settle()
    deadline = time.monotonic() + _WAIT_S
    while not any(
        item.by == f"daemon@{victim}" and "run-lease over" in str(item.events)
        for item in members.client(victim).log(before)
    ):
        assert time.monotonic() < deadline, members.log_text(victim)
        time.sleep(0.1)
    members.until(victim, lambda view: not view.stopped, "nothing left to tell")


def check_minority(members: Members, victim: str, rest: str) -> None:
    """What a node says that lost its quorum."""

    def alone(view: StatusView) -> bool:
        others = [node for node in view.nodes if not node.here and node.connected]
        return not view.quorum and bool(view.stopped) and not others

    view = members.until(victim, alone, "the loss")
    *_, begun = [item for item in view.stopped if "run-lease over" in item.text]
    assert "stopping web (" in begun.text
    view = members.until(
        victim, lambda view: any("is stopped: web" in item.text for item in view.stopped), "the end"
    )
    *_, done = [item for item in view.stopped if "is stopped: web" in item.text]
    assert done.at_wall >= begun.at_wall
    shown = members.lab.command(victim, "status")
    assert shown.returncode == 6
    assert "NO QUORUM" in shown.stdout
    refusal = members.lab.command(victim, "group", "offline", "web")
    assert refusal.returncode == 6
    assert "no-quorum" in refusal.stderr
    assert rest in refusal.stderr
    assert members.client(victim).log()
    assert "web" in members.client(victim).why("web").summary
    members.until(rest, lambda view: view.quorum, "a leader")


def undisturbed(prober: Prober) -> bool:
    """Return whether nothing was out; an answer after 50 ms counts as lost, and may just be late.

    That nothing moved is told by the generation; latency by the benchmarks.
    """
    answers = prober.wait_for_answers(timeout_s=_WAIT_S)
    return answers and all(one.milliseconds < SOON_MS for one in prober.outages() if one.end)


def test_reload_replaces_all_processes_without_outage(members: Members) -> None:
    """SIGHUP to every keeper in turn: new processes, the same group, no outage."""
    unless_it_stalls(lambda: check_reload(members), members.gather)


def check_reload(members: Members) -> None:
    """Replace the processes of all members."""
    members.dismiss()
    members.until_online("n1")
    members.settle()
    with Prober(members.world, VIP, PORT) as prober:
        assert prober.wait_for_answers()
        prober.outages()
        generation = members.generation()
        for node in MEMBERS:
            before = members.lab.log_of(node).read_text().count("guard replaced")
            members.signal(node, signal.SIGHUP)
            deadline = time.monotonic() + _WAIT_S
            while members.lab.log_of(node).read_text().count("guard replaced") == before:
                assert time.monotonic() < deadline, members.lab.log_of(node).read_text()[-2000:]
                time.sleep(0.05)
            members.settle()
        assert undisturbed(prober)
        assert members.generation() == generation, members.log_text(last=40)


def test_rekey_loses_no_heartbeat(members: Members) -> None:
    """One new key everywhere, the former nowhere, every heartbeat opened; a restart finds it."""
    unless_it_stalls(lambda: check_rekey(members), members.gather)


def refused_rekey(members: Members) -> LeitwolfError:
    """Ask until another one is found under way: one ends while the machine stands still."""
    members.run("rekey", "--no-wait", node="n2")
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        try:
            members.client("n1").rekey()
        except LeitwolfError as error:
            return error
    raise AssertionError("two at once")


def check_rekey(members: Members) -> None:
    """Replace the keys twice."""
    members.dismiss()
    members.until_online("n1")
    members.settle()
    time.sleep(1.2)  # the counts are told once a second
    former, generation, deaf = members.keys(), members.generation(), members.unopened()
    assert len(deaf) == len(MEMBERS)
    with Prober(members.world, VIP, PORT) as prober:
        assert prober.wait_for_answers()
        prober.outages()
        again = refused_rekey(members)
        assert (again.exit_code, again.code) == (4, "rekey-under-way"), again
        deadline = time.monotonic() + _WAIT_S
        keys = set(former.values())
        while len(keys) > 1 or len(min(keys)) > 32 or keys & set(former.values()):
            assert time.monotonic() < deadline, members.log_text(last=9)
            time.sleep(0.1)
            keys = set(members.keys().values())
        members.until("n2", lambda view: "keys" not in view.under_way, "the last step")
        assert "KeysSet stage=final" in members.log_text()
        finals = members.log_text("n2").count("KeysSet stage=final")
        members.run("rekey", node="n2")
        assert members.log_text("n2").count("KeysSet stage=final") > finals, "it waits till then"
        members.until("n1", lambda view: "keys" not in view.under_way, "the last step")
        keys = set(members.keys().values())
        time.sleep(1.2)  # the counts are told once a second
        assert members.unopened() == deaf
        victim = next(n for n in MEMBERS if n not in (members.leader(), members.owner()))
        members.stop(victim)
        members.lab.run(victim)
        members.settle()
        assert set(members.keys().values()) == keys
        assert undisturbed(prober)
    assert members.generation() == generation


def test_orderly_stop_moves_groups_first_and_none_comes_back(members: Members) -> None:
    """The stop of the owner that leads is a planned move: short, announced, and no failover."""
    unless_it_stalls(lambda: check_stop(members), members.gather)


def check_stop(members: Members) -> None:
    """Stop the node that owns and leads, and start it again."""
    members.dismiss()
    members.until_online("n1")
    victim = members.owner()
    members.lead(victim)
    rest = next(node for node in MEMBERS if node != victim)
    before = members.status(rest).index
    with Prober(members.world, VIP, PORT) as prober:
        assert prober.wait_for_answers()
        prober.outages()
        members.stop(victim)
        assert prober.wait_for_answers()
        outages = prober.outages()
    text = members.log_text(rest)
    assert "NodeStopping" in text
    assert "is about to stop" in text
    codes = {line.code for line in members.client(rest).log(before)}
    assert "drained" in codes
    assert "node-lost" not in codes, text
    assert sum(outage.milliseconds for outage in outages if outage.end) < SOON_MS
    assert members.owner(rest) != victim
    members.lab.run(victim)
    members.settle()
    members.until(
        victim,
        lambda view: not any(item.reason.endswith("about to stop") for item in view.nodes),
        "the end of the stop",
    )


def test_second_cluster_on_the_same_interconnect_disturbs_nobody(members: Members) -> None:
    """Other keys, another uuid: both lead, neither hears the other, nobody joins by mistake."""
    unless_it_stalls(lambda: check_second_cluster(members), members.gather)


def check_second_cluster(members: Members) -> None:
    """Form another cluster of the fourth node, and destroy it."""
    members.dismiss()
    before = members.until("n1", lambda view: view.quorum, "a leader")
    with pytest.raises(LeitwolfError) as caught:
        members.client(GUEST).form(InitRequest(name="other", votes="many"))
    assert "'dynamic' or 'strict'" in caught.value.text
    members.client(GUEST).form(InitRequest(name="other", interconnect=("ic0",)))
    view = members.until(GUEST, lambda view: view.quorum, "the other cluster")
    assert view.cluster == "other"
    assert view.uuid != before.uuid
    time.sleep(1)
    after = members.status()
    assert (after.leader, after.quorum) == (before.leader, True)
    with pytest.raises(LeitwolfError) as caught:
        list(members.client(GUEST).join(JoinRequestView(token=members.client("n1").token(600))))
    assert caught.value.code == "already-in-a-cluster"
    members.client(GUEST).destroy()
    members.until(GUEST, lambda view: not view.formed, "its end")


_FOREIGN = """
import socket, sys
from leitwolf.guard.seal import KeyRing, Sealer
sealer = Sealer(KeyRing([bytes(32)]), 9)
channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(5):
    channel.sendto(sealer.seal(0, b"heartbeat of another cluster"), (sys.argv[1], int(sys.argv[2])))
channel.sendto(bytes(1201), (sys.argv[1], int(sys.argv[2])))
"""


def test_heartbeats_of_another_cluster_are_named(members: Members) -> None:
    """Who takes an address of a member for one of its own is told, and disturbs nobody."""
    members.dismiss()
    before = members.until("n1", lambda view: view.quorum, "a leader")
    target = members.world.address("n1", "ic0")
    members.world.run(GUEST, [sys.executable, "-c", _FOREIGN, target, str(DEFAULT_PORT)])
    here = members.world.address(GUEST, "ic0")

    def told(view: StatusView) -> bool:
        return any((one.address, one.count) == (here, 5) for one in view.strangers)

    members.until("n1", told, "the stranger", 30)  # at once, and again with what came meanwhile
    after = members.until("n1", lambda view: view.quorum, "a leader")
    known = [(node.id, node.name, node.standing) for node in before.nodes]
    assert [(node.id, node.name, node.standing) for node in after.nodes] == known
    assert not told(members.status("n2"))
    assert f"former member, from {here} (5)" in members.lab.command("n1", "status").stdout
    shown = members.lab.command("n1", "quorum", "status").stdout
    (counts,) = [line for line in shown.splitlines() if line.startswith("heartbeats dropped")]
    assert " 1 oversized" in counts
    assert re.search(r"\b[5-9] foreign-key|\d\d foreign-key", counts), counts


def change_profile(members: Members, profile: str) -> None:
    """Have every node act by a profile; a change before it must have ended everywhere."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            members.client("n1").command(ChangeCluster(profile=profile))
            break
        except LeitwolfError as error:
            if error.code != "profile-changing" or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
    for node in MEMBERS:
        members.until(node, lambda view: view.profile == profile, "the profile")
        # It acts by it once every lease of the former one is over.
        members.until_quorum(node, lambda view: view.profile == profile, "acting by it")


def test_profile_changes_online(members: Members) -> None:
    """Every node takes the new profile over, nothing stops, and the leader still leads."""
    former = members.until("n1", lambda view: view.formed, "the daemon").profile
    unless_it_stalls(lambda: check_profiles(members, former), members.gather)


def check_profiles(members: Members, former: str) -> None:
    """Change to another profile and back."""
    members.dismiss()
    generation = members.generation()
    for profile in ("virtual" if former == "default" else "wan", former):
        change_profile(members, profile)
        time.sleep(1.0)
        members.settle()
    assert members.generation() == generation


def refused_profile(members: Members, number: int) -> LeitwolfError:
    """Say that a node has no real time, and what a profile that needs it is refused with."""
    client, former = members.client("n1"), members.status().profile
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        client.command(TellAbility(node=NodeId(number), realtime=False))
        try:
            client.command(ChangeCluster(profile="fast"))
        except LeitwolfError as error:
            if error.code != "profile-changing":
                return error
            time.sleep(0.1)
        else:  # the node objected before: this machine stood still
            change_profile(members, former)
    raise AssertionError("it is never refused")


def test_nodes_tell_whether_they_can_hold_a_profile(members: Members) -> None:
    """Nobody else's word lasts: a node corrects it, and until then the profile is refused."""
    members.dismiss()
    member = members.member("n2")
    assert member is not None
    real = members.client("n2").quorum().realtime
    client = members.client("n1")

    def told(name: str) -> str:
        """Return what a node can by the newest word about it."""
        what = f"NodeChanged node={name} realtime="
        lines = [line for entry in client.log() for line in entry.events if what in line]
        return lines[-1].partition(what)[2].split()[0] if lines else ""

    def until_told(*names: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        while any(told(name) != str(real) for name in names):
            assert time.monotonic() < deadline, "they did not tell"
            time.sleep(0.1)

    until_told(*MEMBERS)
    refusal = refused_profile(members, member.id)
    assert refusal.code == "profile-too-short"
    assert re.search(r"real-time scheduling on .*n2.* worst stall 400", refusal.text), refusal.text
    until_told("n2")
