"""The cluster core of one node: composes quorum, membership and policy; the only way in.

Rules:

- :meth:`Node.step` is a pure function of the node's state and the event; the driver (daemon or
  simulator) executes the effects in the order that :mod:`leitwolf.core.executor` keeps.
- ``state`` is the fold of what is committed. It alone is shown to users and given to the host.
- Only the node in office decides (:mod:`leitwolf.core.governor`); it decides on the fold of its
  whole log, and nothing before its own first entry is applied.

Theory of operation: every event first goes to the part that it concerns; then :meth:`_settle` lets
the consequences run out (signals of the quorum core, decisions of the leader, orders to the own
host) until nothing new comes.

What this does not guarantee: timeliness. Leases are the guard's; this core may be late or dead
without two owners arising from it.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_

import msgspec

from leitwolf.core.acquaintances import Acquaintances
from leitwolf.core.effects import (
    Applied,
    AskGuard,
    Durable,
    Effect,
    Event,
    FromGuard,
    FromHost,
    FromPeer,
    FromWitness,
    GuardLost,
    HostLost,
    PeerLost,
    PeerSeen,
    PeerUp,
    Reply,
    Requests,
    Send,
    Tick,
    only_replicated,
)
from leitwolf.core.force import Force
from leitwolf.core.governor import Governor
from leitwolf.core.histories import Verdict, judge
from leitwolf.core.membership import acting, guard_configuration
from leitwolf.core.membership.paths import Paths
from leitwolf.core.membership.roster import newest_config, with_timing_of
from leitwolf.core.messages import ForceMessage
from leitwolf.core.own_host import OwnHost
from leitwolf.core.quorum import (
    Behind,
    Committed,
    Elected,
    LeaderSeen,
    MayLead,
    QuorumCore,
    Restored,
    SteppedDown,
    TransferFailed,
)
from leitwolf.core.requests import RequestRouter
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.errors import check
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import NODES_MAX, SNAPSHOT_ENTRIES
from leitwolf.model.log import Entry, Loaded, Snapshot
from leitwolf.model.observations import (
    Acquaint,
    Forward,
    ForwardAnswer,
    NodeReport,
    PathReport,
    Seen,
)
from leitwolf.model.quorum import AcceptorId
from leitwolf.model.state import Node as MemberNode
from leitwolf.model.state import State
from leitwolf.state import decode, digest, encode, fold, fold_all, fold_loaded
from leitwolf.wire.guard import (
    Configure,
    DaemonHello,
    GuardHello,
    LeaseClosed,
    LeaseOpened,
    LinkReport,
    Streams,
)
from leitwolf.wire.lineage import Lineage
from leitwolf.wire.page import LeasePage

__all__ = ["Node"]


class Node:
    """One node of the cluster, without clock, disk and network."""

    def __init__(
        self,
        *,
        me: AcceptorId,
        loaded: Loaded,
        page: Callable[[], LeasePage | None],
        now: int,
        snapshot_entries: int = SNAPSHOT_ENTRIES,
        rules: Rules = ALL_RULES,
        boot: int = 0,
        lineage: Lineage = (),
        join_only: bool = False,
    ) -> None:
        """Continue from what the log holds.

        Args:
            me: this node with its storage.
            loaded: contents of the quorum log; empty on a node that has just joined.
            page: reads the guard's page; None while there is none.
            now: CLOCK_MONOTONIC_RAW in ns.
            snapshot_entries: take a snapshot after so many entries.
            rules: switched off one by one in tests.
            boot: random number of this process (64 bits).
            lineage: of the history that this node is in, where the log does not say more.
            join_only: neither lead nor help to until a leader is heard (prevented quorum).
        """
        self.me = me.node
        self._page, self._rules, self._snapshot_entries = page, rules, snapshot_entries
        self.state, self._foreseen = fold_loaded(loaded)
        self.quorum = QuorumCore(
            me=me,
            loaded=loaded,
            config=newest_config(loaded, self.state),
            page=lambda: page() or LeasePage(),
            promise_ns=acting(self.state, rules).promise,
            now=now,
            rules=rules,
            boot=boot,
            snapshot=self._snapshot,
            evicted=self._evicted,
            lineage=max(lineage, loaded.lineage, self._foreseen.lineage, key=len),
            join_only=join_only,
        )
        self._newest: Snapshot | None = None
        self.governor: Governor | None = None
        self.paths, self._acquaintances = Paths(), Acquaintances(self.quorum.holds)
        self.connected: set[NodeId] = set()
        self.behind: dict[NodeId, int] = {}
        """Nodes that have entries which this one lacks, with the index that they know (R2)."""
        self._effects: list[Effect] = []
        self.force = Force(
            self.quorum, page=page, behind=self.behind, ahead=self._ahead, own=lambda: self.history
        )
        self._router = RequestRouter(self, self.force)
        self._configured: Configure | None = None
        self._configured_by: tuple[object, ...] = ()
        """What the guard was configured from: tables are copied when they change."""
        self._profile_lags = False
        """The guard waits for the profile of an entry that is not on the disk yet."""
        self._streams_told: set[NodeId] | None = None
        self._host = OwnHost(self.me, now)
        self._now = self._applied_at = now
        self._wall_base = -now
        self._snapshot_index = loaded.snapshot.last.index if loaded.snapshot else 0
        self._caught_up = False

    # --- the way in ------------------------------------------------------------------------------

    def step(self, now: int, event: Event) -> list[Effect]:
        """Take in one event and return what is to be done about it, in order."""
        self._now = now
        match event:
            case Tick():
                self._wall_base = event.wall - now
                self.quorum.tick(now)
                if self.force.tick(now, event.wall):
                    self._begin_history(now)
            case FromPeer():
                self._from_peer(now, event)
            case FromGuard():
                self._from_guard(now, event)
            case GuardLost():
                self._configured = self._streams_told = None
                self.quorum.guard_lost(now)
                self._tell_paths(self.paths.deaf())
            case FromHost():
                self._host.reported(now, event.report, self.state)
            case HostLost():
                self._host.lost()
            case Durable():
                self.quorum.durable(now, event.position)
            case FromWitness():
                self.quorum.witness(now, event.node, event.serial, event.started, event.result)
                self._tell_paths(self.paths.note(self.quorum.passives, self._wall_base))
            case PeerUp():
                self._peer_up(now, event)
            case PeerLost():
                self.force.peer_lost(now, NodeId(event.node))
                self._peer_lost(now, NodeId(event.node))
            case PeerSeen():
                self.force.ears.note(now, event.node)
            case Requests():
                for request in event.requests:
                    self._wall_base = request.wall - now
                    self._router.request(now, request)
        self._settle(now, replicated=only_replicated(event))
        effects, self._effects = self._effects, []
        return effects

    def deadline(self) -> int:
        """Return the instant at which the next Tick is needed at the latest."""
        instants = [self.quorum.deadline(), self._host.tell_at, self.force.deadline(self._now)]
        if self.governor is not None and self.in_charge and self.governor.plan_at >= 0:
            instants.append(self.governor.plan_at)
        return min(instants)

    def cluster_time(self, now: int) -> int:
        """Return cluster time as far as this node can tell: that of the last entry, gone on."""
        return self.state.time + max(0, now - self._applied_at)

    @property
    def leader(self) -> NodeId:
        """The node in office as far as this one knows, 0: none."""
        return NodeId(self.quorum.leader)

    @property
    def foreseen(self) -> State:
        """The newest state that the log holds, committed or not: whom to hear, not what to do."""
        if self.governor is not None:
            return self.governor.ahead
        return self._acquaintances.widen(max(self.state, self._foreseen, key=lambda one: one.index))

    @property
    def acquainted(self) -> dict[int, MemberNode]:
        """Nodes to talk to: members by the committed state, and those that are being added."""
        return {**self.state.nodes, **self.foreseen.nodes}

    @property
    def history(self) -> HistoryStanding:
        """In which history this node is, as it tells others."""
        lineage, state = self.quorum.lineage, self.state
        if state.lineage == lineage or not self.quorum.last_key.index:
            return HistoryStanding(lineage=lineage, forced=state.forced)
        begun = self._foreseen.lineage == lineage
        voting = self.quorum.config.acceptors if begun else ()
        named = tuple(acceptor.id.node for acceptor in voting)
        return HistoryStanding(lineage=lineage, established=False, named=named)

    @property
    def in_charge(self) -> bool:
        """This node leads and has applied its own first entry."""
        return self.governor is not None and self.governor.in_charge

    # --- events ----------------------------------------------------------------------------------

    def _peer_up(self, now: int, event: PeerUp) -> None:
        """A stream is up: talk to who is in the same history (others only force, or are forced)."""
        node = NodeId(event.node)
        self.force.peer_up(now, node, event.history)
        verdict = judge(self.me, self.history, node, event.history, self._rules)
        if verdict is Verdict.SAME:
            self.connected.add(node)
            self.quorum.peer_up(now, node)
            self._host.tell_again()
            self._router.reached(now, node)
            self._send(node, self.paths.greeting())
        elif not self.history.established:
            self.force.begun(self.quorum.entries_after(self.state.index))
            self.force.reached(now)

    def _peer_lost(self, now: int, node: NodeId) -> None:
        if node in self.connected:
            self.paths.lost(node)
            self._acquaintances.lost(node)
            self.connected.discard(node)
            self.quorum.peer_lost(now, node)
            self._router.lost(node)

    def _part(self, now: int) -> None:
        """This node is in another history now: who is not is no peer any more."""
        for node in sorted(self.connected):
            self._peer_lost(now, node)

    def _from_peer(self, now: int, event: FromPeer) -> None:
        node = NodeId(event.node)
        self.force.ears.note(now, node)
        if isinstance(event.message, ForceMessage):
            if self.force.receive(now, node, event.message):
                self._part(now)
            return
        if node in self.force.peers and node not in self.connected:
            return  # of another history
        match event.message:
            case PathReport() as paths:
                answered = self.paths.heard(node, paths)
                if answered is not None:
                    self._send(node, answered)
            case Seen():
                if self.governor is not None:
                    self.governor.observe(node, event.message.reports)
            case Forward() as forward:
                self._router.forwarded(now, self._wall(now), node, forward)
            case ForwardAnswer() as answer:
                self._router.answered(node, answer)
            case Acquaint() as acquaint:
                self._acquaintances.heard(acquaint)
            case message:
                self._effects += self._acquaintances.answer(node, message, self.state)
                self.quorum.receive(now, node, message)

    def _from_guard(self, now: int, event: FromGuard) -> None:
        report = event.report
        if isinstance(report, LinkReport):
            self.force.ears.links(now, report)
            self._tell_paths(self.paths.hear(now, report, self.foreseen, self._wall_base))
            return
        if isinstance(report, GuardHello):
            self._ask(DaemonHello(self.quorum.written))
            self._configured = self._streams_told = None
        if isinstance(report, LeaseOpened | LeaseClosed):
            self._host.forget_orders()
        if self.governor is not None:
            self.governor.guard(now, report)
        self.quorum.guard(now, report)

    # --- consequences ----------------------------------------------------------------------------

    def _settle(self, now: int, *, replicated: bool) -> None:
        signals = self.quorum.take_signals()
        waiting = self._profile_lags or (self.governor is not None and self.governor.waiting)
        if replicated and not signals and not waiting:
            # Half of all events say only that one more disk has an entry: nothing follows of it.
            self._collect(self.quorum.take_effects())
            return
        if self.governor is not None and now >= self._host.tell_at:
            self._observe_self()
        self._collect([*self._router.take_effects(), *self.force.take_effects()])
        while True:
            for signal in signals:
                self._signal(now, signal)
            acted = self._govern(now)
            if not signals:
                break
            signals = self.quorum.take_signals()
            if not signals and not acted:
                break  # the same question has the same answer
        self._configure_guard()
        if self.connected != self._streams_told:
            self._streams_told = set(self.connected)
            self._ask(Streams(tuple(sorted(self.connected))))
        self._run_local(now)
        self._collect(self.quorum.take_effects())
        self._compact(now)

    def _begin_history(self, now: int) -> None:
        """A quorum was forced here just now: the log ends with the first entry of a new history."""
        self._part(now)
        self._foreseen = self._ahead()

    def _ahead(self) -> State:
        """Return the fold of the whole log."""
        return fold_all(self.state, self.quorum.entries_after(self.state.index))

    def _govern(self, now: int) -> bool:
        """Let the leader do what is to be done; return whether that was anything."""
        governor = self.governor
        if governor is None:
            return False
        ahead = governor.ahead
        governor.govern(now, self._wall(now), self.connected)
        effects = governor.take_effects()
        self._collect(effects)
        return bool(effects) or governor.ahead is not ahead

    def _collect(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Reply):
                self._router.replied(effect.id)
            elif isinstance(effect, Send) and isinstance(effect.message, ForwardAnswer):
                self._router.told(self._now, NodeId(effect.node), effect.message)
            self._effects.append(effect)

    def _signal(self, now: int, signal: object) -> None:
        match signal:
            case MayLead():
                self.governor = Governor(
                    quorum=self.quorum,
                    me=self.me,
                    now=now,
                    committed=self.state,
                    signal=signal,
                    own_lease=(self._page() or LeasePage()).lease,
                    told=self.paths.others,
                    rules=self._rules,
                )
                self._collect(self.governor.take_effects())
            case Elected():
                if self.governor is not None and self.governor.ballot == signal.ballot:
                    self.governor.begin(now, self._wall(now), self.connected)
                    self._observe_self()
            case Committed():
                self._committed(now, signal.entries)
            case Restored():
                self.state = decode(signal.snapshot.state)
                self._snapshot_index = signal.snapshot.last.index
            case SteppedDown():
                if self.governor is not None and self.governor.ballot <= signal.ballot:
                    self.governor.end(signal.reason)
                    self._collect(self.governor.take_effects())
                    self.governor = None
            case TransferFailed():
                if self.governor is not None:
                    self.governor.transfer_failed(signal)
                    self._collect(self.governor.take_effects())
            case LeaderSeen():
                self.quorum.joined()
                self.behind.clear()
                self._host.tell_at = 0
            case Behind():
                index = max(signal.key.index, self.behind.get(NodeId(signal.node), 0))
                self.behind[NodeId(signal.node)] = index

    def _committed(self, now: int, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            self.state = fold(self.state, entry)
        self._applied_at = now
        self._effects.append(Applied(entries=entries))
        if self.governor is not None:
            self.governor.committed(now, entries)
            self._collect(self.governor.take_effects())
        self.force.committed(entries)
        self._collect(self.force.take_effects())

    def _configure_guard(self) -> None:
        """Tell the guard who votes from the moment that a configuration is appended."""
        newest = self.foreseen
        self._profile_lags = self.quorum.durable_index < newest.profile_set
        basis = (
            self._profile_lags,
            self.history.established,
            self.quorum.lineage,
            newest.nodes,
            newest.networks,
            newest.port,
            newest.profile,
            newest.profile_former,
            self.state.nodes,
            self.quorum.config,
            self.governor is None,
        )
        if self._configured is not None and all(map(is_, basis, self._configured_by)):
            return
        self._configured_by = basis
        if self.governor is None:  # a removal counts when it is committed
            newest = msgspec.structs.replace(newest, nodes=self.acquainted)
        configuration = guard_configuration(
            newest, self.quorum.config, self.me, self._rules, history=self.history
        )
        if configuration is not None and self._profile_lags:
            # A guard that lost its page waits by what is on the disk then.
            configuration = self._configured and with_timing_of(configuration, self._configured)
        self.quorum.set_profile(acting(newest, self._rules))
        if configuration is not None and configuration != self._configured:
            self._configured = configuration
            self._ask(configuration)

    def _send(self, node: NodeId, message: NodeReport) -> None:
        self._effects.append(Send(node=node, message=message))

    def _ask(self, command: Configure | DaemonHello | Streams) -> None:
        self._effects.append(AskGuard(command=command))

    def _run_local(self, now: int) -> None:
        """Order the own host by the committed state, and tell the leader what it reported."""
        page = self._page()
        if page is not None and self.current:
            self._effects += self._host.orders(self.state, page)
        if self.governor is None and self.leader in self.connected:
            seen = self._host.tell(now, self.state, self.leader)
            if seen is not None:
                self._send(self.leader, seen)
        self._host.rest(now)

    @property
    def current(self) -> bool:
        """Whether the state is not older than what was committed when this daemon started.

        After a start the fold reaches only to a hint. Until a live leader (or the own first entry)
        shows where the log is, orders by it could stop what has been started since.
        """
        if not self._caught_up:
            named = self.quorum.named_commit
            self._caught_up = self.in_charge or 0 <= named <= self.state.index
        return self._caught_up

    def _tell_paths(self, report: PathReport | None) -> None:
        if report is not None:
            for node in sorted(self.connected):
                self._send(node, report)

    def _observe_self(self) -> None:
        if self.governor is None:
            return
        seen = self._host.differences(self.state)
        if seen is not None:
            self.governor.observe(self.me, seen.reports)

    def _compact(self, now: int) -> None:
        if self.state.index - self._snapshot_index < self._snapshot_entries:
            return
        self._snapshot_index = self.state.index
        snapshot = self._snapshot()
        check(snapshot is not None, "a committed state has a quorum configuration")
        if snapshot is not None:
            self.quorum.compact(now, snapshot)
            self._collect(self.quorum.take_effects())

    def _snapshot(self) -> Snapshot | None:
        """Return a snapshot of what is committed here; None: nothing is."""
        state = self.state
        if state.quorum is None:
            return None
        if self._newest is None or self._newest.last.index != state.index:
            self._newest = Snapshot(
                last=self.quorum.key_at(state.index),
                config=state.quorum,
                state=encode(state),
                state_hash=digest(state),
            )
        return self._newest

    def _evicted(self) -> tuple[int, ...]:
        """Return the numbers of nodes that are members no more, of those that have a slot."""
        known = range(1, min(self.state.node_serial, NODES_MAX) + 1)
        return tuple(node for node in known if node not in self.state.nodes)

    def _wall(self, now: int) -> int:
        return now + self._wall_base
