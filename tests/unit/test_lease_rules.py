"""Every rule of the guard is needed: with it the scenario is harmless, without it it does harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.lease_bench import Bench, Watch

from leitwolf.core.lease import PROFILES, SendPeer
from leitwolf.core.rules import ALL_RULES, RULES, Rules
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import (
    Exclude,
    Fenced,
    LeaseOpened,
    Release,
    StopEverything,
    Streams,
    TakeOffice,
    Votes,
)
from leitwolf.wire.heartbeat import Ack, Heartbeat

Scenario = Callable[[Rules], bool]
SCENARIOS: dict[str, Scenario] = {}


def scenario(*names: str) -> Callable[[Scenario], Scenario]:
    def register(function: Scenario) -> Scenario:
        SCENARIOS.update(dict.fromkeys(names, function))
        return function

    return register


def led_by_two(rules: Rules, **arguments: object) -> tuple[Bench, Watch, Ballot]:
    """Node 1 leads with node 3; node 2 has been cut off for so long that it is bound to nobody."""
    bench = Bench(rules=rules, **arguments)  # type: ignore[arg-type]
    ballot = bench.cluster()
    bench.cut |= {(1, 2), (2, 1)}
    bench.run(2 * bench.profile.promise_ms)
    assert bench.leading(1)
    return bench, Watch(bench), ballot


@scenario("promise-while-renewed")
def _(rules: Rules) -> bool:
    """The leader is cut off, and the node on which its lease rests votes for another at once."""
    bench, watch, _ = led_by_two(rules)
    bench.isolate(1)
    bench.elect(2, (2, 3))
    bench.run(20)
    return bool(watch.harm)


@scenario("restart-wait")
def _(rules: Rules) -> bool:
    """The node on which the leader lease rests loses its page and votes for another at once."""
    bench, watch, ballot = led_by_two(rules)
    bench.isolate(1)
    bench.crash(bench[3], keep_page=False)
    bench.boot(bench[3], ballot)
    bench.elect(2, (2, 3))
    bench.run(20)
    return bool(watch.harm)


@scenario("page-before-ack")
def _(rules: Rules) -> bool:
    """The guard on which the leader lease rests dies right after an acknowledgement."""
    bench, watch, ballot = led_by_two(rules)
    bench[3].crash_at = lambda effect: (
        isinstance(effect, SendPeer) and isinstance(effect.message, Ack)
    )
    while bench[3].machine is not None:
        bench.run(1)
    bench.run(1)
    bench.isolate(1)
    bench.boot(bench[3], ballot)
    bench.run(bench.profile.promise_ms - bench.profile.heartbeat_ms + 15)
    bench.elect(2, (2, 3))
    bench.run(5)
    return bool(watch.harm)


@scenario("floor")
def _(rules: Rules) -> bool:
    """A leader whose first heartbeats were lost is heard by a node that elected another since."""
    bench = Bench(rules=rules)
    watch = Watch(bench)
    bench.isolate(1)
    bench.elect(1, (1, 3))
    bench.elect(2, (2, 3))
    bench.run(5)
    assert bench.leading(2)
    bench.cut -= {(1, 3), (3, 1)}
    bench.run(60)
    return bool(watch.harm)


@scenario("freed-mark")
def _(rules: Rules) -> bool:
    """After a release the next leader must not move the groups of the former one at once."""
    bench = Bench(rules=rules)
    ballot = bench.cluster()
    bench.order(bench[1], Release(ballot))
    bench.run(5)
    answers = bench.fence((2, 3), Ballot(1, 9, 2))
    newest = max(answer.renewed for answer in answers)
    moves_at_once = newest.node == 1 and not any(answer.freed for answer in answers)
    return moves_at_once and bench.holds_lease(1)


@scenario("office-floor")
def _(rules: Rules) -> bool:
    """A candidate helps another to win before it takes the office that it won itself."""
    bench = Bench(rules=rules)
    watch = Watch(bench)
    bench.cut |= {(2, 3), (3, 2)}
    first = Ballot(1, 5, 1)
    bench.fence((1, 2), first)
    bench.elect(3, (1, 3))
    bench.run(5)
    assert bench.leading(3)
    bench.isolate(3)
    bench.order(bench[1], TakeOffice(first, ()))
    bench.run(5)
    return bool(watch.harm)


@scenario("renew-self-first")
def _(rules: Rules) -> bool:
    """The leader's own node votes for another while its run-lease rests on its own promise."""
    bench, _, _ = led_by_two(rules)
    answers = bench.fence((1, 2), Ballot(1, 9, 2))
    won = all(isinstance(answer, Fenced) for answer in answers)
    return won and max(answer.renewed for answer in answers).node == 1 and bench.holds_lease(1)


