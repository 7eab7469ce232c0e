"""What was lost is put back with one command: disks, witnesses, nodes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.disk import shared_disk
from lab.prober import Prober
from tests.integration.fault_support import SOON_MS
from tests.integration.membership_support import GUEST, PORT, VIP, Members, formed
from tests.integration.patience_support import LOOK_S, unless_it_stalls
from tests.integration.stall_support import NOT_NOW

from leitwolf.model.views import QuorumView

pytestmark = pytest.mark.root

_WAIT_S = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Members]:
    with formed() as made:
        yield made


@pytest.fixture
def members(cluster: Members) -> Members:
    """Three nodes that alone vote, and a fourth in no cluster; all tests play on the same ones."""
    cluster.use_nodes()
    return cluster


def until_fault(members: Members, code: str) -> None:
    """Wait until the leader's view names a fault of the disk or witness."""
    members.until_quorum(
        "", lambda view: any(code in member.fault for member in view.members), code
    )


def until_witness(members: Members, *, former: str) -> str:
    """Wait until another disk or witness is the one in use, without a fault; return its UUID.

    Beside three nodes it has a vote only when votes are strict.
    """

    def good(view: QuorumView) -> bool:
        if view.witness is None or view.witness.storage == former or view.joint:
            return False
        used = [member for member in view.members if member.storage]
        return [(one.storage, one.fault, one.connected) for one in used] == [
            (view.witness.storage, "", True)
        ]

    view = members.until_quorum("", good, f"another than {former}")
    assert view.witness is not None
    return view.witness.storage


def until_kept(members: Members) -> None:
    """Wait until the disk or witness holds all that the leader has."""

    def kept(view: QuorumView) -> bool:
        return any(one.storage and one.match >= view.last for one in view.members)

    members.until_quorum("", kept, "the newest entry at the witness")


def put_back(source: Path, device: Path) -> None:
    """Write an older copy over the disk, past all caches that could hide it."""
    with source.open("rb") as old, device.open("r+b") as disk:
        shutil.copyfileobj(old, disk, 1 << 20)
        disk.flush()
        os.fsync(disk.fileno())


