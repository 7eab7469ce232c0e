"""An orderly stop of nodes whose groups nobody can take: they stop in order, nothing is killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab.world import World
from tests.integration.membership_support import MEMBERS, PAIR, Members
from tests.integration.patience_support import unless_it_stalls

from leitwolf.model.commands import AddGroup, NewResource
from leitwolf.model.ids import GroupId, ResourceId, Wish

pytestmark = pytest.mark.root

GROUP = "db"
SLOW = """\
trap 'sleep {seconds}; echo {name} >> {file}; exit 0' TERM
while :; do sleep 0.1; done
"""
"""Says that it ended, unless it is killed meanwhile."""
_STALL_MS = 10_000
"""So much longer may a stop take: the machine may stand still meanwhile."""
IMPATIENT = """\
from leitwolf.daemon import drain
from leitwolf.keeper import process
drain._BASE_NS = process._DAEMON_STOP = 6_000_000_000
"""
"""Daemon and keeper wait for nothing else as long as they do otherwise, a minute."""


class Stopping:
    """A cluster with a group of an application and the store that it needs.

    Args:
        members: the nodes.
        seconds: how long each of both takes to stop.
    """

    def __init__(self, members: Members, seconds: float = 1) -> None:
        self.members = members
        self._file = members.world.folder / "ended"
        resources = tuple(
            NewResource(
                resource=ResourceId(f"{GROUP}-{name}"),
                type="process",
                parameters={
                    "command": f'sh -c "{self._script(name, seconds)}"',
                    "stop_timeout_ms": str(int(1_000 * seconds) + _STALL_MS),
                },
                depends=depends,
            )
            for name, depends in (("store", ()), ("app", (ResourceId(f"{GROUP}-store"),)))
        )
        group = AddGroup(group=GroupId(GROUP), resources=resources, wish=Wish.ONLINE)
        members.client("n1").command(group)
        members.until_online("n1")

    def _script(self, name: str, seconds: float) -> str:
        return SLOW.format(seconds=seconds, name=name, file=self._file)

    def ended(self) -> list[str]:
        """Return what ended by itself since the last call, in order."""
        found = self._file.read_text().split() if self._file.exists() else []
        self._file.unlink(missing_ok=True)
        return found

    def place(self, node: str) -> None:
        """Have a node own the group; what its move stopped is forgotten."""
        self.members.place(node, GROUP)
        self.members.until_online(node)
        self.ended()

    def until_gone(self, *nodes: str, timeout_s: float = 90) -> None:
        """Wait until Leitwolf has ended on nodes that were told to stop."""
        deadline = time.monotonic() + timeout_s
        for node in nodes:
            while self.members.alive(node):
                assert time.monotonic() < deadline, self.log_of(node)
                time.sleep(0.03)

    def log_of(self, node: str) -> str:
        return self.members.lab.log_of(node).read_text()[-4000:]


@contextmanager
def stopping(
    count: int, votes: str = "", seconds: float = 1, patch: str = ""
) -> Iterator[Stopping]:
    """Yield a cluster whose resources stop so slowly; ``patch``: what its nodes read first."""
    with World(count) as world:
        members = Members(world, MEMBERS[:count])
        if patch:
            _use(members, patch)
        try:
            members.form(votes)
            yield Stopping(members, seconds)
        finally:
            members.lab.close()


def _use(members: Members, patch: str) -> None:
    """Have every Python of a node read this before it begins."""
    folder, own = members.world.folder / "patch", members.lab.environment
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(patch)

    def environment(node: str) -> dict[str, str]:
        found = own(node)
        return found | {"PYTHONPATH": f"{folder}:{found['PYTHONPATH']}"}

    members.lab.environment = environment  # type: ignore[method-assign]


def demand_no_failure(found: Stopping, node: str) -> None:
    """Nothing of the stop was taken for a failure."""
    client = found.members.client(node)
    codes = {item.code for item in client.log(0)}
    assert "drained" in codes
    assert not codes & {"exited", "killed", "restart-in-place", "failover", "stop-failed"}, codes


def test_the_only_node_stops_its_group_in_order_and_starts_it_again() -> None:
    """The dependent first, each as long as it needs; the next start brings the group online.

    That may be longer than daemon and keeper wait for anything else.
    """
    unless_it_stalls(stop_the_only_one)


def stop_the_only_one() -> None:
    with stopping(1, seconds=5, patch=IMPATIENT) as found:
        generation = found.members.generation(GROUP)
        found.members.stop("n1")
        assert found.ended() == ["app", "store"], found.log_of("n1")
        found.members.lab.run("n1")
        found.members.until_online("n1")
        assert found.members.generation(GROUP) == generation + 1, found.members.log_text("n1")
        demand_no_failure(found, "n1")


def test_the_last_of_three_nodes_that_stop_one_after_the_other_stops_in_order() -> None:
    """The first two move the group away; the last one, which votes alone, stops it."""
    unless_it_stalls(stop_one_after_the_other)


def stop_one_after_the_other() -> None:
    with stopping(3) as found:
        found.place("n1")
        for node in ("n1", "n2"):
            found.members.stop(node)
            assert found.ended() == ["app", "store"], found.log_of(node)
            found.members.until_online("n3", without=(node,))
        assert found.members.group(GROUP, "n3").owner == "n3"
        found.members.stop("n3")
        assert found.ended() == ["app", "store"], found.log_of("n3")
        for node in MEMBERS:
            found.members.lab.run(node)
        found.members.settle()
        found.members.until_online("n1")
        demand_no_failure(found, "n1")


def test_two_nodes_that_need_each_other_stop_together_in_order() -> None:
    """The one without a group goes on until the other one, which needs its vote, is done."""
    unless_it_stalls(stop_both)


def stop_both() -> None:
    with stopping(2, votes="strict") as found:
        owner = "n1" if found.members.leader() == "n2" else "n2"
        found.place(owner)
        for node in PAIR:
            found.members.signal(node, signal.SIGTERM)
        found.until_gone(*PAIR)
        assert found.ended() == ["app", "store"], found.log_of(owner)
        for node in PAIR:
            found.members.lab.run(node)
        found.members.until_online("n1")