@scenario("joint-lease")
def _(rules: Rules) -> bool:
    """During a change from three to five members, two of them back the leader."""
    votes = (Votes((1, 2, 3), (1,) * 3), Votes((1, 2, 3, 4, 5), (1,) * 5))
    bench = Bench(5, rules, configurations=votes)
    for other in (3, 4, 5):
        bench.cut |= {(1, other), (other, 1), (2, other), (other, 2)}
    bench.elect(1, (1, 2))
    bench.run(20)
    won = all(isinstance(answer, Fenced) for answer in bench.fence((3, 4, 5), Ballot(1, 9, 3)))
    return won and bench.leading(1)


@scenario("lease-from-send")
def _(rules: Rules) -> bool:
    """Acknowledgements reach the leader late, the last of them after the leader was cut off."""
    bench, watch, _ = led_by_two(rules)
    bench.delay = lambda _from, _to, message: [150_000_000 if isinstance(message, Ack) else 200_000]
    bench.run(300)
    assert bench.leading(1)
    bench.cut |= {(1, 3)}
    bench.run(bench.profile.promise_ms + 5)
    bench.delay = None
    bench.elect(2, (2, 3))
    bench.run(20)
    assert bench.leading(2)
    return bool(watch.harm)


@scenario("grant-under-lease")
def _(rules: Rules) -> bool:
    """Two win an election one after the other; the first, without a quorum, reaches one node."""
    bench = Bench(5, rules)
    bench.elect(5, (1, 2, 3, 4, 5))
    bench.run(5)
    for number in bench.nodes:
        bench.open(bench[5].page.office, number, 10 + number)  # type: ignore[union-attr]
    bench.run(100)
    bench.crash(bench[5], keep_page=True)
    bench.boot(bench[5])
    bench.run(bench.profile.promise_ms + 5)
    for one in (1, 2):
        for other in (3, 4, 5):
            bench.cut |= {(one, other), (other, one)}
    watch = Watch(bench)
    bench.elect(1, (1, 2, 3))
    bench.run(1)
    bench.elect(4, (3, 4, 5))
    bench.run(bench.profile.run_ms + 200)
    return bool(watch.harm)


@scenario("exclude-stops-grants")
def _(rules: Rules) -> bool:
    """A healthy node is excluded."""
    bench = Bench(rules=rules)
    ballot = bench.cluster()
    watch = Watch(bench)
    bench.order(bench[1], Exclude(ballot, 2))
    bench.run(2 * bench.profile.run_ms)
    return bool(watch.harm)


@scenario("horizon")
def _(rules: Rules) -> bool:
    """A node falls silent but lives."""
    bench = Bench(rules=rules)
    bench.cluster()
    watch = Watch(bench)
    bench.isolate(2)
    bench.run(2 * bench.profile.run_ms)
    return bool(watch.harm)


@scenario("attest-ballot")
def _(rules: Rules) -> bool:
    """A node attests one lease, gets the next, and its acks still name the attested one."""
    bench = Bench(rules=rules)
    ballot = bench.cluster()
    watch = Watch(bench)
    bench.order(bench[2], StopEverything("paused"))
    bench.run(100)
    bench.open(ballot, 2, 22)
    bench.run(100)
    assert bench[2].page.lease == 22  # type: ignore[union-attr]
    return any(report.lease == 22 for report in bench[1].reports if "Away" in str(report)) or bool(
        watch.harm
    )


@scenario("release-stops-counting")
def _(rules: Rules) -> bool:
    """A leader releases, and the next is elected at once."""
    bench = Bench(rules=rules)
    ballot = bench.cluster()
    watch = Watch(bench)
    bench.order(bench[1], Release(ballot))
    bench.run(1)
    bench.cut |= {(2, 1), (3, 1)}
    bench.elect(2, (2, 3))
    bench.run(20)
    assert bench.leading(2)
    return bool(watch.harm)