def refused(members: Members, code: str, *words: str | Path) -> None:
    """Have a command refused with a code, whatever keeps it from that for a moment."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        done = members.lab.command("n1", *(str(word) for word in words))
        assert done.returncode != 0
        later = done.returncode in NOT_NOW and code not in done.stderr
        if not later or time.monotonic() > deadline:
            break
        members.revive()
    assert code in done.stderr, done.stderr


def replace(members: Members, *words: str | Path) -> None:
    """Replace the disk or witness; who leads meanwhile must have looked at it, too."""
    deadline, unknown = time.monotonic() + _WAIT_S, False
    while True:
        done = members.lab.command("n1", "quorum", "replace", *(str(word) for word in words))
        whole = "witness-in-use" in done.stderr
        if not done.returncode or (unknown and whole):
            return
        unknown = unknown or done.returncode in NOT_NOW
        later = done.returncode in NOT_NOW or whole
        if not later or time.monotonic() > deadline:
            raise AssertionError(done.stderr)
        members.revive()
        time.sleep(LOOK_S)


def test_a_quorum_disk_is_replaced_whatever_became_of_it(members: Members) -> None:
    """Restored from an older image, gone, back as a stranger: groups go on, one command each."""
    unless_it_stalls(lambda: check_disks(members), members.use_nodes)


def check_disks(members: Members) -> None:
    """Replace a disk by itself, by another one, and that by the first one."""
    world = members.world
    with shared_disk(world, "first") as first, shared_disk(world, "second") as second:
        members.run("quorum", "disk", "format", first)
        members.run("quorum", "set", "disk", first, "--witness")
        storage = until_witness(members, former="")
        refused(members, "witness-in-use", "quorum", "replace")
        image = members.world.folder / "image"
        shutil.copyfile(first, image)
        with Prober(members.world, VIP, PORT, interval_us=2000) as prober:
            assert prober.wait_for_answers()
            generation = members.generation()
            members.run("group", "set", "web", "--restarts", "2")
            until_kept(members)
            put_back(image, first)
            until_fault(members, "witness-rolled-back")
            members.until(
                "n1",
                lambda view: (
                    "quorum replace"
                    in members.lab.command(view.leader or "n1", "quorum", "status").stdout
                ),
                "what to do",
            )
            members.until("n1", lambda _: "witness-rolled-back" in members.log_text(), "its line")
            done = members.lab.command("n1", "quorum", "disk", "check", str(first))
            assert "older copy" in done.stdout
            replace(members)  # the same place, formatted anew
            storage = until_witness(members, former=storage)

            before = members.world.folder / "before"
            shutil.copyfile(first, before)
            with first.open("r+b") as disk:  # another disk in its place: blank
                disk.write(bytes(32 << 20))
                disk.flush()
                os.fsync(disk.fileno())
            until_fault(members, "witness-")
            replace(members, second)
            storage = until_witness(members, former=storage)

            put_back(before, first)  # the former one comes back: nobody takes it for the disk
            time.sleep(1)
            view = members.client("n1").quorum()
            assert view.witness is not None
            assert view.witness.location == str(second)
            refused(members, "witness-in-use", "quorum", "replace")
            refused(members, "witness-used", "quorum", "replace", first)
            replace(members, first, "--force")
            until_witness(members, former=storage)
            lost = [outage.milliseconds for outage in prober.outages()]
            after = members.generation()
        assert not [one for one in lost if one >= SOON_MS], lost
        assert after == generation


def test_a_disk_restored_while_all_nodes_are_down_is_not_believed(members: Members) -> None:
    """The log of a node remembers what stood there; nodes alone are the quorum and go on."""
    with shared_disk(members.world) as device:
        members.run("quorum", "disk", "format", device)
        members.run("quorum", "set", "disk", device, "--witness")
        storage = until_witness(members, former="")
        image = members.world.folder / "image"
        shutil.copyfile(device, image)
        members.run("quorum", "move")  # promises on the disk that the image lacks
        until_kept(members)
        for node in ("n1", "n2", "n3"):
            members.world.power_off(node)
        put_back(image, device)
        for node in ("n1", "n2", "n3"):
            members.lab.boot(node)
        for node in ("n1", "n2", "n3"):
            members.until(node, lambda view: view.quorum, "a quorum")
        members.settle()
        until_fault(members, "witness-rolled-back")
        replace(members)
        until_witness(members, former=storage)


def test_a_disk_that_is_the_quorum_alone_is_replaced_while_it_works(members: Members) -> None:
    """Its owner brings the new one in before the old one loses its vote: clients notice nothing."""
    unless_it_stalls(lambda: check_disk_alone(members), members.use_nodes)


def check_disk_alone(members: Members) -> None:
    """Replace the disk that has the only vote."""
    world = members.world
    with shared_disk(world, "first") as first, shared_disk(world, "second") as second:
        members.run("quorum", "disk", "format", first)
        members.run("quorum", "set", "disk", first)
        members.until_votes(1, 4)
        with Prober(members.world, VIP, PORT, interval_us=2000) as prober:
            assert prober.wait_for_answers()
            generation = members.generation()
            replace(members, second)
            wanted = [f"disk {second}"]
            members.until_quorum(
                "n1",
                lambda view: (
                    [member.node for member in view.members if member.weight] == wanted
                    and not view.joint
                ),
                "the new disk alone",
            )
            lost = [outage.milliseconds for outage in prober.outages()]
            after = members.generation()
        members.use_nodes()
        assert not [one for one in lost if one >= SOON_MS], lost
        assert after == generation


def test_a_witness_is_replaced_whatever_became_of_it(members: Members) -> None:
    """Its file deleted, its folder wiped, an older copy put back: one command each."""
    folder = members.world.folder / "share"
    folder.mkdir()
    location = f"share:{folder}/witness?local=yes"
    members.run("quorum", "set", "witness", location)
    storage = until_witness(members, former="")
    refused(members, "witness-in-use", "quorum", "replace")
    copies = members.world.folder / "copies"
    shutil.copytree(folder, copies)
    members.run("quorum", "move")
    until_kept(members)
    for path in copies.iterdir():  # an older copy of the witness
        shutil.copyfile(path, folder / path.name)
    until_fault(members, "witness-rolled-back")
    replace(members)
    storage = until_witness(members, former=storage)
    for path in folder.iterdir():
        path.unlink(missing_ok=True)  # one that is being written was renamed
    until_fault(members, "witness-unformatted")
    replace(members)
    storage = until_witness(members, former=storage)
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)  # somebody may write in it just now
    until_fault(members, "witness-")
    folder.mkdir()
    replace(members)
    until_witness(members, former=storage)


def test_a_disk_without_a_place_for_a_node_is_refused(members: Members) -> None:
    """Node numbers above its places: refused when it is set, and when a node joins."""
    with shared_disk(members.world) as device:
        members.run("quorum", "disk", "format", device, "--nodes", "2")
        refused(members, "no-disk-slot", "quorum", "set", "disk", device, "--witness")
        members.run("quorum", "disk", "format", device, "--nodes", "3", "--force")
        members.run("quorum", "set", "disk", device, "--witness")
        until_witness(members, former="")
        token = members.client("n1").token(600)
        done = members.lab.command(GUEST, "join", token)
        assert "no-disk-slot" in done.stderr, done.stderr


# --- nodes ---------------------------------------------------------------------------------------


def preferred(members: Members) -> list[str]:
    """Return the preferred owners of the group, by name."""
    return [name for group in members.status("n1").groups for name in group.preferred]


def roll_back(members: Members, node: str) -> None:
    """Stop a node, have it miss changes that it knew, and start it from the older copy."""
    members.stop(node)
    copy = members.world.folder / f"{node}.copy"
    shutil.rmtree(copy, ignore_errors=True)
    members.copy_state(node, copy)
    members.lab.run(node)
    members.until_member(node)
    for number in range(3):
        members.run("group", "set", "web", "--restarts", str(2 + number))
    members.until(node, lambda view: view.index >= members.status().index, "the log")
    members.stop(node)
    members.restore_state(node, copy)
    members.lab.run(node)


def test_a_rolled_back_node_rejoins_with_one_command(members: Members) -> None:
    """It is locked out, says how to come back, and has its place among the preferred owners."""
    members.run("group", "set", "web", "--prefer", "n3", "--prefer", "n2")
    roll_back(members, "n3")
    view = members.until("n3", lambda view: bool(view.fault), "the lock-out")
    assert view.fault == "state-rolled-back"
    assert "leitwolf rejoin" in view.advice
    members.run("rejoin", node="n3")
    members.until_member("n3")
    members.until("n1", lambda _: preferred(members) == ["n3", "n2"], "its place")
    assert list((members.state("n3") / "quarantine").iterdir())
    members.until(
        "n1",
        lambda view: sorted(node.name for node in view.nodes) == ["n1", "n2", "n3"],
        "three nodes",
    )


def test_the_first_node_rejoins_with_a_damaged_log(members: Members) -> None:
    """It was granted no addresses when it formed the cluster; its log has them."""
    members.stop("n1")
    segment = min((members.state("n1") / "quorum").glob("quolog.0*"))
    data = bytearray(segment.read_bytes())
    data[data.index(b"GroupAdded")] ^= 1
    segment.write_bytes(data)
    members.lab.run("n1")
    members.until("n1", lambda view: view.fault == "log-corrupt", "the damage")
    members.run("rejoin", node="n1")
    members.until_member("n1")


def test_a_wiped_node_takes_its_place_by_the_command_that_a_member_prints(
    members: Members,
) -> None:
    """State and keys are gone: one command there, one here; a live node is never replaced."""
    members.run("group", "set", "web", "--prefer", "n2", "--prefer", "n1")
    refused(members, "node-alive", "node", "replace", "n2")
    token = members.client("n1").token(600)
    done = members.lab.command(GUEST, "join", token, "--replace", "--node-name", "n2")
    assert "node-alive" in done.stderr, done.stderr
    members.world.power_off("n2")
    for folder in ("state", "config"):
        shutil.rmtree(members.world.folder / "n2" / folder)
    members.lab.boot("n2")
    members.until("n2", lambda view: not view.formed, "nothing")
    members.until(
        "n1", lambda view: any(n.name == "n2" and not n.up for n in view.nodes), "n2 gone"
    )
    done = members.lab.command("n2", "join", token, "--node-name", "n2")
    assert "name-taken" in done.stderr
    assert "--replace" in done.stderr
    printed = members.run("node", "replace", "n2").splitlines()[-1].split()
    assert printed[:2] == ["leitwolf", "join"]
    members.run(*printed[1:], node="n2")
    members.until_member("n2")
    members.until("n1", lambda _: preferred(members) == ["n2", "n1"], "its place")
    members.until("n1", lambda view: len(view.nodes) == 3, "three nodes")


def test_a_node_without_its_keys_is_told_to_use_a_token(members: Members) -> None:
    """A foreign key in its name is refused: nobody is evicted by it."""
    roll_back(members, "n3")
    members.until("n3", lambda view: bool(view.fault), "the lock-out")
    kept = members.world.folder / "kept"
    pki = members.world.folder / "n3" / "config" / "pki"
    shutil.copytree(pki, kept)
    for name in ("node.crt", "node.key"):
        shutil.copyfile(members.world.folder / "n2" / "config" / "pki" / name, pki / name)
    done = members.lab.command("n3", "rejoin")
    assert "proof-wrong" in done.stderr, done.stderr
    members.until("n1", lambda view: len(view.nodes) == 3, "three nodes")
    members.run("rejoin", members.client("n1").token(600), node="n3")
    members.until_member("n3")
