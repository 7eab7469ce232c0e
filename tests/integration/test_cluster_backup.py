"""Backup and restore on real nodes, while the old cluster lives and when it is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.membership_support import GUEST, MEMBERS, Members, formed
from tests.integration.patience_support import unless_it_stalls

from leitwolf.model.errors import LeitwolfError
from leitwolf.model.views import StatusView

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Members]:
    with formed() as made:
        yield made


@pytest.fixture
def members(cluster: Members) -> Members:
    """Three nodes that are well, and a fourth in no cluster."""
    cluster.gather()
    return cluster


def web(view: StatusView) -> str:
    """Return the status of the group, '' as long as it is not known."""
    return next((group.status for group in view.groups if group.id == "web"), "")


def make_backup(members: Members, node: str) -> Path:
    file = members.world.folder / f"{node}.backup"
    assert "may be missing" not in members.run("backup", file, node=node)
    assert file.stat().st_mode & 0o777 == 0o600
    return file


def test_the_log_is_dumped_beside_the_daemon_and_where_it_is_damaged(members: Members) -> None:
    """Whole on a running node; damage is named on one that refuses to start; nothing changes."""
    lines = json.loads(members.run("quorum", "log", "dump", "--json"))
    kinds = {line.get("kind") for line in lines}
    assert {"entry", "promised"} <= kinds
    texts = [
        event["kind"] for line in lines for event in (line.get("change") or {}).get("events", ())
    ]
    assert "GroupAdded" in texts
    newest = members.status("n1").index
    dumped = members.run("quorum", "log", "dump", "--after", str(newest - 1))
    assert 1 <= dumped.count("  entry ") < newest, "others may have come meanwhile"

    members.world.power_off("n3")
    segment = min((members.state("n3") / "quorum").glob("quolog.0*"))
    data = bytearray(segment.read_bytes())
    at = data.index(b"GroupAdded")
    data[at] ^= 1
    segment.write_bytes(data)
    members.lab.boot("n3")
    members.until("n3", lambda view: view.fault == "log-corrupt", "the damage")
    done = members.lab.command("n3", "quorum", "log", "dump")
    assert done.returncode == 1
    assert "! unreadable" in done.stdout
    assert "does not continue" in done.stdout
    assert segment.read_bytes() == data
    with pytest.raises(LeitwolfError):
        members.client("n3").backup()
    members.world.power_off("n3")
    data[at] ^= 1
    segment.write_bytes(data)


def check_conflict(members: Members, generation: int) -> None:
    """Let the restored cluster start the group that the old one has online."""
    members.run("node", "resume", GUEST, node=GUEST)
    view = members.until(GUEST, lambda view: web(view) == "failed", "the conflict")
    assert any("address" in one.code for group in view.groups for one in group.resources), view
    members.until_online("n1")
    assert members.generation() == generation


def test_a_restored_cluster_never_meets_the_old_one(members: Members) -> None:
    """On a fourth machine, while three nodes serve: another cluster; it disturbs nobody."""
    old = members.until("n1", lambda view: web(view) == "online", "the group")
    generations = [members.generation()]
    file = make_backup(members, "n2")
    verified = json.loads(members.run("backup", file, "--verify", "--json", node=GUEST))
    assert verified["nodes"] == list(MEMBERS)
    done = members.lab.command("n2", "backup", str(file))
    assert "file-exists" in done.stderr
    assert "make a backup on n2" in members.log_text()
    assert members.client("n1").log(verified["index"] - 1, wait_s=9)[0].by == "root@n2"

    done = members.lab.command("n1", "restore", str(file))
    assert "already-in-a-cluster" in done.stderr
    done = members.lab.command("n1", "restore", str(file), "--replace", "--yes")
    assert "still-a-member" in done.stderr
    said = members.run("restore", file, node=GUEST)
    assert "nothing starts before: leitwolf node resume n4" in said
    view = members.until(
        GUEST, lambda view: view.quorum and bool(web(view)), "the restored cluster"
    )
    assert (view.cluster, view.uuid != old.uuid) == ("lab", True)
    [node] = view.nodes
    assert (node.name, node.paused) == (GUEST, True)
    assert web(view) == "offline"

    # Resumed too early: the address is in use, which is found before it is taken.
    unless_it_stalls(
        lambda: check_conflict(members, generations[-1]),
        lambda: generations.append(members.generation()),
    )

    # The old one is switched off; now the new one serves.
    for name in MEMBERS:
        members.world.power_off(name)
    members.run("group", "recover", "web", node=GUEST)
    members.until(GUEST, lambda view: web(view) == "online", "the group on the fourth node")

    # The restored cluster is replaced by one that is restored once more.
    members.run("restore", file, "--replace", "--yes", node=GUEST)
    again = members.until(
        GUEST,
        lambda now: now.quorum and bool(web(now)) and now.uuid not in (view.uuid, old.uuid),
        "the second restored cluster",
    )
    assert web(again) == "offline"
    assert (members.state(GUEST) / "quarantine").is_dir()
    lines = members.client(GUEST).log(0)
    assert lines[0].code == "restored"
