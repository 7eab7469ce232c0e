"""What was lost is put back with one command: disks, witnesses, nodes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.prober import Prober
from lab.world import World
from tests.integration.membership_support import (
    GUEST,
    PORT,
    VIP,
    Members,
    block_device,
)
from tests.integration.test_cluster_quorum import command, until_quorum

pytestmark = pytest.mark.root

_WAIT_S = 30.0


@pytest.fixture
def members() -> Iterator[Members]:
    with World(4) as world:
        cluster = Members(world)
        try:
            cluster.form()
            cluster.serve()
            yield cluster
        finally:
            cluster.lab.close()


def until_fault(members: Members, code: str) -> None:
    """Wait until the leader's view names a fault of the disk or witness."""
    deadline, seen = time.monotonic() + _WAIT_S, ""
    while time.monotonic() < deadline:
        view = members.client(members.leader()).quorum()
        seen = " ".join(member.fault for member in view.members)
        if code in seen:
            return
        time.sleep(0.05)
    raise AssertionError(f"{code} is not said: {seen}")


def until_witness(members: Members, *, former: str) -> str:
    """Wait until another disk or witness is the one in use, without a fault; return its UUID.

    Beside three nodes it has a vote only when votes are strict.
    """
    deadline, said = time.monotonic() + _WAIT_S, ""
    while time.monotonic() < deadline:
        view = members.client(members.leader()).quorum()
        used = [member for member in view.members if member.storage]
        wanted = view.witness.storage if view.witness is not None else ""
        said = f"{wanted} {[(one.storage, one.weight, one.fault) for one in used]}"
        settled = [one.storage for one in used] == [wanted] and not view.joint
        if settled and wanted != former and not used[0].fault and used[0].connected:
            return wanted
        time.sleep(0.05)
    raise AssertionError(f"{said}\n{command(members, 'quorum', 'status')}")


def copy_disk(device: Path, target: Path) -> None:
    shutil.copyfile(os.path.realpath(device), target)


def put_back(source: Path, device: Path) -> None:
    """Write an older copy over the disk, past all caches that could hide it."""
    with source.open("rb") as old, device.open("r+b") as disk:
        shutil.copyfileobj(old, disk, 1 << 20)
        disk.flush()
        os.fsync(disk.fileno())


def refused(members: Members, code: str, *words: str | Path) -> None:
    done = members.lab.command("n1", *(str(word) for word in words))
    assert done.returncode != 0
    assert code in done.stderr, done.stderr


def test_a_quorum_disk_is_replaced_whatever_became_of_it(members: Members) -> None:
    """Restored from an older image, gone, back as a stranger: groups go on, one command each."""
    with block_device(members, "first") as first, block_device(members, "second") as second:
        command(members, "quorum", "disk", "format", first)
        command(members, "quorum", "set", "disk", first, "--witness")
        storage = until_witness(members, former="")
        refused(members, "witness-in-use", "quorum", "replace")
        image = members.world.folder / "image"
        shutil.copyfile(first, image)
        with Prober(members.world, VIP, PORT, interval_us=2000) as prober:
            assert prober.wait_for_answers()
            for number in range(3):
                command(members, "group", "set", "web", "--restarts", str(2 + number))
                time.sleep(1.2)
            put_back(image, first)
            until_fault(members, "witness-rolled-back")
            assert "quorum replace" in command(members, "quorum", "status") or (
                members.leader() != "n1"
            )
            members.until("n1", lambda _: "witness-rolled-back" in members.log_text(), "its line")
            done = members.lab.command("n1", "quorum", "disk", "check", str(first))
            assert "older copy" in done.stdout
            command(members, "quorum", "replace")  # the same place, formatted anew
            storage = until_witness(members, former=storage)

            before = members.world.folder / "before"
            shutil.copyfile(first, before)
            with first.open("r+b") as disk:  # another disk in its place: blank
                disk.write(bytes(32 << 20))
                disk.flush()
                os.fsync(disk.fileno())
            until_fault(members, "witness-")
            command(members, "quorum", "replace", second)
            storage = until_witness(members, former=storage)

            put_back(before, first)  # the former one comes back: nobody takes it for the disk
            time.sleep(1)
            assert members.client("n1").quorum().witness.location == str(second)
            refused(members, "witness-in-use", "quorum", "replace")
            command(members, "quorum", "replace", first)
            until_witness(members, former=storage)
            lost = [outage.milliseconds for outage in prober.outages()]
        assert not [one for one in lost if one >= 1_000], lost


