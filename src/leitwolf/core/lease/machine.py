"""The lease machine: what the guard decides. The guard process and the simulator run it.

Rules:
    L1-L9, L11-L13, R5 and I13 of the quorum specification, as far as they bind the guard. Each
    part states its own: ``acceptor`` (promises), ``office`` and ``roster`` (the leader's side),
    ``runlease`` (the node's side), ``links`` (state of the interconnects), ``histories`` (L11).

Theory of operation:
    One event at a time; effects are executed in their order, each finished before the next. Every
    step begins with what time alone demands: a guard that was frozen closes what is over before it
    answers anybody. Instants are CLOCK_MONOTONIC_RAW of this node in ns.

What this does not guarantee:
    Anything about the log; ``core/quorum`` does. Messages are believed to be authentic: the driver
    checked that (AEAD, replay window).
"""

from __future__ import annotations

from collections.abc import Iterable

from leitwolf.core.lease.acceptor import Acceptor
from leitwolf.core.lease.effects import (
    Armed,
    Commanded,
    DaemonGone,
    DaemonSeen,
    Heard,
    LeaseEffect,
    LeaseEvent,
    SendPeer,
    Stopped,
    Tick,
)
from leitwolf.core.lease.histories import Histories
from leitwolf.core.lease.ledger import NEVER, PROMISE_NS_MAX, LeaseError, Ledger
from leitwolf.core.lease.links import Links
from leitwolf.core.lease.office import Incumbent
from leitwolf.core.lease.runlease import RunLease
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.wire.ballot import NO_BALLOT, Now, successor
from leitwolf.wire.guard import (
    Back,
    Configure,
    DaemonHello,
    Exclude,
    Fence,
    Follow,
    GuardCommand,
    GuardHello,
    LeaseOpened,
    OpenLease,
    Release,
    StopEverything,
    Streams,
    TakeOffice,
)
from leitwolf.wire.heartbeat import Ack, Heartbeat, Outbid, PeerMessage, Probe, ProbeReply
from leitwolf.wire.page import LeasePage

__all__ = ["LeaseMachine"]

IDLE_NS = 1_000_000_000
"""Longest time between two ticks, so that a suspend is noticed also when nothing is due."""