@scenario("daemon-progress")
def _(rules: Rules) -> bool:
    """The leader's daemon hangs, for example in a write to a dead disk."""
    bench = Bench(rules=rules)
    bench.cluster()
    bench[1].daemon_hangs_since = bench[1].raw(bench.t)
    bench.run(2 * bench.profile.promise_ms + 60)
    return bench.leading(1)


@scenario("own-lease-cut")
def _(rules: Rules) -> bool:
    """A node with a fresh run-lease becomes leader and is cut off right after its first beat."""
    bench = Bench(rules=rules)
    ballot = bench.cluster()
    bench.order(bench[1], Release(ballot))
    bench.run(1)
    bench.elect(2, (2, 3))
    bench.run(1)
    bench.isolate(2)
    bench.run(bench.profile.promise_ms + 3)
    answers = bench.fence((1, 3), Ballot(1, 9, 3))
    assert all(isinstance(answer, Fenced) for answer in answers)
    moves_at_once = max(answer.renewed for answer in answers).node == 2 and not any(
        answer.freed for answer in answers
    )
    return moves_at_once and bench.holds_lease(2)


def with_late_copy_of_open(rules: Rules) -> Bench:
    """The OPEN of lease 22 on node 2 reaches it at once, and a copy 100 ms later."""
    bench = Bench(rules=rules)
    ballot = bench.elect(1, (1, 2, 3))
    bench.run(60)
    bench.delay = lambda _from, to, message: (
        [200_000, 100_000_000]
        if to == 2 and isinstance(message, Heartbeat) and message.opened
        else [200_000]
    )
    bench.open(ballot, 2, 22)
    bench.run(20)
    assert bench[2].page.lease == 22  # type: ignore[union-attr]
    return bench


@scenario("own-incarnation")
def _(rules: Rules) -> bool:
    """A copy of an OPEN reaches a guard that lost the page in which that lease stood."""
    bench = with_late_copy_of_open(rules)
    ballot = bench[1].page.office  # type: ignore[union-attr]
    bench.crash(bench[2], keep_page=False)
    bench.boot(bench[2], ballot)
    bench.run(200)
    return [report.lease for report in bench[2].told(LeaseOpened)] != [22]


@scenario("lease-ended-stays-closed")
def _(rules: Rules) -> bool:
    """A copy of an OPEN arrives after the lease was closed and attested."""
    bench = with_late_copy_of_open(rules)
    watch = Watch(bench)
    bench.order(bench[2], StopEverything("paused"))
    bench.run(200)
    return [report.lease for report in bench[2].told(LeaseOpened)] != [22] or bool(watch.harm)


@scenario("kill-before-end")
def _(rules: Rules) -> bool:
    """A node is cut off while something runs on it that needs 40 ms to die."""
    bench = Bench(rules=rules)
    bench.cluster()
    bench[2].running, bench[2].stop_ms = 12, 40
    watch = Watch(bench)
    bench.isolate(2)
    bench.run(bench.profile.run_ms + 200)
    return bool(watch.harm)


@scenario("attest-after-stopped")
def _(rules: Rules) -> bool:
    """A node is told to stop while something runs on it that needs 40 ms to die."""
    bench = Bench(rules=rules)
    bench.cluster()
    bench[2].running, bench[2].stop_ms = 12, 40
    bench.run(40)
    watch = Watch(bench)
    bench.order(bench[2], StopEverything("paused"))
    bench.run(200)
    return bool(watch.harm)


@scenario("slept")
def _(rules: Rules) -> bool:
    """A node is suspended for two seconds."""
    bench = Bench(rules=rules)
    bench.cluster()
    bench.isolate(2)
    bench.sleep(bench[2], 2_000)
    return bench.holds_lease(2)


@scenario("rates")
def _(rules: Rules) -> bool:
    """The leader's clock is slow, that of the node on which its lease rests is fast."""
    bench, watch, _ = led_by_two(rules, profile=PROFILES["wan"], ppm=(-1000, 0, 1000))
    bench.isolate(1)
    bench.run(bench.profile.promise_ms - bench.profile.heartbeat_ms - 20)
    ballot = Ballot(1, 9, 2)
    while not all(isinstance(answer, Fenced) for answer in bench.fence((2, 3), ballot)):
        bench.run(0.2)
    bench.order(bench[2], TakeOffice(ballot, ()))
    bench.run(5)
    assert bench.leading(2)
    return bool(watch.harm)