def test_a_disk_restored_while_all_nodes_are_down_is_not_believed(members: Members) -> None:
    """The log of a node remembers what stood there; nodes alone are the quorum and go on."""
    with block_device(members) as device:
        command(members, "quorum", "disk", "format", device)
        command(members, "quorum", "set", "disk", device, "--witness")
        storage = until_witness(members, former="")
        image = members.world.folder / "image"
        shutil.copyfile(device, image)
        command(members, "quorum", "move")  # promises on the disk that the image lacks
        time.sleep(2)
        for node in ("n1", "n2", "n3"):
            members.world.power_off(node)
        put_back(image, device)
        for node in ("n1", "n2", "n3"):
            members.lab.boot(node)
        for node in ("n1", "n2", "n3"):
            members.until(node, lambda view: view.quorum, "a quorum")
        members.settle()
        until_fault(members, "witness-rolled-back")
        command(members, "quorum", "replace")
        until_witness(members, former=storage)


def test_a_disk_that_is_the_quorum_alone_is_replaced_while_it_works(members: Members) -> None:
    """Its owner brings the new one in before the old one loses its vote: clients notice nothing."""
    with block_device(members, "first") as first, block_device(members, "second") as second:
        command(members, "quorum", "disk", "format", first)
        command(members, "quorum", "set", "disk", first)
        until_quorum(members, 1, 4)
        with Prober(members.world, VIP, PORT, interval_us=2000) as prober:
            assert prober.wait_for_answers()
            command(members, "quorum", "replace", second)
            deadline = time.monotonic() + _WAIT_S
            while time.monotonic() < deadline:
                view = members.client("n1").quorum()
                names = [member.node for member in view.members if member.weight]
                if names == [f"disk {second}"] and not view.joint:
                    break
                time.sleep(0.05)
            assert names == [f"disk {second}"], command(members, "quorum", "status")
            lost = [outage.milliseconds for outage in prober.outages()]
        assert not [one for one in lost if one >= 1_000], lost


def test_a_witness_is_replaced_whatever_became_of_it(members: Members) -> None:
    """Its file deleted, its folder wiped, an older copy put back: one command each."""
    folder = members.world.folder / "share"
    folder.mkdir()
    location = f"share:{folder}/witness?local=yes"
    command(members, "quorum", "set", "witness", location)
    storage = until_witness(members, former="")
    refused(members, "witness-in-use", "quorum", "replace")
    copies = members.world.folder / "copies"
    shutil.copytree(folder, copies)
    command(members, "quorum", "move")
    time.sleep(2)
    for path in copies.iterdir():  # an older copy of the witness
        shutil.copyfile(path, folder / path.name)
    until_fault(members, "witness-rolled-back")
    command(members, "quorum", "replace")
    storage = until_witness(members, former=storage)
    for path in folder.iterdir():
        path.unlink()
    until_fault(members, "witness-unformatted")
    command(members, "quorum", "replace")
    storage = until_witness(members, former=storage)
    shutil.rmtree(folder)
    until_fault(members, "witness-")
    folder.mkdir()
    command(members, "quorum", "replace")
    until_witness(members, former=storage)


def test_a_disk_without_a_place_for_a_node_is_refused(members: Members) -> None:
    """Node numbers above its places: refused when it is set, and when a node joins."""
    with block_device(members) as device:
        command(members, "quorum", "disk", "format", device, "--nodes", "2")
        refused(members, "no-disk-slot", "quorum", "set", "disk", device, "--witness")
        command(members, "quorum", "disk", "format", device, "--nodes", "3", "--force")
        command(members, "quorum", "set", "disk", device, "--witness")
        until_witness(members, former="")
        token = members.client("n1").token(60)
        done = members.lab.command(GUEST, "join", token)
        assert "no-disk-slot" in done.stderr, done.stderr


