"""Quorum cores under loss, repetition, reordering and crashes: nothing committed is ever lost.

Time plays no part: guards grant fences by a coin, and any node may campaign at any moment. So what
is shown here holds for every timing. Each rule of the daemon's side is switched off in turn, and
the same world must notice (``promise-above`` needs a rarer order: see test_quorum_votes).
"""

from __future__ import annotations

import os
import random

import pytest
from tests.quorum_world import (
    MS,
    Violation,
    World,
    acceptors,
    configuration,
    identity,
    snapshot_at,
)

from leitwolf.core.quorum import Role, leadership, log, progress
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.errors import Conflict, InvalidConfig, InvariantError, NotLeader
from leitwolf.model.quorum import QuorumConfig
from leitwolf.wire.ballot import NO_BALLOT

SEEDS = int(os.environ.get("LEITWOLF_SEEDS", "60"))
STEPS = 2_500
MUTANT_SEEDS = 300
FIRST_SEED = {"own-ballot-commit": 175, "learner-no-vote": 120}
"""Where the search for a rare mistake begins, so that the suite stays quick."""


class Chaos(World):
    """Chooses what happens next by a seeded random number."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.random = random.Random(seed)
        self.voters = self.random.choice(((1, 2, 3), (1, 2, 3), (1, 2, 3, 4, 5)))
        nodes = (1, 2, 3, 4) if len(self.voters) == 3 else self.voters
        super().__init__(configuration(*self.voters), nodes, rules=rules, prompt_begin=False)
        self.payloads = 0
        self.loss = self.random.choice((0.0, 0.01, 0.08))
        self.restlessness = self.random.choice((0.02, 0.08, 0.25))

    def unwilling(self, node: int) -> bool:
        return self.random.random() < 0.15

    def some_step(self) -> None:
        """Do one thing that may happen."""
        steps = (
            (60, self.some_delivery),
            (14, self.some_guard),
            (14, self.some_report),
            (25, self.some_sync),
            (9, self.some_tick),
            (12, self.some_begin),
            (12, self.some_proposal),
            (0.8, self.some_crash),
            (4, self.some_start),
            (1, self.some_guard_loss),
            (0.5, self.some_break),
            (2, self.some_change),
            (0.7, self.some_snapshot),
            (0.5, self.some_transfer),
        )
        weights, actions = zip(*steps, strict=True)
        self.random.choices(actions, weights)[0]()

    def some(self, nodes: list[int]) -> int:
        return self.random.choice(nodes) if nodes else 0

    def leaders_now(self) -> list[int]:
        return [n for n, core in self.cores.items() if core.role == Role.LEADER]

    def some_delivery(self) -> None:
        if self.network:
            fate = self.random.random()
            number = self.random.randrange(min(len(self.network), 12))
            if fate < self.loss:
                del self.network[number]
            else:
                self.deliver(number, keep=fate > 0.95)

    def some_guard(self) -> None:
        if node := self.some([n for n, guard in self.guards.items() if guard.inbox]):
            self.serve_guard(node)

    def some_report(self) -> None:
        if node := self.some([n for n, guard in self.guards.items() if guard.reports]):
            self.hear_guard(node)

    def some_sync(self) -> None:
        if node := self.some(list(self.cores)):
            self.sync(node)

    def some_tick(self) -> None:
        busy = self.network or any(g.inbox or g.reports for g in self.guards.values())
        if self.random.random() < (self.restlessness if busy or self.leaders_now() else 0.7):
            self.now += self.random.randrange(150 * MS)
        if node := self.some(list(self.cores)):
            self.tick(node)

    def some_begin(self) -> None:
        if node := self.some(list(self.to_begin)):
            self.begin(node)
            self.settle(node)

    def some_proposal(self) -> None:
        if node := self.some(self.leaders_now()):
            for _ in range(self.random.randrange(1, 4)):
                self.payloads += 1
                try:
                    self.cores[node].propose(self.now, b"entry %d" % self.payloads)
                except NotLeader:
                    break
            self.settle(node)

    def some_crash(self) -> None:
        if node := self.some(list(self.cores)):
            self.crash(node, written=self.random.randrange(4))

    def some_start(self) -> None:
        down = [node for node in self.nodes if node not in self.cores]
        if node := self.some(down):
            self.start(node)

    def some_guard_loss(self) -> None:
        gone = [node for node in self.cores if not self.guards[node].there]
        node = self.some(gone) or self.random.choice(self.nodes)
        if self.guards[node].there and self.random.random() < 0.2:
            self.lose_guard(node)
            if self.random.random() < 0.5:  # its page, too
                self.guards[node].page = self.guards[node].page._replace(floor=NO_BALLOT)
        elif node in gone:
            self.connect_guard(node)

    def some_break(self) -> None:
        if self.cut and self.random.random() < 0.6:
            self.join(*sorted(self.random.choice(sorted(self.cut, key=sorted))))
        else:
            self.disconnect(*self.random.sample(self.nodes, 2))

    def some_change(self) -> None:
        if node := self.some(self.leaders_now()):
            self.payloads += 1
            config = self.next_config(self.cores[node].config)
            try:
                self.propose(node, b"change %d" % self.payloads, config)
            except (NotLeader, Conflict, InvalidConfig):
                self.settle(node)

    def next_config(self, config: QuorumConfig) -> QuorumConfig:
        if config.former is not None:
            return QuorumConfig(acceptors=config.acceptors, learners=config.learners)
        voting = [acceptor.id.node for acceptor in config.acceptors]
        free = [node for node in self.nodes if node not in voting]
        if self.random.random() < 0.3 and free:
            learner = identity(self.random.choice(free))
            return QuorumConfig(acceptors=config.acceptors, learners=(learner,))
        chosen = self.random.sample(self.nodes, self.random.choice((1, 2, 3, 3)))
        return QuorumConfig(acceptors=acceptors(*sorted(chosen)), former=config.acceptors)

    def some_snapshot(self) -> None:
        node = self.some(list(self.cores))
        core = self.cores.get(node)
        if core is None or core.commit <= core.last_key.index - len(core.log):
            return
        key = core.key_at(core.commit)
        core.compact(self.now, snapshot_at(key, core.config_at(key.index)))
        self.settle(node)

    def some_transfer(self) -> None:
        if node := self.some(self.leaders_now()):
            self.cores[node].transfer(self.now, self.random.choice((0, *self.nodes)))
            self.settle(node)

    def run(self) -> None:
        for number in range(STEPS):
            self.some_step()
            self.now += self.random.randrange(MS // 10)
            self.check_floors()
            if number % 20 == 0:
                self.check_logs()
        self.check_logs()


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let appends be single, snapshots come in pieces and be needed soon."""
    monkeypatch.setattr(leadership, "APPEND_BYTES_MAX", 1)
    monkeypatch.setattr(leadership, "SNAPSHOT_CHUNK_BYTES", 64)
    monkeypatch.setattr(log, "ENTRIES_RETAINED", 2)
    monkeypatch.setattr(progress, "APPENDS_IN_FLIGHT_MAX", 4)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_committed_is_lost(seed: int) -> None:
    """Whatever is lost, repeated, late or crashed, the logs agree and committed entries stay."""
    print(f"seed {seed}")
    Chaos(seed, ALL_RULES).run()