@scenario("leader-has-streams")
def _(rules: Rules) -> bool:
    """The daemons of the others have streams with each other, none with the leader's."""
    bench = Bench(rules=rules)
    bench.cluster()
    for node, streams in ((1, ()), (2, (3,)), (3, (2,))):
        bench.order(bench[node], Streams(streams))
    bench.run(2_000)
    return bench.leading(1)


@scenario("promise-known")
def _(rules: Rules) -> bool:
    """The leader has a longer profile than the others know; they lose their pages."""
    bench = Bench(rules=rules, profile=PROFILES["fast"])
    bench.cluster()
    watch = Watch(bench)
    longer = bench[1]
    bench.order(
        longer,
        replace(bench.configure(longer), promise=10**9, promise_longest=10**9, run=2 * 10**9),
    )
    bench.run(60)
    bench.isolate(1)
    for number in (2, 3):
        bench.crash(bench[number], keep_page=False)
        bench.boot(bench[number])
    bench.run(200)
    bench.elect(2, (2, 3))
    bench.run(20)
    return bool(watch.harm)


def forced(bench: Bench, number: int, lineage: tuple[int, ...]) -> Ballot:
    """A node alone is forced into a history: its daemon configures the guard, it takes office."""
    node = bench[number]
    alone = (Votes((number,), (1,)),)
    configured = replace(bench.configure(node), lineage=lineage, configurations=alone)
    bench.order(node, configured)
    ballot = Ballot(1 + len(lineage), 1, number)
    bench.fence((number,), ballot)
    bench.order(node, TakeOffice(ballot, ()))
    return ballot


@scenario("lineage", "lineage-nonce")
def _(rules: Rules) -> bool:
    """Two parts are forced; the guard of one is not to hear the leader of the other for its own."""
    bench = Bench(rules=rules)
    for number in (1, 2, 3):
        bench.isolate(number)
    bench.run(3 * bench.profile.promise_ms)
    forced(bench, 1, (77,))
    forced(bench, 2, (88,))
    bench.run(50)
    assert bench.leading(1)
    assert bench.leading(2)
    bench.heal()
    bench.run(100)
    return not (bench.leading(1) and bench.leading(2))


@scenario("close-before-answer")
def _(rules: Rules) -> bool:
    """A node under a lease hears the leader of a history that was forced out of its own."""
    bench = Bench(rules=rules)
    bench.cluster()
    bench.isolate(3)
    bench.run(2 * bench.profile.promise_ms)
    ballot = forced(bench, 3, (77,))
    answered: list[bool] = []

    def look(effect: object) -> bool:
        if isinstance(effect, SendPeer) and isinstance(effect.message, Ack):
            answered.append(effect.message.ballot == ballot and bench.holds_lease(2))
        return False

    bench[2].crash_at = look
    bench.heal()
    bench.run(100)
    return any(answered)


@pytest.mark.parametrize("name", SCENARIOS)
def test_rule_prevents_the_harm(name: str) -> None:
    """With all rules nothing happens that must not."""
    assert not SCENARIOS[name](ALL_RULES)


@pytest.mark.parametrize("name", SCENARIOS)
def test_harm_is_done_without_the_rule(name: str) -> None:
    """Without the one rule the same scenario does harm, so the rule is needed and tested."""
    assert SCENARIOS[name](Rules.without(name))


def rules_asked_in(*folders: str) -> list[str]:
    root = Path(__file__).parents[2] / "src" / "leitwolf"
    sources = [path.read_text() for folder in folders for path in (root / folder).glob("*.py")]
    return [name for source in sources for name in re.findall(r'holds\(\s*"([^"]+)"', source)]


def test_every_rule_of_the_guard_has_a_scenario() -> None:
    """Each name that the lease machine asks for is registered and has its scenario."""
    asked = set(rules_asked_in("core/lease"))
    assert asked <= RULES.keys()
    assert asked == SCENARIOS.keys()


def test_unknown_rule_names_are_refused() -> None:
    """A mutant with a misspelt name would be a mutant of nothing."""
    with pytest.raises(ValueError, match="no-such-rule"):
        Rules.without("floor", "no-such-rule")
    assert not Rules.without("floor").holds("floor")
    assert Rules.without("floor").holds("slept")
