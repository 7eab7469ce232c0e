"""One node of the search with time: quorum core and lease machine, both real.

Time goes by in steps of H, and P is three of them. What binds for P is over after four steps, what
is held for P is over after three, as clocks may differ; durations below H pass within a step.
"""

from __future__ import annotations

from tests.explore.quorum_node import NOW, QuorumNode

from leitwolf.core.lease import (
    Armed,
    ArmGate,
    Commanded,
    DaemonSeen,
    Heard,
    LeaseEffect,
    LeaseEvent,
    LeaseMachine,
    SendPeer,
    StopAll,
    Stopped,
    Tell,
    Tick,
    WritePage,
)
from leitwolf.core.messages import QuorumMessage
from leitwolf.core.rules import Rules
from leitwolf.model.quorum import QuorumConfig
from leitwolf.wire.ballot import NO_BALLOT, Now
from leitwolf.wire.guard import (
    Configure,
    DaemonHello,
    GuardCommand,
    GuardHello,
    PeerNode,
    Streams,
    Votes,
)
from leitwolf.wire.heartbeat import PeerMessage
from leitwolf.wire.page import LeasePage

MS = 1_000_000
H, P, R, K = 100 * MS, 300 * MS, 600 * MS, 20 * MS
BOOT = bytes(range(16))


class LeaseNode(QuorumNode):
    """Adds the guard; ``now`` is set before every event."""

    promise_ns = P

    def __init__(self, number: int, nodes: int, config: QuorumConfig, rules: Rules) -> None:
        page = LeasePage(boot_id=BOOT)
        clocks = Now(NOW, NOW)
        self.machine = LeaseMachine(
            boot_id=BOOT, incarnation=number, page=page, now=clocks, rules=rules
        )
        super().__init__(number, nodes, config, rules)
        self._do(self.machine.start(clocks))

    def _greet(self) -> None:
        self.tell_guard(DaemonSeen())
        self.tell_guard(Commanded(DaemonHello(self.core.written)))
        others = tuple(node for node in range(1, self.nodes + 1) if node != self.number)
        config = self.config
        votes = Votes(
            tuple(acceptor.id.node for acceptor in config.acceptors),
            tuple(acceptor.weight for acceptor in config.acceptors),
        )
        configure = Configure(
            node=self.number,
            port=1,
            addresses=("a",),
            heartbeat=H,
            promise=P,
            run=R,
            kill=K,
            promise_longest=P,
            run_longest=R,
            peers=tuple(PeerNode(node, ("a",)) for node in others),
            configurations=(votes,),
        )
        self.tell_guard(Commanded(configure))
        self.tell_guard(Commanded(Streams(others)))

    def ask(self, command: GuardCommand) -> None:
        self.tell_guard(Commanded(command))
        self.core.tick(self.now)  # the daemon looks at the page again

    def receive(self, sender: int, message: QuorumMessage | PeerMessage) -> None:
        """A message of another node came in, for the guard or for the daemon."""
        if isinstance(message, PeerMessage):
            self.tell_guard(Heard(sender, 0, message))
            self.core.tick(self.now)  # the daemon looks at the page again
        else:
            super().receive(sender, message)

    def wake(self) -> None:
        """Do what is due: first the guard, then the daemon."""
        if self.machine.deadline() <= self.now:
            self.tell_guard(Tick(self.now))
        if self.core.deadline() <= self.now:
            self.core.tick(self.now)

    def may_campaign(self, rounds_max: int) -> bool:
        """Its own timers alone make it campaign."""
        return False

    def wakes_at(self) -> int:
        """Return when time alone demands something."""
        return min(self.machine.deadline(), self.core.deadline())

    def tell_guard(self, event: LeaseEvent) -> None:
        self._do(self.machine.step(Now(self.now, self.now), event))

    def _do(self, effects: list[LeaseEffect]) -> None:
        for effect in effects:
            match effect:
                case WritePage():
                    self.page.value = effect.page
                case SendPeer():
                    self.output.guard.append((effect.node, effect.message))
                case Tell() if hasattr(self, "core") and not isinstance(effect.report, GuardHello):
                    self.core.guard(self.now, effect.report)
                case ArmGate():
                    now = self.now
                    self.tell_guard(Armed(effect.lease, effect.until, now, now, accepted=True))
                case StopAll():
                    self.tell_guard(Stopped(effect.lease))
                case _:
                    pass

    def leads_until(self) -> int:
        """Return the end of the leader lease, 0: there is none."""
        page = self.page.value
        return page.leader_end if page.office != NO_BALLOT else 0
