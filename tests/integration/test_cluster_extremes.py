"""What a cluster must survive and seldom meets: full disks, stuck processes, odd versions, IPv6."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from lab.cluster import ClusterError, LabCluster
from lab.observer import Observer
from lab.prober import Prober
from lab.processes import argv_of, members_of, state_of
from lab.world import World
from tests.integration.fault_support import (
    CALM_S,
    GROUP,
    LAB,
    PORT,
    SOON_MS,
    VIP,
    VIP6,
    Calm,
    named,
)

from leitwolf.model.commands import ChangeResource
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.ids import ResourceId
from leitwolf.system.progress import Role

pytestmark = [pytest.mark.root, pytest.mark.gathers]


class Stuck:
    """A file system that can be frozen: who writes to it then cannot be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mounted"
        self.wanted = folder / "wanted"
        self.folder.mkdir()
        self.wanted.mkdir()
        image = folder / "image"
        image.write_bytes(b"")
        os.truncate(image, 16 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.folder], check=True)

    @property
    def command(self) -> str:
        """A program that writes to it on the machine for which there is a file in ``wanted``."""
        return (
            f"sh -c 'while :; do [ -e {self.wanted}/$(uname -n) ] && echo > {self.folder}/file; "
            "sleep 0.02; done'"
        )

    @contextmanager
    def under(self, calm: Calm, node: str) -> Iterator[None]:
        """Have what runs on a node hang in the kernel; if the node dies of it, it stays dead."""

        def hangs() -> bool:
            inside = members_of(calm.world.pid(node))
            return any(state_of(pid) == "D" for pid in inside if self._writes(pid))

        subprocess.run(["fsfreeze", "-f", self.folder], check=True)
        try:
            with calm.sparing(node):
                (self.wanted / node).touch()
                calm.wait_for(hangs, f"the writer on {node} to hang")
                yield
        finally:
            (self.wanted / node).unlink()
            subprocess.run(["fsfreeze", "-u", self.folder], check=True)

    def _writes(self, pid: int) -> bool:
        return any(str(self.wanted) in word for word in argv_of(pid))

    def close(self) -> None:
        """Unmount it here; the copies of the machines end with them."""
        subprocess.run(["umount", self.folder], check=True)


SMALL_LOG = """\
from leitwolf.store import log
small = log.StoreSizes(segment_bytes=256 << 10, history_bytes=1 << 20)
for maker in (log.QuorumLog.create, log.QuorumLog.open):
    maker.__kwdefaults__["sizes"] = small
"""
IMPATIENT = """\
from leitwolf.daemon import drain
drain._BASE_NS = 8_000_000_000
"""
"""A node that stops waits so long for a group that is stuck, instead of 30 s."""


