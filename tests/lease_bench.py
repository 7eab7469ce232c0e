"""A small deterministic world of lease machines: clocks with rates, a lossy network, guards that
die and freeze. The unit tests drive it by hand, the property test adds daemons and faults."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from leitwolf.core.lease import (
    PROFILES,
    Armed,
    ArmGate,
    Commanded,
    DaemonGone,
    DaemonSeen,
    Disarm,
    Heard,
    LeaseMachine,
    Profile,
    Reboot,
    SendPeer,
    StopAll,
    Stopped,
    Tell,
    Tick,
    WritePage,
)
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.wire.ballot import Ballot, Now
from leitwolf.wire.guard import (
    Configure,
    DaemonHello,
    Fence,
    Fenced,
    LinkReport,
    NodeAway,
    OpenLease,
    PeerNode,
    RosterReport,
    TakeOffice,
    Votes,
)
from leitwolf.wire.page import LeasePage, pack_page, unpack_page

MS = 1_000_000
BOOT = bytes(range(16))
DEFAULT = PROFILES["default"]


class Node:
    """One machine: guard (a LeaseMachine), page, gate, one process under the lease."""

    def __init__(self, number: int, ppm: int, offset: int) -> None:
        self.number = number
        self.ppm = ppm
        self.offset = offset
        self.asleep = 0
        self.machine: LeaseMachine | None = None
        self.page: LeasePage | None = None
        self.reports: list[Any] = []
        self.effects: list[Any] = []
        self.inbox: list[Heard] = []
        self.frozen = False
        self.gate_until = 0
        self.running = 0
        """Lease under which something runs, 0: nothing."""
        self.excused = False
        """It was frozen since the last stop: only its gate keeps it from acting."""
        self.stop_ms = 5.0
        self.stuck = False
        self.rebooted = False
        self.daemon_hangs_since: int | None = None
        self.crash_at: Callable[[Any], bool] | None = None
        self.on_report: Callable[[Any], None] | None = None
        self.life = 0

    def raw(self, at: int) -> int:
        """RAW clock at true instant ``at``; it stands still while the machine sleeps."""
        return self.offset + (at - self.asleep) * (1_000_000 + self.ppm) // 1_000_000

    def now(self, at: int) -> Now:
        raw = self.raw(at)
        return Now(raw, raw + self.asleep)

    def when(self, raw: int) -> int:
        """True instant at which the RAW clock shows at least ``raw``."""
        return -(-(raw - self.offset) * 1_000_000 // (1_000_000 + self.ppm)) + self.asleep

    def told(self, kind: type) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kind)]

    def done(self, kind: type) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]


class Bench:
    """The world. ``t``: true time in ns."""

    def __init__(
        self,
        count: int = 3,
        rules: Rules = ALL_RULES,
        profile: Profile = DEFAULT,
        ppm: tuple[int, ...] = (),
        configurations: tuple[Votes, ...] | None = None,
        *,
        boot: bool = True,
    ) -> None:
        self.t = 10_000 * MS
        self.rules = rules
        self.profile = profile
        self.latency = 200_000
        self.cut: set[tuple[int, int]] = set()
        self.delay: Callable[[int, int, Any], list[int]] | None = None
        self.tick_late: Callable[[Node], int] | None = None
        self.after_event: Callable[[], None] | None = None
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._incarnation = 100
        self._ticks: dict[int, int] = {}
        rates = ppm or (0,) * count
        self.nodes = {n: Node(n, rates[n - 1], 1_000_000 * MS * n) for n in range(1, count + 1)}
        numbers = tuple(self.nodes)
        self.configurations = configurations or (Votes(numbers, (1,) * count),)
        if boot:
            for node in self.nodes.values():
                self.boot(node)
            self.run(profile.promise_ms + profile.run_ms + 20)

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    # --- time ------------------------------------------------------------------------------------

    def at(self, instant: int, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (instant, self._serial, action))

    def after(self, milliseconds: float, action: Callable[[], None]) -> None:
        self.at(self.t + int(milliseconds * MS), action)

    def run(self, milliseconds: float) -> None:
        end = self.t + int(milliseconds * MS)
        while self._queue and self._queue[0][0] <= end:
            self.t, _, action = heapq.heappop(self._queue)
            action()
            if self.after_event:
                self.after_event()
        self.t = end

    def sleep(self, node: Node, milliseconds: float) -> None:
        """Suspend one machine: its RAW clock stands still, BOOTTIME goes on."""
        node.frozen = True
        self.run(milliseconds)
        node.asleep += int(milliseconds * MS)
        self.thaw(node)

    # --- guards ----------------------------------------------------------------------------------

    def configure(self, node: Node) -> Configure:
        return Configure(
            node=node.number,
            port=7,
            addresses=(f"10.0.0.{node.number}", f"10.0.1.{node.number}"),
            heartbeat=self.profile.heartbeat,
            promise=self.profile.promise,
            run=self.profile.run,
            kill=self.profile.kill,
            promise_longest=self.profile.promise,
            run_longest=self.profile.run,
            peers=tuple(
                PeerNode(n, (f"10.0.0.{n}", f"10.0.1.{n}")) for n in self.nodes if n != node.number
            ),
            configurations=self.configurations,
        )

    def boot(self, node: Node, written: Ballot = Ballot(1, 0, 0)) -> None:  # noqa: B008
        """Start a guard on the page that is there, and a daemon that configures it."""
        self._incarnation += 1
        node.life += 1
        node.inbox.clear()
        page = unpack_page(pack_page(node.page), BOOT) if node.page else None
        node.machine = LeaseMachine(
            boot_id=BOOT,
            incarnation=self._incarnation,
            page=page,
            now=node.now(self.t),
            rules=self.rules,
        )
        self._execute(node, node.machine.start(node.now(self.t)))
        self.event(node, DaemonSeen())
        self.order(node, DaemonHello(written))
        self.order(node, self.configure(node))

    def crash(self, node: Node, *, keep_page: bool) -> None:
        node.machine = None
        node.life += 1
        node.inbox.clear()
        if not keep_page:
            node.page = None

    def thaw(self, node: Node) -> None:
        node.frozen = False
        waiting, node.inbox = node.inbox, []
        self.event(node, waiting.pop(0) if waiting else Tick(self.progress(node)))
        for event in waiting:
            self.event(node, event)

    def freeze(self, node: Node) -> None:
        node.frozen = True
        node.excused = True

    def progress(self, node: Node) -> int:
        since = node.daemon_hangs_since
        return node.raw(self.t) if since is None else since

    def event(self, node: Node, event: Any) -> None:
        if node.machine is None:
            return
        if node.frozen:
            if isinstance(event, Heard):
                node.inbox.append(event)
            elif not isinstance(event, Tick):
                self.after(1, lambda: self.event(node, event))
            return
        self._execute(node, node.machine.step(node.now(self.t), event))

    def order(self, node: Node, command: Any) -> None:
        self.event(node, Commanded(command))

    def daemon_dies(self, node: Node) -> None:
        self.event(node, DaemonGone())

    def _execute(self, node: Node, effects: list[Any]) -> None:
        life = node.life
        for effect in effects:
            if node.life != life:
                return
            node.effects.append(effect)
            self._effect(node, effect)
            if node.crash_at and node.crash_at(effect):
                node.crash_at = None
                self.crash(node, keep_page=True)
        if node.machine is not None and node.life == life:
            self._schedule_tick(node)

    def _effect(self, node: Node, effect: Any) -> None:
        match effect:
            case WritePage():
                node.page = effect.page
            case SendPeer():
                self._send(node, effect)
            case Tell():
                if not isinstance(effect.report, LinkReport | RosterReport):
                    node.reports.append(effect.report)
                if node.on_report:
                    node.on_report(effect.report)
            case ArmGate():
                raw = node.raw(self.t)
                accepted = not effect.renewal or node.gate_until > raw
                if accepted:
                    node.gate_until = effect.until
                armed = Armed(effect.lease, effect.until, raw, raw, accepted)
                self.at(self.t, lambda: self.event(node, armed))
            case Disarm():
                node.gate_until = 0
            case StopAll():
                if not node.stuck:
                    self.after(node.stop_ms, lambda: self._stopped(node, effect.lease, node.life))
            case Reboot():
                node.rebooted = True

    def _stopped(self, node: Node, lease: int, life: int) -> None:
        if node.frozen:
            self.after(node.stop_ms, lambda: self._stopped(node, lease, life))
            return
        if life == node.life:
            node.running, node.excused = 0, False
            self.event(node, Stopped(lease))

    def _send(self, node: Node, effect: SendPeer) -> None:
        if (node.number, effect.node) in self.cut:
            return
        latencies = (
            self.delay(node.number, effect.node, effect.message) if self.delay else [self.latency]
        )
        heard = Heard(node.number, max(effect.link, 0), effect.message)
        for latency in latencies:
            self.at(self.t + latency, lambda: self.event(self.nodes[effect.node], heard))

    def _schedule_tick(self, node: Node) -> None:
        assert node.machine is not None
        late = self.tick_late(node) if self.tick_late else 0
        instant = max(self.t + 1, node.when(node.machine.deadline()) + late)
        planned = self._ticks.get(node.number, 0)
        if self.t < planned <= instant:
            return
        self._ticks[node.number] = instant
        self.at(instant, lambda: self._tick(node, instant))

    def _tick(self, node: Node, instant: int) -> None:
        if self._ticks.get(node.number) != instant:
            return
        self._ticks[node.number] = 0
        if node.machine is not None and not node.frozen:
            self.event(node, Tick(self.progress(node)))

    # --- what tests ask for ----------------------------------------------------------------------

    def isolate(self, number: int) -> None:
        for other in self.nodes:
            self.cut |= {(number, other), (other, number)}

    def heal(self) -> None:
        self.cut.clear()

    def fence(self, numbers: tuple[int, ...], ballot: Ballot) -> list[Any]:
        """Ask guards; return the answers."""
        answers = []
        for number in numbers:
            self.order(self[number], Fence(ballot))
            answers.append(self[number].reports[-1])
        return answers

    def elect(self, number: int, voters: tuple[int, ...], barred: tuple[int, ...] = ()) -> Ballot:
        """Fence a new ballot on the voters; take office in it if all of them allow it."""
        highest = max(node.page.floor.round for node in self.nodes.values() if node.page)
        ballot = Ballot(1, highest + 1, number)
        answers = self.fence(voters, ballot)
        if all(isinstance(answer, Fenced) for answer in answers):
            self.order(self[number], TakeOffice(ballot, barred))
        return ballot

    def open(self, ballot: Ballot, number: int, lease: int) -> None:
        self.order(self[ballot.node], OpenLease(ballot, number, lease, 5))

    def leading(self, number: int) -> bool:
        """Whether this node would act as leader now, were it asked."""
        page = self[number].page
        return bool(page and page.office.node and self[number].raw(self.t) < page.leader_end)

    def holds_lease(self, number: int) -> bool:
        """Whether something may run on the node now by its page."""
        page = self[number].page
        return bool(page and page.gate and self[number].raw(self.t) < page.lease_end)

    def cluster(self) -> Ballot:
        """Elect node 1 with all votes and open leases 11, 12, 13 ... on all nodes."""
        ballot = self.elect(1, tuple(self.nodes))
        self.run(5)
        for number in self.nodes:
            self.open(ballot, number, 10 + number)
        self.run(2 * self.profile.heartbeat_ms)
        return ballot


class Watch:
    """Looks at the world after every event and notes what must never be."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.harm: list[str] = []
        self._away: dict[int, int] = {}
        self._seen = {number: len(node.reports) for number, node in bench.nodes.items()}
        bench.after_event = self.look

    def look(self) -> None:
        bench = self.bench
        leaders = [number for number in bench.nodes if bench.leading(number)]
        if len(leaders) > 1:
            self.harm.append(f"leader leases of nodes {leaders} valid at once")
        for number, node in bench.nodes.items():
            raw = node.raw(bench.t)
            if node.page and node.running and not node.excused and raw > node.page.lease_end:
                self.harm.append(f"node {number} runs {raw - node.page.lease_end} ns past its end")
            fresh, self._seen[number] = node.reports[self._seen[number] :], len(node.reports)
            for report in fresh:
                if isinstance(report, NodeAway) and bench.nodes[report.node].page:
                    away = bench.nodes[report.node].page
                    assert away is not None
                    self._away[report.node] = max(away.lease, away.lease_closed, report.lease)
        for number, lease in self._away.items():
            page = bench.nodes[number].page
            if page and page.lease > lease:
                continue
            if bench.holds_lease(number) or bench.nodes[number].running:
                self.harm.append(f"node {number} was reported away and holds a lease or runs")