def test_the_world_gets_somewhere() -> None:
    """The chaos leaves something to test: terms begin, entries commit, members change."""
    worlds = [Chaos(seed, ALL_RULES) for seed in range(12)]
    for world in worlds:
        world.run()
    assert sum(len(world.leaders) for world in worlds) >= 3 * len(worlds)
    assert sum(len(world.committed) for world in worlds) >= 8 * len(worlds)
    changes = [e for world in worlds for e in world.committed.values() if e.config is not None]
    assert any(entry.config and entry.config.former for entry in changes)


@pytest.mark.parametrize(
    "rule",
    [
        "up-to-date",
        "accept-at-promised",
        "durable-before-reply",
        "fence-before-promise",
        "candidate-own-promise",
        "noop-first",
        "own-ballot-commit",
        "joint-and",
        "learner-no-vote",
        "leader-durable-counts",
        "config-at-append",
        "truncate-conflict",
    ],
)
def test_every_rule_is_needed(rule: str) -> None:
    """Without the rule the same world goes wrong, and the checks notice."""
    first = FIRST_SEED.get(rule, 0)
    for seed in range(first, first + MUTANT_SEEDS):
        try:
            Chaos(seed, Rules.without(rule)).run()
        except (Violation, InvariantError) as found:
            print(f"{rule}: seed {seed}: {found}")
            return
    pytest.fail(f"{rule} was not missed in {MUTANT_SEEDS} worlds")