class Small:
    """A small file system for the state of ``n1``, whose log has small segments."""

    node = "n1"

    def __init__(self, folder: Path) -> None:
        self.mounted = folder / "small"
        self.filler = self.mounted / "filler"
        self.mounted.mkdir()
        image = folder / "small.image"
        image.write_bytes(b"")
        os.truncate(image, 16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.mounted], check=True)
        self._patches = {True: folder / "patched-small", False: folder / "patched"}
        for small, place in self._patches.items():
            place.mkdir()
            (place / "sitecustomize.py").write_text(IMPATIENT + SMALL_LOG * small)

    def use(self, cluster: LabCluster) -> None:
        """Have the node keep its state there."""
        own = cluster.environment

        def environment(node: str) -> dict[str, str]:
            found, small = own(node), node == self.node
            found["PYTHONPATH"] = f"{self._patches[small]}:{found['PYTHONPATH']}"
            return found | ({"LEITWOLF_STATE": str(self.mounted / "state")} if small else {})

        cluster.environment = environment  # type: ignore[method-assign]

    @contextmanager
    def full(self) -> Iterator[None]:
        """Have somebody else take all space that is left."""
        try:
            with self.filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            yield
        finally:
            self.filler.unlink()

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", self.mounted], check=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """What is mounted in it before the machines are made is inherited by them."""
    made = Path("/var/tmp") / f"leitwolf-extremes-{os.getpid()}"
    made.mkdir()
    yield made
    subprocess.run(["rm", "-r", made], check=True)


@pytest.fixture(scope="module")
def small(folder: Path) -> Iterator[Small]:
    """Mounted before the machines are made."""
    made = Small(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def stuck(folder: Path) -> Iterator[Stuck]:
    """Mounted before the machines are made."""
    made = Stuck(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def calm(stuck: Stuck, small: Small) -> Iterator[Calm]:
    """A cluster of three with the group ``web``."""
    with ExitStack() as stack:
        world = stack.enter_context(World(3))
        cluster = LabCluster(world)
        small.use(cluster)
        stack.callback(cluster.close)
        cluster.form()
        prober = stack.enter_context(Prober(world, VIP, PORT, interval_us=2000))
        observer = stack.enter_context(Observer(world, [VIP, VIP6]))
        calm = Calm(cluster, prober, observer)
        calm.do(
            "group", "add", GROUP, "--address", f"{VIP}/24", "--address", f"{VIP6}/64",
            "--run", f"{sys.executable} -S -E {LAB / 'echo.py'} {PORT} web",
        )  # fmt: skip
        calm.do(
            "resource", "add", GROUP, "writer", "process",
            f"command={stuck.command}", "stop_timeout_ms=300",
        )  # fmt: skip
        calm.do("group", "add", "fill", "--offline")
        calm.do("resource", "add", "fill", FILLER, "process", "command=true")
        yield calm


def test_process_that_cannot_be_killed_costs_its_node_its_life(calm: Calm, stuck: Stuck) -> None:
    """When the lease ends, its end cannot be confirmed: the node fences itself, the group moves."""
    calm.settle()
    owner = calm.owner()
    guard = calm.pid(owner, Role.GUARD)
    with calm.watch() as seen, stuck.under(calm, owner):
        calm.world.cut(owner, ["ic0"])
        calm.until_gone(owner)
        assert state_of(guard) in "XZ", "what cannot be stopped has ended with its node"
        assert seen.answers_again()
    assert seen.two_owners_ms == 0


def test_group_whose_process_cannot_be_killed_does_not_move(calm: Calm, stuck: Stuck) -> None:
    """It starts nowhere else, is shown as failed with the reason, and goes on when that is over."""
    calm.settle()
    owner = calm.owner()
    other = calm.other(owner)
    generation = calm.group()["generation"]
    with calm.watch() as seen:
        with stuck.under(calm, owner):
            calm.do("group", "move", GROUP, other, "--no-wait", node=other)

            def given_up(view: dict[str, Any]) -> bool:
                return bool(named(view)["status"] == "failed")

            view = calm.until_seen(other, given_up, "the failure")
            group = named(view)
            (writer,) = [item for item in group["resources"] if item["id"] == "writer"]
            assert (group["owner"], group["generation"]) == (owner, generation)
            assert writer["code"] == "stop-timeout"
            assert "outlive SIGKILL" in writer["reason"]
            assert owner in calm.do("why", GROUP, node=other)["waits_for"]
        calm.until_gone(owner)
    assert seen.two_owners_ms == 0


FILLER = ResourceId("ballast")


def says_full(calm: Calm) -> bool:
    """Return whether the small node says it; while its daemon starts anew it says nothing."""
    try:
        return bool(calm.status(Small.node)["fault"] == "disk-full")
    except ClusterError:
        return False


def fill(calm: Calm, asker: str) -> int:
    """Make large entries until the small node says that its disk is full; return the newest."""
    client = calm.client(asker)
    deadline = time.monotonic() + 60
    newest = 0
    while not says_full(calm):
        assert time.monotonic() < deadline, "the log never fills the disk"
        calm.cluster.revive()
        command = f"true {newest:07000}"
        with suppress(LeitwolfError):  # while another leader is elected
            change = ChangeResource(resource=FILLER, parameters={"command": command})
            newest = client.command(change).index
    return newest


@pytest.mark.parametrize("leads", [False, True], ids=["owner", "leader"])
def test_full_disk_stops_the_log_of_its_node_and_nothing_else(
    calm: Calm, small: Small, *, leads: bool
) -> None:
    """The others go on, the group of that node runs on, and it takes part again by itself."""
    calm.settle()
    node, asker = small.node, "n2"
    calm.place(node)
    calm.lead(node if leads else asker)
    with calm.watch() as seen, small.full():
        newest = fill(calm, asker)

        def told(view: dict[str, Any]) -> bool:
            advice = view["advice"].lower()
            found = "no space for the quorum log" in advice and "free space" in advice
            return found and not view["formed"]

        calm.until_seen(node, told, "what to do")
        assert '"code":"disk-full"' in calm.cluster.log_of(node).read_text()

        def led(view: dict[str, Any]) -> bool:
            return view["quorum"] and view["leader"] not in ("", node)

        view = calm.until_seen(asker, led, "a leader")
        assert calm.do("token", node=asker)["token"], "changes are taken without that node"
        assert (named(view)["owner"], named(view)["status"]) == (node, "online")
    assert seen.moved(0), f"it was never stopped: {seen.story}"
    assert calm.status(node)["index"] >= newest
    assert seen.outage_ms < SOON_MS
    assert seen.two_owners_ms == 0


@pytest.mark.long
def test_orderly_stop_of_its_node_frees_a_group_that_is_stuck(calm: Calm, stuck: Stuck) -> None:
    """The way out for an operator: the guard cannot confirm the stop, so the node fences itself."""
    calm.settle()
    owner = calm.owner()
    other = calm.other(owner)
    guard, keeper = calm.pid(owner, Role.GUARD), calm.pid(owner, Role.KEEPER)

    def given_up(view: dict[str, Any]) -> bool:
        return bool(named(view)["status"] == "failed")

    def moved(view: dict[str, Any]) -> bool:
        return named(view)["owner"] not in ("", owner) and named(view)["status"] == "online"

    with calm.watch() as seen, stuck.under(calm, owner):
        calm.do("group", "move", GROUP, other, "--no-wait", node=other)
        calm.until_seen(other, given_up, "the failure")
        os.kill(keeper, signal.SIGTERM)
        calm.until_seen(other, moved, "the end of the node", timeout_s=90)
        assert state_of(guard) in "XZ"
    assert seen.two_owners_ms == 0


def test_evicted_leader_hands_over_office_and_group(calm: Calm) -> None:
    """Asked on itself: another node leads, the group moves in order, it is out, and can rejoin."""
    calm.settle()
    leader = calm.leader()
    calm.place(leader)
    rest = calm.other(leader)
    with calm.watch() as seen:

        def evicted() -> bool:
            done = calm.cluster.command(leader, "node", "evict", leader)
            if done.returncode == 0:
                assert done.stderr.count("waiting") == 1
                return True
            assert done.returncode in (6, 7), done.stderr  # it may be done, but could not tell
            return not calm.status(leader)["formed"]

        calm.wait_for(evicted, "the eviction")

        def without(view: dict[str, Any]) -> bool:
            left = [item["name"] for item in view["nodes"]]
            return view["quorum"] and leader not in left and view["leader"] in left

        calm.until_seen(rest, without, "the eviction")
        assert calm.until_gone(leader) in calm.world.nodes
        calm.ended("status", node=leader, code=6)
        calm.until_seen(rest, lambda view: len(view["nodes"]) == 2, "two nodes")
        calm.wait_for(lambda: joins(calm, leader, rest), f"{leader} to join")
    assert seen.two_owners_ms == 0


def joins(calm: Calm, node: str, asked: str) -> bool:
    """Let a node join; return whether it has."""
    token = calm.do("token", node=asked)["token"]
    done = calm.cluster.command(node, "join", token)
    return done.returncode == 0 or bool(calm.status(node)["formed"])


OTHER_VERSION = "import leitwolf.peers.frames as frames\nframes.PROTOCOL += 1\n"


def test_node_of_another_version_is_refused_and_disturbs_nobody(calm: Calm) -> None:
    """Both sides say which version they speak; it comes back with the right one."""
    calm.settle()
    stranger = next(node for node in calm.world.nodes if node not in (calm.leader(), calm.owner()))
    rest = calm.other(stranger)
    generation, leader = calm.group()["generation"], calm.leader()
    patched = calm.world.folder / "patched"
    patched.mkdir(exist_ok=True)
    (patched / "sitecustomize.py").write_text(OTHER_VERSION)
    own = calm.cluster.environment
    calm.world.power_off(stranger)

    def environment(node: str) -> dict[str, str]:
        found = own(node)
        return found | {"PYTHONPATH": f"{patched}:{found['PYTHONPATH']}"}

    calm.cluster.environment = environment  # type: ignore[method-assign]
    try:
        calm.cluster.boot(stranger)
    finally:
        calm.cluster.environment = own  # type: ignore[method-assign]
    deadline = time.monotonic() + CALM_S
    for node in (calm.leader(), stranger):
        while "version-mismatch" not in (said := calm.cluster.log_of(node).read_text()):
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        assert "is not spoken here, only" in said
    view = calm.until_seen(rest, lambda view: view["leader"], "a leader")
    assert (view["leader"], calm.group(node=rest)["generation"]) == (leader, generation)
    assert stranger in [item["name"] for item in view["nodes"] if not item["connected"]]
    calm.ended("status", node=stranger, code=6)  # its API opens a little later without a leader
    calm.world.power_off(stranger)
    calm.settle()
    assert (calm.leader(), calm.group()["generation"]) == (leader, generation)


# --- an interconnect without IPv4 ----------------------------------------------------------------


def test_interconnect_that_has_only_ipv6() -> None:
    """Forming, joining, heartbeats and failover go over it; the node that lost power comes back."""
    with ExitStack() as stack:
        world = stack.enter_context(World(3, interconnects=6))
        cluster = LabCluster(world)
        stack.callback(cluster.close)
        cluster.form()
        prober = stack.enter_context(Prober(world, VIP, PORT, interval_us=2000))
        observer = stack.enter_context(Observer(world, [VIP, VIP6]))
        calm = Calm(cluster, prober, observer)
        calm.do(
            "group", "add", GROUP, "--address", f"{VIP}/24", "--address", f"{VIP6}/64",
            "--run", f"{sys.executable} -S -E {LAB / 'echo.py'} {PORT} web",
        )  # fmt: skip
        calm.settle()
        for node in calm.status()["nodes"]:
            assert node["addresses"]["interconnect"].startswith("fd77:1::")
        owner = calm.owner()
        with calm.watch() as seen:
            world.power_off(owner)
            calm.until_gone(owner)
            assert seen.answers_again()
        assert seen.two_owners_ms == 0