class LeaseMachine:
    """One guard process.

    Args:
        boot_id: id of this boot; a page of another boot is no page.
        incarnation: random number of this process, never used before on this node.
        page: the page as its predecessor left it; None: there is none (L3).
        now: the clocks.
        rules: all, except in tests.
    """

    def __init__(
        self,
        *,
        boot_id: bytes,
        incarnation: int,
        page: LeasePage | None,
        now: Now,
        rules: Rules = ALL_RULES,
    ) -> None:
        self._remembers = page is not None and page.boot_id == boot_id
        if page is None or not self._remembers:
            page = LeasePage(
                boot_id=boot_id, fence_from=NEVER, forgot_until=NEVER, drift=now.boot - now.raw
            )
        self._ledger = Ledger(page._replace(incarnation=incarnation), incarnation, now, rules)
        self._acceptor = Acceptor(self._ledger)
        self._runlease = RunLease(self._ledger)
        self._office = Incumbent(self._ledger, self._acceptor, self._runlease)
        self._links = Links(self._ledger)
        self._histories = Histories(self._ledger, self._runlease, self._office)
        self._streams: frozenset[int] = frozenset()
        self._peers: frozenset[int] = frozenset()
        """The nodes of the configuration, this one excepted."""

    @property
    def page(self) -> LeasePage:
        """The page as it is after the effects returned so far."""
        return self._ledger.page

    def start(self, now: Now) -> list[LeaseEffect]:
        """Begin: what is over is closed first; without a page everything is stopped (L3, L9)."""
        ledger = self._ledger
        ledger.begin(now)
        page = ledger.page
        if page.office != NO_BALLOT:
            # The roster went with the predecessor, so its ballot cannot be held again (L4).
            floor = max(page.floor, successor(page.office))
            ledger.change(office=NO_BALLOT, leader_end=0, floor=floor)
            self._office.inherit(page.office)
        self._notice_sleep()
        self._runlease.start(remembers=self._remembers)
        return ledger.finish()

    def step(self, now: Now, event: LeaseEvent) -> list[LeaseEffect]:
        """Take one event.

        Returns:
            Effects, to be executed in this order.

        Raises:
            LeaseError: the clock went back, or the daemon contradicts itself; never for what
                another node sent.
        """
        self._ledger.begin(now)
        self._notice_sleep()
        self._runlease.overdue()
        self._office.overdue()
        self._take(event)
        self._office.check()
        self._office.due()
        self._links.due()
        return self._ledger.finish()

    def deadline(self) -> int:
        """Return the RAW ns at which the next Tick is needed at the latest."""
        return min(
            self._runlease.deadline(),
            self._office.deadline(),
            self._links.deadline(),
            self._ledger.raw + IDLE_NS,
        )

    def _notice_sleep(self) -> None:
        """L1: after a suspend every lease of the node is over."""
        if self._runlease.slept():
            self._runlease.close("slept")
            self._office.end("slept")
            self._ledger.change(drift=self._ledger.drift)

    # --- events ----------------------------------------------------------------------------------

    def _take(self, event: LeaseEvent) -> None:
        match event:
            case Tick():
                self._office.progress(event.daemon_progress)
            case Heard():
                self._hear(event.sender, event.link, event.message)
            case Commanded():
                self._obey(event.command)
            case DaemonSeen():
                self._follow_streams(())
                self._office.abandon("daemon-restarted")
                self._ledger.tell(GuardHello(self._ledger.incarnation, self._remembers))
            case DaemonGone():
                self._follow_streams(())
                self._office.abandon("daemon-gone")
            case Armed():
                self._runlease.armed(event)
            case Stopped():
                if self._runlease.stopped(event.lease):
                    self._office.own_stopped(event.lease)

    def _hear(self, sender: int, link: int, message: PeerMessage) -> None:
        if sender not in self._peers:
            return
        self._links.heard(sender, link)
        match message:
            case Heartbeat():
                self._answer(sender, link, message)
            case Ack():
                self._office.ack(sender, link, message)
            case Outbid():
                self._office.outbid(sender, message)
            case Probe():
                reply = ProbeReply(message.sent, message.incarnation)
                self._ledger.emit(SendPeer(sender, reply, link))
            case ProbeReply():
                self._links.reply(sender, link, message)

    def _answer(self, sender: int, link: int, message: Heartbeat) -> None:
        """Renew the promise and the run-lease as a leader asks; answer where it came from."""
        ledger = self._ledger
        if message.ballot.node != sender or not self._histories.admits(sender, message):
            return
        if not self._acceptor.awake:
            return
        if message.released:
            self._acceptor.free(message.ballot)
            return
        if not 0 <= message.promise <= PROMISE_NS_MAX:
            return
        if message.promise == 0:
            if message.ballot == ledger.page.floor:
                self._runlease.grant(message)
            return
        known = ledger.configuration is not None and (
            message.promise <= ledger.configuration.promise_longest
        )
        if not known and ledger.rules.holds("promise-known"):
            return
        if not self._acceptor.renew(message.ballot, message.promise, heard=True):
            ledger.emit(SendPeer(sender, Outbid(message.ballot, ledger.page.floor), link))
            return
        self._office.check()
        self._runlease.grant(message)
        ack = Ack(
            ballot=message.ballot,
            heartbeat_sent=message.sent,
            heartbeat_incarnation=message.incarnation,
            promise=message.promise,
            sent=ledger.raw,
            incarnation=ledger.incarnation,
            lease=ledger.page.lease,
            attested=self._runlease.attested(message.ballot),
            no_memory=self._acceptor.no_memory,
            apart=ledger.apart,
        )
        ledger.emit(SendPeer(sender, ack, link))

    # --- orders of the daemon --------------------------------------------------------------------

    def _obey(self, command: GuardCommand) -> None:
        match command:
            case DaemonHello():
                self._acceptor.learn(command.written)
                self._office.check()
                page = self._ledger.page
                if page.gate:
                    self._ledger.tell(LeaseOpened(page.lease, page.lease_index))
            case Configure():
                self._configure(command)
            case Fence():
                answer = self._acceptor.fence(command.ballot)
                self._office.check()
                self._ledger.tell(answer)
            case Follow():
                self._acceptor.follow(command.ballot)
            case TakeOffice():
                if not self._histories.superseded(command.ballot):
                    self._office.take(command)
            case Exclude():
                self._office.exclude(command)
            case OpenLease():
                self._office.open(command)
            case Release():
                self._office.release(command.ballot)
            case Back():
                self._office.back(command)
            case StopEverything():
                self._runlease.close(command.reason)
            case Streams():
                self._follow_streams(command.nodes)
            case _:
                # What hosts say is for the driver: it makes Stopped of it.
                return

    def _follow_streams(self, nodes: Iterable[int]) -> None:
        """Take with whom the daemon has streams; () while there is no daemon."""
        self._streams = frozenset(nodes)
        if self._ledger.configuration is not None:
            others = (peer.node for peer in self._ledger.configuration.peers)
            self._ledger.apart = tuple(node for node in others if node not in self._streams)

    def _configure(self, command: Configure) -> None:
        ledger = self._ledger
        former = ledger.configuration
        if former is not None and former.node != command.node:
            raise LeaseError(f"node {former.node} was configured as node {command.node}")
        if min(command.heartbeat, command.promise, command.run, command.kill) <= 0:
            raise LeaseError(f"timing profile without a duration: {command}")
        if any(len(votes.nodes) != len(votes.weights) for votes in command.configurations):
            raise LeaseError(f"votes without a weight: {command.configurations}")
        ledger.configuration = command
        self._peers = frozenset(peer.node for peer in command.peers)
        ledger.change(
            configured=True,
            heartbeat=command.heartbeat,
            promise=command.promise,
            run=command.run,
        )
        self._runlease.follow_kill()
        self._acceptor.learn(None)
        self._histories.configure(command.lineage)
        self._follow_streams(self._streams)
        self._links.configure(command)
        self._office.configure()