# --- nodes ---------------------------------------------------------------------------------------


def preferred(members: Members) -> list[str]:
    """Return the preferred owners of the group, by name."""
    [group] = members.status("n1").groups
    return list(group.preferred)


def roll_back(members: Members, node: str) -> None:
    """Stop a node, have it miss changes that it knew, and start it from the older copy."""
    members.stop(node)
    copy = members.world.folder / f"{node}.copy"
    members.copy_state(node, copy)
    members.lab.run(node)
    members.until_member(node)
    for number in range(3):
        command(members, "group", "set", "web", "--restarts", str(2 + number))
    members.until(node, lambda view: view.index >= members.status().index, "the log")
    members.stop(node)
    members.restore_state(node, copy)
    members.lab.run(node)


def test_a_rolled_back_node_rejoins_with_one_command(members: Members) -> None:
    """It is locked out, says how to come back, and has its place among the preferred owners."""
    command(members, "group", "set", "web", "--prefer", "n3", "--prefer", "n2")
    roll_back(members, "n3")
    view = members.until("n3", lambda view: bool(view.fault), "the lock-out")
    assert view.fault == "state-rolled-back"
    assert "leitwolf rejoin" in view.advice
    done = members.lab.command("n3", "rejoin")
    assert done.returncode == 0, done.stderr
    members.until_member("n3")
    members.until("n1", lambda _: preferred(members) == ["n3", "n2"], "its place")
    assert list((members.state("n3") / "quarantine").iterdir())
    assert [node.name for node in members.status("n1").nodes] == ["n1", "n2", "n3"]


def test_the_first_node_rejoins_with_a_damaged_log(members: Members) -> None:
    """It was granted no addresses when it formed the cluster; its log has them."""
    members.stop("n1")
    segment = min((members.state("n1") / "quorum").glob("quolog.0*"))
    data = bytearray(segment.read_bytes())
    data[data.index(b"GroupAdded")] ^= 1
    segment.write_bytes(data)
    members.lab.run("n1")
    members.until("n1", lambda view: view.fault == "log-corrupt", "the damage")
    done = members.lab.command("n1", "rejoin")
    assert done.returncode == 0, done.stderr
    members.until_member("n1")


def test_a_wiped_node_takes_its_place_by_the_command_that_a_member_prints(
    members: Members,
) -> None:
    """State and keys are gone: one command there, one here; a live node is never replaced."""
    command(members, "group", "set", "web", "--prefer", "n2", "--prefer", "n1")
    refused(members, "node-alive", "node", "replace", "n2")
    token = members.client("n1").token(60)
    done = members.lab.command(GUEST, "join", token, "--replace", "--node-name", "n2")
    assert "node-alive" in done.stderr, done.stderr
    members.world.power_off("n2")
    for folder in ("state", "config"):
        shutil.rmtree(members.world.folder / "n2" / folder)
    members.lab.boot("n2")
    members.until("n2", lambda view: not view.formed, "nothing")
    members.until(
        "n1", lambda view: not next(n for n in view.nodes if n.name == "n2").up, "n2 gone"
    )
    done = members.lab.command("n2", "join", token, "--node-name", "n2")
    assert "name-taken" in done.stderr
    assert "--replace" in done.stderr
    printed = command(members, "node", "replace", "n2").splitlines()[-1].split()
    assert printed[:2] == ["leitwolf", "join"]
    done = members.lab.command("n2", *printed[1:])
    assert done.returncode == 0, done.stderr
    members.until_member("n2")
    members.until("n1", lambda _: preferred(members) == ["n2", "n1"], "its place")
    assert len(members.status("n1").nodes) == 3


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
    assert len(members.status("n1").nodes) == 3
    done = members.lab.command("n3", "rejoin", members.client("n1").token(60))
    assert done.returncode == 0, done.stderr
    members.until_member("n3")
