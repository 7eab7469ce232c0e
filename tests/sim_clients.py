"""Clients of a simulated cluster that write, swap and read one setting, and what they saw."""

from __future__ import annotations

from dataclasses import dataclass

from tests.linearizable import Kind, Operation

from leitwolf.core.rules import Rules
from leitwolf.model.commands import Answer, ChangeGroup
from leitwolf.model.errors import InvariantError
from leitwolf.model.ids import GroupId
from leitwolf.sim.checks import Checker
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.faults import SECOND, Faults
from leitwolf.sim.forming import QUORUMS
from leitwolf.sim.network import MILLISECOND
from leitwolf.sim.node import SimNode
from leitwolf.sim.world import World

GROUP = GroupId("g1")
NOT_DONE = {"no-quorum", "not-leader", "not-ready", "overload"}
TIMEOUT_NS = 2 * SECOND
FIRST_VALUE = 10_000
"""Seconds: so long that nothing follows of it. Every write has a value of its own."""


@dataclass
class Open:
    """An operation under way."""

    client: int
    kind: Kind
    called: int
    value: int
    expected: int = 0


class Clients:
    """A few clients, each with one operation at a time, until told to stop."""

    def __init__(self, world: World, count: int, *, lease_checked: bool = True) -> None:
        self.history: list[Operation] = []
        self.reading = True
        self._world = world
        self._entropy = Entropy(world.seed + 1)
        self._lease_checked = lease_checked
        self._open: dict[int, Open] = {}
        self._serial = 0
        self._seen: dict[int, tuple[int, int]] = {}
        """By client: value and index that it read last."""
        self._on = True
        replied = world.replied

        def heard(node: int, request: int, answer: Answer) -> None:
            replied(node, request, answer)
            self._heard(request, answer)

        world.replied = heard  # type: ignore[method-assign]
        for client in range(count):
            self._soon(client)

    def stop(self) -> None:
        """Begin nothing more; what is not answered yet stays unknown after its time."""
        self._on = False

    def _soon(self, client: int) -> None:
        self._world.later(self._entropy.between(0, 200) * MILLISECOND, self._act, client)

    def _act(self, client: int) -> None:
        if not self._on:
            return
        entropy, world = self._entropy, self._world
        node = entropy.choice(list(world.nodes.values()))
        drawn = entropy.between(1, 10)
        if drawn <= 5:
            for one in (node, *world.nodes.values()):
                self.read(client, one)
            self._soon(client)
            return
        self._serial += 1
        value = FIRST_VALUE + self._serial
        seen = self._seen.get(client)
        command = ChangeGroup(group=GROUP, retry_period_s=value)
        request = self._serial
        if drawn <= 7 or seen is None:
            self._open[request] = Open(client, Kind.WRITE, world.now, value)
            world.ask(node.id, request, command)
        else:
            self._open[request] = Open(client, Kind.SWAP, world.now, value, seen[0])
            world.ask(node.id, request, command, seen[1])
        world.later(TIMEOUT_NS, self._give_up, request)

    def read(self, client: int, node: SimNode) -> None:
        """Read at a node, if it says that what it shows is fresh."""
        core, now = node.daemon.core, self._world.now
        if core is None or not core.in_charge or not node.daemon.running:
            return
        if self._lease_checked and node.leader_until() <= now:
            return
        value = core.state.groups[GROUP].retry_period_s
        self._seen[client] = value, core.state.index
        self.history.append(Operation(Kind.READ, now, now, value))

    def _heard(self, request: int, answer: Answer) -> None:
        known = self._open.pop(request, None)
        if known is None:
            return
        code = answer.refusal.code if answer.refusal is not None else ""
        refused = code == "changed-meanwhile"
        if code == "outcome-unknown":
            self._add(known, None, done=True)
        elif not code or (refused and known.kind is Kind.SWAP):
            self._add(known, self._world.now, done=not refused)
        else:
            assert code in NOT_DONE, code
        self._soon(known.client)

    def _give_up(self, request: int) -> None:
        known = self._open.pop(request, None)
        if known is not None:
            self._add(known, None, done=True)
            self._soon(known.client)

    def _add(self, known: Open, returned: int | None, *, done: bool) -> None:
        self.history.append(
            Operation(known.kind, known.called, returned, known.value, known.expected, done)
        )


class Blind(Checker):
    """Sees nothing: what the clients saw must tell."""

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        quiet = callable(found) and not name.startswith("_") and name != "add"
        return (lambda *_: None) if quiet else found


def recorded(
    seed: int,
    *,
    quorum: str = "majority",
    nodes: int = 3,
    mix: str = "",
    rules: Rules | None = None,
    lease_checked: bool = True,
    blind: bool = False,
) -> tuple[list[Operation], int]:
    """Run clients under faults; return what they saw, and the value before.

    Args:
        seed: decides everything.
        quorum: kind of quorum.
        nodes: how many.
        mix: of faults; '': all, those of a disk or witness included if there is one.
        rules: switched off in tests.
        lease_checked: reads ask for a leader under its lease.
        blind: no invariant is looked at; where a node breaks on one, the run ends there.
    """
    rules = rules or Rules()
    mix = mix or ("clients" if QUORUMS[quorum][1] is None else "shared-clients")
    world = World(seed=seed, nodes=nodes, groups=1, quorum=quorum, snapshot_entries=40, rules=rules)
    if blind:
        world.checker.__class__ = Blind
    for node in world.nodes.values():
        world.later(world.entropy.between(0, 300_000_000), node.power_on)
    world.run_until(4 * SECOND)
    state = world.state()
    assert state is not None
    clients = Clients(world, 4, lease_checked=lease_checked)
    faults = Faults(world, mix, 0)
    faults.start()
    try:
        world.run_until(world.now + 20 * SECOND)
        faults.stop()
        world.run_until(world.now + 5 * SECOND)
        clients.stop()
        world.run_until(world.now + 10 * SECOND)
        for node in world.nodes.values():
            clients.read(0, node)
    except InvariantError:
        if not blind:
            raise
    return clients.history, state.groups[GROUP].retry_period_s
